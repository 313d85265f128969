"""Bugs planted on purpose that only worlds of beats show, see ``mutants.py``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from zmqtasks.core.beat import Beat
from zmqtasks.core.beatpeers import BeatPeers
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import FireTick
from zmqtasks.core.ticks import EntryTicks, Place
from zmqtasks.wire.beat import TickRecord
from zmqtasks.wire.messages import Outcome


def each_beat_has_its_own_ids() -> AbstractContextManager[Any]:
    """The id of a tick's task says which beat started it, so that two beats make two tasks."""
    real = Beat._submit

    def submit(self: Beat, place: Place) -> None:
        real(self, place)
        fire = self.effects.pop()
        assert isinstance(fire, FireTick)
        self.effects.append(fire._replace(id=self.node + fire.id[8:]))

    return mock.patch.object(Beat, "_submit", submit)


def all_beats_lead() -> AbstractContextManager[Any]:
    """Nobody looks whether another beat is there."""
    return mock.patch.object(BeatPeers, "leader", lambda self, *, with_us: self.node)


def what_a_lost_beat_started_is_left() -> AbstractContextManager[Any]:
    """The next leader goes on with what is due from then on."""
    return mock.patch.object(Beat, "_ask_about_orphans", return_value=None)


def the_next_leader_begins_now() -> AbstractContextManager[Any]:
    """What was due while nobody led is not looked for."""
    real = Beat._renew_entries

    def renew(self: Beat) -> None:
        real(self)
        for state in self.ledger.entries.values():
            state.upto_ms = max(state.upto_ms, self._wall_ms)

    return mock.patch.object(Beat, "_renew_entries", renew)


def an_heir_refuses_what_a_former_owner_gave_away() -> AbstractContextManager[Any]:
    """Who has a tick's task itself, and inherits that of another beat, takes one outcome only."""
    return mock.patch.object(Dispatcher, "_is_of_a_repeat", return_value=False)


def outcomes_are_not_told() -> AbstractContextManager[Any]:
    """Other beats do not hear how a tick ended."""
    real = Beat._end

    def end(self: Beat, task_id: bytes, status: int, text: str) -> None:
        real(self, task_id, status, text)
        self.ledger._news.clear()

    return mock.patch.object(Beat, "_end", end)


def who_started_a_tick_is_not_added_up() -> AbstractContextManager[Any]:
    """Of two beats that started a tick one is forgotten."""
    real = EntryTicks._learn

    def learn(self: EntryTicks, other: TickRecord) -> bool:
        other.starts = []
        return real(self, other)

    return mock.patch.object(EntryTicks, "_learn", learn)


def what_settles_elsewhere_is_not_heard_of() -> AbstractContextManager[Any]:
    """A beat does not take note of how its tasks end."""

    def settled(self: Beat, outcomes: list[Outcome]) -> None:
        """Nothing is done about them."""

    return mock.patch.object(Beat, "settled", settled)


BEAT_MUTANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    mutant.__name__: mutant
    for mutant in (
        each_beat_has_its_own_ids, all_beats_lead, what_a_lost_beat_started_is_left,
        the_next_leader_begins_now, an_heir_refuses_what_a_former_owner_gave_away,
        outcomes_are_not_told,
        who_started_a_tick_is_not_added_up,
        what_settles_elsewhere_is_not_heard_of,
    )
}  # fmt: skip
