"""What goes wrong in a simulated world, and how often.

Every rate is drawn per seed and each class of faults is off in half of the worlds, so that
rare mixes occur (TigerBeetle's "swarm testing").
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection

#: Classes of faults and what a world counts when one strikes.
CLASSES = (
    "disconnect",  # a connection drops with all that was in its pipes, and comes back
    "partition",  # like it, but two processes cannot reach each other for seconds
    "duplicate",  # a frame arrives twice, the second time late
    "delay",  # frames of one connection take up to a second, in order
    "crash",  # a worker or store ends with all that it has not stored, another one starts
    "ownercrash",  # a producer or broker ends with all that is not in its journal
    "powercut",  # with a process that crashes, what its journal had not synced is lost
    "slowdisk",  # commits to a journal take a second
    "diskfull",  # for a while journals take no new tasks
    "diskerror",  # commits to journals fail, some of them are done all the same
    "child",  # a pool process dies
    "pause",  # a loop makes no turns while its connections stay up
    "freeze",  # a whole process stops; its connections drop after the ZMTP timeout
    "silence",  # nothing arrives in one direction
    "candidates",  # discovery repeats itself, comes late, or tells of the dead
    "pubdrop",  # PUB drops messages, SUB connections break
    "slowstore",  # commits take seconds
    "foreign",  # something else listens where a worker was
    "gone_untold",  # nobody hears from the kernel that a process ended
)

#: What is there in some worlds only, beside faults.
FEATURES = (
    "once",  # tasks that are not idempotent, known to their callers as such or not
    "keys",  # calls are repeated with their idempotency key, by the same script or another one
    "nojournal",  # some scripts and workers have no journal
    "limits",  # scripts and brokers hold few open tasks
    "clocks",  # clocks begin anywhere, go wrong by a few percent, and tell other times of day
    "drain",  # brokers and workers are told to stop, and hand over what they own
    "writer",  # journals are written as in production, many batches in one commit
)
#: So often a world has each of them.
_FEATURE_RATE = 0.4

#: What is there only in worlds that are to have it.
SHAPES = (
    "alone",  # no brokers, unless there are some for "drain"
    "broker",  # tasks go by way of it if they can
    "brokers",  # two of them
    "curt",  # brokers end now and then before anybody has heard how their tasks ended
    "durable",  # tasks are on the disk when they are accepted
    "long",  # tasks take a while, and queue up
    "narrow",  # one worker
    "sluggish",  # a worker is frozen for long, and little is read in one turn
)


class Faults:
    """The rates of one world.

    Args:
        rng: drawn from in an order that does not depend on what is switched off.
        off: faults and features that must stay off (to find the smallest set that still fails).
        on: faults, features and shapes that must be there; such faults strike often.
    """

    def __init__(
        self, rng: random.Random, off: Collection[str] = (), on: Collection[str] = ()
    ) -> None:
        drawn = {name: (rng.random() < 0.5, rng.random()) for name in CLASSES}
        #: {class: intensity 0..1}, the classes that are on.
        self.on = {
            name: 0.5 + 0.5 * rate if name in on else 0.05 + 0.95 * rate
            for name, (is_on, rate) in drawn.items()
            if name in on or (is_on and name not in off)
        }
        extras = {name: (rng.random() < _FEATURE_RATE, rng.random()) for name in FEATURES}
        #: {feature: draws of its own}, so that one can be left out without a change to the rest.
        self.features = {
            name: random.Random(draw)
            for name, (is_there, draw) in extras.items()
            if name in on or (is_there and name not in off)
        }
        self.shapes = frozenset(on).intersection(SHAPES)
        self.fired: Counter[str] = Counter()

    def heal(self) -> None:
        """No more faults from now on."""
        self.on = {}

    def has(self, feature: str) -> bool:
        """This world has it."""
        return feature in self.features

    def count(self, name: str) -> None:
        """One has struck."""
        self.fired[name] += 1

    def rate(self, name: str, most: float) -> float:
        """The probability of this class's fault, at most ``most``; 0 when it is off."""
        return self.on.get(name, 0.0) * most
