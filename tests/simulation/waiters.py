"""Tasks of worlds in which some wait for others, and what must hold of them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tests.simulation import invariants
from tests.simulation.tasks import Spec, value_of
from zmqtasks.core.calls import INPUTS_KEY
from zmqtasks.core.held import HeldTask
from zmqtasks.core.offspring import CAUSE_KEY
from zmqtasks.core.owned import Ended, parse_mark
from zmqtasks.wire.joined import split
from zmqtasks.wire.messages import Outcome, Status, TaskState

if TYPE_CHECKING:
    from tests.simulation.world import World

#: A task waits for some of so many that were submitted last.
_LATEST = 12


class Waiters:
    """Those of one world.

    Args:
        world: whose tasks these are.
        rng: draws for nothing else.
    """

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        #: Ids of tasks that others may wait for, in the order of their submission.
        self._earlier: list[bytes] = []

    def facts(self, spec: Spec) -> dict[str, Any]:
        """What this task waits for, if it waits."""
        rng, latest = self.rng, self._earlier[-_LATEST:]
        ext: dict[str, Any] = {}
        if latest and rng.random() < 0.5:
            ids = rng.sample(latest, min(len(latest), rng.choice((1, 1, 2, 4))))
            shape = rng.choice((None, 0, list(range(len(ids)))))
            ext[INPUTS_KEY] = [ids, shape]
        if rng.random() < 0.6:
            self._earlier.append(spec.id)
        return ext

    def check_body(self, task: HeldTask, spec: Spec) -> None:
        """It is called with its arguments and all results that it waits for, each as its
        own caller was told."""
        parts = split(task.body)
        assert parts.body == spec.body, f"{spec} is called with other arguments"
        ids = self.ids_of(spec)
        assert parts.results.keys() == set(range(len(ids))), f"{spec} is called too early"
        for position, task_id in enumerate(ids):
            self.world.faults.count("inputs")
            outcome, result = self._outcome_of(task_id), parts.results[position]
            if outcome is None:
                assert (Status.SUCCESS, result) == value_of(self.world.ledger.specs[task_id])
            else:
                assert (outcome.status, outcome.body) == (Status.SUCCESS, result), (
                    f"{spec} is called with another result of {task_id.hex()} than its caller got"
                )

    def _outcome_of(self, task_id: bytes) -> Outcome | None:
        ledger = self.world.ledger
        return None if task_id in ledger.forgotten else ledger.outcomes.get(task_id)

    @staticmethod
    def ids_of(spec: Spec) -> list[bytes]:
        """What this task waits for."""
        found: list[bytes] = (spec.ext or {}).get(INPUTS_KEY, ((), None))[0]
        return found

    def is_right(self, outcome: Outcome, spec: Spec) -> bool:
        """It has not run because of another one; checked.

        Raises:
            AssertionError: that one has succeeded.
        """
        cause = (outcome.ext or {}).get(CAUSE_KEY)
        if cause is None:
            return False
        assert outcome.status in (Status.FAILURE, Status.CANCELLED)
        assert self._is_awaited(cause, spec), f"{spec} has not run because of a stranger"
        known = self._outcome_of(cause)
        self.world.faults.count("unrun")
        if known is not None and known.status == Status.SUCCESS:
            is_lost = cause not in self.world.ledger.must or not self._is_known(cause)
            assert is_lost, f"{spec} has not run, and {cause.hex()} has succeeded"
        return True

    def _is_known(self, task_id: bytes) -> bool:
        """Somebody can tell how it ended. Whoever could may have ended too."""
        ended = (TaskState.SETTLED, TaskState.UNSETTLED)
        for process in self.world.alive():
            if process.node.answers.local(task_id).state in ended:
                return True
            if process.store and invariants.finished(process.store.get_batch([task_id])):
                return True
        return False

    def _is_awaited(self, cause: bytes, spec: Spec) -> bool:
        specs = self.world.ledger.specs
        ids = self.ids_of(spec)
        return cause in ids or any(
            self._is_awaited(cause, specs[task_id]) for task_id in ids if task_id in specs
        )

    def check_end(self) -> None:
        """Nothing waits, and no journal holds a result for anybody."""
        for process in self.world.alive():
            if process.node.dispatcher is None:
                continue
            inputs = process.node.dispatcher.inputs
            assert not inputs.blocked
            assert not inputs.wanted
            assert not inputs.foreign
            assert not inputs.held_bytes
            content = self.world.disk.contents.get(process.journal.folder)
            for record in content.written.values() if content is not None else ():
                assert not isinstance(parse_mark(record.mark), Ended), (
                    f"{process.name} keeps a result that nobody wants"
                )
