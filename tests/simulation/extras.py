"""What only worlds have that are asked for it: times, retries, priorities, cancellations.

They draw from generators of their own, so a world without them is what it always was.
Clocks are right in these worlds: an ``eta`` is a moment of the owner's time of day, and
where that is hours off nothing comes to rest in time.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.simulation.features import SAFETY_MS
from tests.simulation.tasks import Again, Spec
from tests.simulation.waiters import Waiters
from zmqtasks.core import cancelling
from zmqtasks.core.held import AMONG_KEY, HeldTask
from zmqtasks.core.lanes import REQUEUES_KEY, RETRIES_KEY, OwnedTask, count_in
from zmqtasks.core.offspring import CAUSE_KEY
from zmqtasks.core.ownedtasks import CANCELLED_KEY
from zmqtasks.core.workqueue import PRIORITY_KEY, priority_of
from zmqtasks.limits import AMONG_MAX
from zmqtasks.wire.messages import Outcome, Status

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

EXTRAS = (
    "times",  # tasks that must not start before a moment, or after one
    "retries",  # attempts that ask for another one, now or later
    "priorities",  # tasks that come before others
    "inputs",  # tasks that wait for others
    "cancels",  # tasks are cancelled, by their owner or by whoever was it
)
_UNSTARTED = (Status.CANCELLED, Status.EXPIRED)


class _Said(NamedTuple):
    """What was said of a cancelled task."""

    word: str
    #: No later one may be given to a worker.
    attempt: int


class Extras:
    """Those of one world, and what must hold of them.

    Args:
        world: whose tasks these are.
        on: names among ``EXTRAS``.
    """

    def __init__(self, world: World, on: Collection[str]) -> None:
        self.world = world
        self.rngs = {name: random.Random(f"{world.seed} {name}") for name in EXTRAS if name in on}
        #: What takes how long, in whatever belongs to none of them alone.
        self.rng = random.Random(f"{world.seed} extras")
        #: What waits for others, where there is such a thing.
        self.waiters = Waiters(world, self.rngs["inputs"]) if "inputs" in self.rngs else None
        if self.rngs:
            world.faults.features.pop("clocks", None)
        #: {(task id, number of its wishes before): when the next attempt may start}.
        self._wishes: dict[tuple[bytes, int], int] = {}
        #: {(task id, attempt)} that some owner has given to a worker.
        self._sent: set[tuple[bytes, int]] = set()
        #: {worker: ids of what waited for a slot when its last turn ended}.
        self._queued: dict[str, set[bytes]] = {}
        self._asked: set[bytes] = set()
        #: {task id: what its owner said} of cancelled tasks.
        self._said: dict[bytes, _Said] = {}

    def plan(self) -> None:
        """What happens when."""
        rng = self.rngs.get("cancels")
        if rng is not None:
            for _ in range(rng.randint(3, 15)):
                self.world.at(rng.randint(150, SAFETY_MS), self._cancel, rng)

    # --- tasks ----------------------------------------------------------------------------

    def changed(self, spec: Spec) -> Spec:
        """This task as it is called now, in this world."""
        spec = self.called_at(spec, self.world.now)
        if self.waiters is not None:
            spec = spec._replace(ext={**(spec.ext or {}), **self.waiters.facts(spec)} or None)
        return spec

    def child(self, spec: Spec) -> Spec:
        """This task as a running one submits it now. The same attempt may do so twice."""
        return self.world.ledger.specs.get(spec.id) or self.called_at(spec, self.world.now)

    def called_at(self, spec: Spec, now: int) -> Spec:
        """This task as it is called then. It waits for no others."""
        ext: dict[str, Any] = {}
        rng = self.rngs.get("times")
        if rng is not None and rng.random() < 0.3:
            ext["eta"] = now + rng.randint(1, 2_500)
        if rng is not None and rng.random() < 0.25 and spec.deed != "kill":
            ext["exp"] = ext.get("eta", now) + rng.randint(1, 2_000)
        rng = self.rngs.get("priorities")
        if rng is not None and rng.random() < 0.5:
            ext[PRIORITY_KEY] = rng.choice((1, 5, 9))
        again: tuple[Again, ...] = ()
        rng = self.rngs.get("retries")
        may_retry = spec.deed in ("plain", "raise") and not spec.once
        if rng is not None and may_retry and rng.random() < 0.3:
            again = tuple(
                Again(rng.choice((0, 0, rng.randint(1, 1_000))), rng.random() < 0.8)
                for _ in range(rng.randint(1, 3))
            )
        return spec._replace(ext=ext or None, again=again)

    def wish(self, task: HeldTask, spec: Spec) -> Again | None:
        """What this attempt ends with, if it asks for another one."""
        count = _wishes_of(task.ext)
        if count >= len(spec.again):
            return None
        wish = spec.again[count]
        self.world.faults.count("retries")
        key, at_ms = (task.id, count), self.world.now + wish.delay_ms
        self._wishes[key] = min(at_ms, self._wishes.get(key, at_ms))
        return wish

    # --- cancellations --------------------------------------------------------------------

    def _cancel(self, rng: random.Random) -> None:
        ledger = self.world.ledger
        open_ids = [
            task_id
            for task_id, how in ledger.how.items()
            if how != "loose" and task_id not in ledger.outcomes
        ]
        alive = self.world.alive()
        if not open_ids or not alive:
            return
        # Rather late ones: they have less behind them.
        first = int(len(open_ids) * (1 - rng.random() ** 2))
        chosen = open_ids[first : first + rng.choice((1, 1, 5))]
        for task_id in chosen:
            whoever = rng.choice(alive)
            node = whoever if rng.random() < 0.2 else ledger.holder(task_id)
            if node is None or rng.random() < 0.1:
                node = self.world.by_node.get(task_id[:8], whoever)
            node.deliver(self._revoke, node, task_id, rng.random() < 0.4)

    def _revoke(self, process: Process, task_id: bytes, terminate: bool) -> None:
        """Somebody orders this node to cancel the task."""
        node = process.node
        assert node.dispatcher is not None
        assert node.ownership is not None
        if node.membership.leaving:
            return
        task = node.dispatcher.tasks.get(task_id)
        was_offered = task is not None and bool(task.offered)
        answer = node.ownership.revoking.revoke([task_id], {"terminate": terminate})
        word = answer["data"][task_id.hex()]
        self._asked.add(task_id)
        self.world.faults.count("cancels")
        if word not in (cancelling.REVOKED, cancelling.RUNNING) or (
            was_offered and word != cancelling.REVOKED
        ):
            return
        assert task is not None
        if word == cancelling.REVOKED:
            self._said[task_id] = _Said(word, task.attempt - 1)
        else:
            self._said.setdefault(task_id, _Said(word, task.attempt))

    # --- what must hold -------------------------------------------------------------------

    def started(self, task: HeldTask) -> None:
        """Its function is called."""
        if not self.rngs:
            return
        spec, now = self.world.ledger.specs[task.id], self.world.now
        eta = (spec.ext or {}).get("eta", 0)
        if eta:
            self.world.faults.count("times")
        assert now >= eta, f"{spec} starts {eta - now} ms before its time"
        count = _wishes_of(task.ext)
        if not count:
            return
        done = spec.again[:count]
        assert len(done) == count, f"{spec} is retried {count} times"
        retries = sum(wish.counts for wish in done)
        assert count_in(task.ext, RETRIES_KEY) == retries, f"retries of {spec} are miscounted"
        may_ms = self._wishes.get((task.id, count - 1))
        assert may_ms is not None, f"{spec} is retried, and no attempt asked for it"
        assert now >= may_ms, f"{spec} is retried {may_ms - now} ms before its delay is over"

    def check_body(self, task: HeldTask) -> None:
        """A worker hands it to a slot."""
        spec = self.world.ledger.specs[task.id]
        if self.waiters is None:
            assert task.body == spec.body
        else:
            self.waiters.check_body(task, spec)

    def handed(self, worker: Process, tasks: Sequence[HeldTask]) -> None:
        """A worker hands these to a slot."""
        if "priorities" not in self.rngs:
            return
        assert worker.node.intake is not None
        least = min(priority_of(task.ext) for task in tasks)
        before = self._queued.get(worker.name, ())
        for task in worker.node.intake.queue:
            is_less = priority_of(task.ext) <= least
            assert is_less or task.id not in before, f"{worker.name} starts a less urgent task"

    def looked(self, process: Process) -> None:
        """After each turn of a node that owns tasks."""
        dispatcher, intake = process.node.dispatcher, process.node.intake
        if not self.rngs or dispatcher is None:
            return
        if intake is not None:
            self._queued[process.name] = {task.id for task in intake.queue}
        for worker in dispatcher.workers.values():
            for task in worker.held.values():
                if (task.id, task.attempt) not in self._sent:
                    self._sent.add((task.id, task.attempt))
                    self._check_sent(process, task)

    def _check_sent(self, process: Process, task: OwnedTask) -> None:
        """An owner has just given this attempt to a worker."""
        ledger, lane = self.world.ledger, task.lane
        is_noted = lane.is_noted or lane.is_learned
        is_apart = count_in(task.ext, AMONG_KEY) >= AMONG_MAX or lane.ready.apart
        if lane.ready and not is_noted and not is_apart:
            first, own = max(priority_of(t.ext) for t in lane.ready), priority_of(task.ext)
            assert first <= own, f"{process.name} gives away a less urgent task"
            if own:
                self.world.faults.count("priorities")
        ext = ledger.specs[task.id].ext or {}
        late_ms = process.wall_ms - ext.get("exp", process.wall_ms + 1)
        assert late_ms < 0, f"{process.name} gives away what expired {late_ms} ms ago"
        if task.id in ledger.forgotten:
            return
        ended = ledger.outcomes.get(task.id)
        assert ended is None or ended.status not in _UNSTARTED, (
            f"{process.name} gives away {task.id.hex()}, which has ended with {ended}"
        )
        said = self._said.get(task.id)
        assert said is None or task.attempt <= said.attempt, (
            f"{process.name} gives away attempt {task.attempt} of {task.id.hex()}, of which was "
            f"said: {said}"
        )

    def is_right(self, outcome: Outcome, spec: Spec) -> bool:
        """It is an outcome that only tasks of these worlds have; checked.

        Raises:
            AssertionError: it is none that this task may have.
        """
        said = self._said.get(outcome.id)
        is_firm = said is not None and said.word == cancelling.REVOKED
        is_forgotten = outcome.id in self.world.ledger.forgotten
        assert not is_firm or is_forgotten or outcome.status == Status.CANCELLED, (
            f"{spec} was said to be revoked, and ends with {outcome}"
        )
        if outcome.status == Status.CANCELLED and CAUSE_KEY not in (outcome.ext or {}):
            assert outcome.id in self._asked, f"nobody cancelled {spec}"
        elif self.waiters is not None and self.waiters.is_right(outcome, spec):
            return True
        elif outcome.status == Status.EXPIRED:
            exp = (spec.ext or {}).get("exp", SAFETY_MS * 100)
            assert exp <= self.world.now, f"{spec} expires {exp - self.world.now} ms too early"
            self.world.faults.count("times")
        else:
            return False
        return True

    def is_owners(self, outcome: Outcome) -> bool:
        """Its owner has ended it, so no worker can tell of that."""
        is_unstarted = outcome.status in _UNSTARTED or CAUSE_KEY in (outcome.ext or {})
        return is_unstarted and not outcome.position

    def crashed(self) -> None:
        """A process has ended: what was said of its tasks holds if a journal knows it."""
        for task_id in list(self._said):
            if self.world.ledger.holder(task_id) is not None:
                continue
            records = [c.written.get(task_id) for c in self.world.disk.contents.values()]
            if not any(CANCELLED_KEY in (r.ext or {}) for r in records if r is not None):
                del self._said[task_id]


def _wishes_of(ext: dict[str, Any] | None) -> int:
    return count_in(ext, RETRIES_KEY) + count_in(ext, REQUEUES_KEY)
