"""What a dispatcher keeps: its open tasks, by kind, and the workers that hold them."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from zmqtasks.core.links import LinkId
from zmqtasks.core.owned import Durability, OwnedRecord
from zmqtasks.core.readytasks import ReadyTasks
from zmqtasks.core.requirements import addressee, offer_of, suits
from zmqtasks.limits import SETTLED_KEPT_COUNT_MAX
from zmqtasks.wire.messages import Hello, Kind, Outcome


class OwnedTask(msgspec.Struct):
    """A task that has not settled.

    It is in its lane's ``ready``, or: ``worker`` holds it, or it waits for its time
    (``is_waiting``), for the journal (``outcome``, ``is_noting``) or for a worker to claim it
    (``is_unsure``), or it is ``offered``.
    """

    id: bytes
    lane: Lane
    body: bytes
    ext: dict[str, Any] | None
    attempt: int = 1
    strikes: int = 0
    #: Where the attempt is.
    worker: WorkerLink | None = None
    #: True once the worker said that it runs.
    started: bool = False
    #: The outcome whose large payload is on its way.
    fetching: Outcome | None = None
    durability: Durability = Durability.MEMORY
    #: It is in the journal, or on its way there.
    is_written: bool = False
    #: The attempt that was asked back for an idle worker, 0 if none was.
    recalled: int = 0
    #: It goes on when the journal has what changed about it.
    is_noting: bool = False
    #: Its present attempt may be somewhere: after a restart of its owner.
    is_unsure: bool = False
    #: The journal knows that this attempt may have been given (only ``Lane.is_noted``).
    is_guarded: bool = False
    #: Its time has not come (``waiting.py``). With ``is_unsure`` it goes on as unclaimed then.
    is_waiting: bool = False
    #: This attempt was asked for by the one before it.
    is_retry: bool = False
    #: It settles with this once the journal has dropped it.
    outcome: Outcome | None = None
    #: Node that it is offered to, b"" if none: nobody else gets it meanwhile.
    offered: bytes = b""
    #: A node may have it in its journal that was told that ours does not: it works on it
    #: when we are gone, so ours must not have it then.
    is_fleeting: bool = False

    @property
    def may_be_written(self) -> bool:
        """The journal should have it if it stays open, and has not."""
        is_kept = self.is_written or self.offered or self.is_fleeting
        return not is_kept and self.outcome is None


class TakenTask(msgspec.Struct, frozen=True):
    """A task whose ownership has come here."""

    record: OwnedRecord
    #: Its attempt is in this very node's intake.
    is_held: bool


#: Key in a task's ``ext``: the attempt that asked for the next one. It has ended, so nobody
#: has it. Only of lanes that are noted.
ASKED_KEY = "ra"
#: Key in a task's ``ext``: a worker said that it is not idempotent, which its caller did not.
#: Set before it is given away for the first time, so no attempt without it can have run.
ONCE_KEY = "once"
#: Keys in a task's ``ext``: how often it was retried, and rejected to be run again.
RETRIES_KEY, REQUEUES_KEY = "n", "rq"
#: Key in a task's ``ext``: the number of its first attempt, when that is not 1.
FIRST_KEY = "at"


def count_in(ext: dict[str, Any] | None, key: str) -> int:
    """One of these counts."""
    found = (ext or {}).get(key)
    return found if isinstance(found, int) else 0


def may_have_started(task: OwnedTask) -> bool:
    """It is guarded and from the journal: its attempt may have been given to a worker."""
    return task.attempt > 0 and (task.ext or {}).get(ASKED_KEY) != task.attempt


def is_guarded(kind: Kind, ext: dict[str, Any] | None) -> bool:
    """Not idempotent: a task of this kind, with these facts, is not started twice."""
    if ext is not None and ONCE_KEY in ext:
        return True
    return bool(kind.ext) and dict(kind.ext).get("idem", 1) == 0


def is_noted(kind: Kind, ext: dict[str, Any] | None) -> bool:
    """Journals hear of an attempt of it before a worker gets it: it is not idempotent, or
    was called by its name alone, and then it may turn out not to be."""
    return not kind.digest or is_guarded(kind, ext)


class Lane:
    """The READY tasks of one kind, and the workers that can run them."""

    __slots__ = (
        "is_guarded",
        "is_learned",
        "is_noted",
        "kind",
        "node",
        "noting",
        "parked",
        "ready",
        "route",
        "unserved_since_ms",
        "warned",
        "workers",
    )

    def __init__(self, kind: Kind, route: str) -> None:
        self.kind = kind
        #: The only node (id in hex) that may run them, "" for any.
        self.node = addressee(kind)
        #: "direct", "broker" or "auto": who gets its tasks.
        self.route = route
        #: Not idempotent, says its caller: no task of it is started twice.
        self.is_guarded = is_guarded(kind, None)
        #: So says a worker that is or was there, and its caller did not.
        self.is_learned = False
        #: See the function of this name.
        self.is_noted = is_noted(kind, None)
        self.ready = ReadyTasks()
        #: Tasks that are ready when the journal has noted their attempt.
        self.noting = 0
        #: Tasks that wait for their time and may be given away meanwhile. Some may have gone.
        self.parked: deque[OwnedTask] = deque()
        self.workers: list[WorkerLink] = []
        #: Since when nobody in sight can run its tasks, -1 while that is not so.
        self.unserved_since_ms = -1
        self.warned = ""


class WorkerLink:
    """A worker as its tasks' owner sees it."""

    __slots__ = (
        "apart", "catalog", "demanded", "guarded", "held", "kept_back", "limit", "link", "offer",
        "paused", "peer", "queues", "refused", "sent", "slots", "unstored",
    )  # fmt: skip

    def __init__(self, link: LinkId, peer: Hello) -> None:
        self.link = link
        self.greeted(peer)
        #: {kind: until when it gets none, since it said so}.
        self.kept_back: dict[Kind, int] = {}
        #: Tasks sent in all on this link, and how many may be.
        self.sent = 0
        self.limit = 0
        self.paused = False
        #: The backlog last told to it.
        self.demanded = 0
        #: {task id: task} sent and not answered, oldest first.
        self.held: dict[bytes, OwnedTask] = {}
        #: The last one that it got of those that are kept apart.
        self.apart = b""
        #: ``(position, kind, task id)`` of settled outcomes that no store is known to
        #: have, oldest first; the outcomes are among the owner's kept ones.
        self.unstored: deque[tuple[int, Kind, bytes]] = deque(maxlen=SETTLED_KEPT_COUNT_MAX)

    def greeted(self, peer: Hello) -> None:
        """It is what it says of itself, from now on."""
        self.peer = peer
        self.slots = max(1, peer.slots)
        self.queues = frozenset(peer.queues)
        #: {(app, name): signature digest}
        self.catalog = {(entry.app, entry.name): entry.digest for entry in peer.catalog}
        #: {(app, name)} of those that are not idempotent.
        self.guarded = {(e.app, e.name) for e in peer.catalog if e.ext.get("idem", 1) == 0}
        #: Its tags and resources.
        self.offer = offer_of(peer.ext)
        #: {(app, name, queue)} that it gave back although it announced them.
        self.refused: set[tuple[str, str, str]] = set()

    @property
    def takes_apart(self) -> bool:
        """It has none of those that are kept apart."""
        return self.apart not in self.held

    def serves(self, kind: Kind) -> bool:
        """Can it run tasks of this kind?"""
        if (kind.app, kind.name, kind.queue) in self.refused:
            return False
        if kind.queue not in self.queues and not addressee(kind):
            return False
        digest = self.catalog.get((kind.app, kind.name))
        if digest is None or (kind.digest and digest and digest != kind.digest):
            return False
        return suits(kind, self.peer.node, self.offer)

    def guards(self, kind: Kind) -> bool:
        """Does it say that tasks of this kind are not idempotent?"""
        return (kind.app, kind.name) in self.guarded


def load_of(worker: WorkerLink) -> float:
    """Tasks held per slot, what others gave it included as far as it was heard."""
    return len(worker.held) / worker.slots
