"""The disk of a simulated process for results that wait for a store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zmqtasks.core import effects as fx
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.core.spillrows import UNDECIDED, SpillPiece, SpillRow, SpillState
from zmqtasks.wire.messages import Verdict

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World


#: A store.
_AWAY = bytes(8)


class SimSpill:
    """Carries the spill effects of one process out, in order, some of them slowly.

    It does what ``journals/spill.py`` does, and goes with the process. In worlds whose
    memory for results is small, nearly all of them come here.
    """

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self.log = ResultLog(process.name, world.log_bytes_max, has_disk=True)
        self.log.body_bytes_min = 1
        # One that is away, and that all have met before: without any, little is kept for one
        # that may come.
        self.log.store_seen(_AWAY)
        self._rows: dict[int, SpillRow] = {}
        self._done_ms = 0

    @property
    def performers(self) -> dict[type, Callable[[Any], None]]:
        """What carries out which effect."""
        kinds = (fx.SpillWrite, fx.SpillRead, fx.SpillFind, fx.SpillTrim)
        return dict.fromkeys(kinds, self._plan)

    def _plan(self, effect: fx.Effect) -> None:
        world = self._world
        delay_ms = world.rng.randint(0, 3)
        rate = world.faults.rate("slowdisk", 0.3)
        if rate and world.rng.random() < rate:
            world.faults.count("slowdisk")
            delay_ms += world.rng.randint(50, 500)
        self._done_ms = max(self._done_ms, world.now + delay_ms)
        world.at(self._done_ms, self._carry_out, effect)

    def _carry_out(self, effect: fx.Effect) -> None:
        process = self._process
        publisher = process.node.publisher
        if not process.alive:
            return
        if isinstance(effect, fx.SpillWrite):
            assert not self._rows.keys() & {row.position for row in effect.rows}
            self._rows.update((row.position, row) for row in effect.rows)
            for position, need, decision in effect.changes:
                row = self._rows.get(position)
                if row is not None:
                    self._rows[position] = row._replace(need=need, decision=decision)
            process.deliver(publisher.spilled, "", self._state(), process.now)
        elif isinstance(effect, fx.SpillRead):
            process.deliver(publisher.spill_read, effect.token, self._read(effect))
        elif isinstance(effect, fx.SpillFind):
            found = self._find(set(effect.ids))
            process.deliver(process.node.answers.spill_found, effect.token, found, "")
        elif isinstance(effect, fx.SpillTrim):
            for row in [row for row in self._rows.values() if _may_go(row, effect)]:
                del self._rows[row.position]
            process.deliver(publisher.spill_trimmed, self._state())

    def _state(self) -> SpillState:
        return SpillState(len(self._rows), 0, min(self._rows, default=0))

    def _read(self, effect: fx.SpillRead) -> SpillPiece:
        """A small piece, so that ranges take several."""
        here = [p for p in range(effect.first, effect.last + 1) if p in self._rows]
        if len(here) > 3:
            return SpillPiece([self._rows[p] for p in here[:3]], here[2])
        return SpillPiece([self._rows[p] for p in here], effect.last)

    def _find(self, ids: set[bytes]) -> list[SpillRow]:
        found: dict[bytes, SpillRow] = {}
        for row in self._rows.values():
            if row.outcome is None or row.outcome.id not in ids:
                continue
            last = found.get(row.outcome.id)
            if row.decision != Verdict.REFUSED and (last is None or last.position < row.position):
                found[row.outcome.id] = row
        return list(found.values())


def _may_go(row: SpillRow, trim: fx.SpillTrim) -> bool:
    is_forgotten = row.outcome is not None and row.outcome.id in trim.ids
    return (
        row.need <= trim.upto
        or row.at_ms < trim.before_ms
        or row.position in trim.positions
        or (is_forgotten and row.need != UNDECIDED)
    )
