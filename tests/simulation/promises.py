"""What callers were promised, one by one: keys, tickets, and what is started once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zmqtasks.core.calls import UNKNOWN_STATUS, Call
from zmqtasks.core.held import HeldTask
from zmqtasks.node.questions import _is_known
from zmqtasks.wire.messages import Outcome, Status

if TYPE_CHECKING:
    from tests.simulation.caller import Ticket
    from tests.simulation.invariants import Ledger
    from tests.simulation.process import Process
    from tests.simulation.tasks import Spec


class CallLedger:
    """The part of the ledger that knows of calls rather than of tasks.

    Args:
        ledger: of the same world.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        #: Tickets that wait, in the order of their calls.
        self.tickets: list[Ticket] = []
        #: Ids of keys whose task somebody owns, or has owned.
        self._placed: set[bytes] = set()
        #: {task id: the attempt that ran}, of tasks that must not run twice.
        self._ran_once: dict[bytes, int] = {}

    # --- tasks that are started once --------------------------------------------------------

    def ran(self, task: HeldTask) -> None:
        """Its function is called."""
        if not self.ledger.specs[task.id].once or task.id in self.ledger.forgotten:
            return
        before = self._ran_once.setdefault(task.id, task.attempt)
        assert before == task.attempt, (
            f"{task.id.hex()} must run once, and runs as attempts {before} and {task.attempt}"
        )

    # --- accepting --------------------------------------------------------------------------

    def owned(self, task_id: bytes) -> None:
        """The machines of its caller have it."""
        ledger = self.ledger
        if ledger.how[task_id] == "memory" and ledger.holder(task_id) is not None:
            ledger.must[task_id] = None

    def accepted(self, process: Process, task_id: bytes) -> None:
        """Its caller was told that it is on the disk."""
        if process.owns(task_id):
            self.ledger.how[task_id] = "disk"
        self.ledger.accepted(task_id)

    def refused(self, process: Process, task_id: bytes, *, is_keyed: bool) -> None:
        """Its caller was told that it is not owned; one that was known stays what it was."""
        if not is_keyed:
            self.ledger.refused(process, task_id)
        elif self.ledger.holder(task_id) is None and task_id not in self.ledger.must:
            self._placed.discard(task_id)

    def never_submitted(self, process: Process, specs: list[Spec], *, is_keyed: bool) -> None:
        """The caller gave up before anybody had them."""
        for spec in specs:
            if not is_keyed:
                self.ledger.refused(process, spec.id)

    def ended_untold(self, process: Process, outcome: Outcome) -> None:
        """The process took the task out of its journal and has ended, before it told anybody.
        What the worker said stands as long as it, or a store, is there; what the process had
        decided by itself is gone with it."""
        ledger = self.ledger
        worker = ledger.starts.get((outcome.id, outcome.attempt))
        is_own = outcome.status in (Status.DEAD, Status.WORKER_LOST)
        if worker is None or is_own or ledger.world.extras.is_owners(outcome):
            ledger.must.pop(outcome.id, None)
        elif outcome.id not in ledger.outcomes:
            ledger.settled_first(process, outcome)

    # --- keys -------------------------------------------------------------------------------

    def is_same_content(self, call: Call) -> bool:
        """It is the call that the key stands for."""
        return self.ledger.specs[call.id].body == call.body

    def knowing(self, asker: Process, task_id: bytes) -> dict[str, None]:
        """Who knows that task, and is linked with the asker."""
        return {
            process.name: None
            for process in self.ledger.world.alive()
            if process is not asker
            and not process.node.membership.leaving
            and asker.node.is_linked(process.hello.node)
            and process.node.is_linked(asker.hello.node)
            and _is_known(process.node.answers.local(task_id))
        }

    def may_place(self, call: Call) -> bool:
        """Nobody has had it, so it is no second task of the key."""
        return call.id not in self._placed and self.is_same_content(call)

    def placed(self, spec: Spec, how: str) -> None:
        """It was submitted, or attached to what was."""
        if spec.id not in self._placed:
            self._placed.add(spec.id)
            self.ledger.how[spec.id] = how

    def key_refused(self, call: Call) -> None:
        """The caller was told that the key belongs to another call."""
        assert not self.is_same_content(call), "a repeated call is refused"
        self.ledger.world.faults.count("keys")

    # --- tickets ----------------------------------------------------------------------------

    def ticket_told(self, ticket: Ticket, outcome: Outcome) -> None:
        """A caller hears of an outcome."""
        ledger = self.ledger
        task_id = outcome.id
        ticket.waiting.pop(task_id, None)
        if ledger.how[task_id] == "loose" or task_id in ledger.forgotten:
            return
        settled = ledger.outcomes.get(task_id)
        settler = ledger.settlers.get(task_id)
        asker, holder = ticket.caller.process, ledger.holder(task_id)
        if holder is not None and not ledger.has_heard_of(asker, holder.hello.node):
            return  # what it was told may be so, for all that it can know
        if outcome.status == UNKNOWN_STATUS:
            assert ledger.holder(task_id) is None, "a caller is told that nobody knows it"
            assert settler is None or not settler.alive, "a caller is told nothing"
            is_lost = ledger.is_lost(settled) if settled is not None else task_id not in ledger.must
            assert ticket.is_follower or is_lost, "a caller is told that nobody knows its task"
        elif settled is None:
            # Its owner ended before it said so; then the first outcome stands.
            assert ledger.holder(task_id) is None, "a caller is told of what has not settled"
        else:
            told = (outcome.status, outcome.body)
            assert told == (settled.status, settled.body), "two callers hear different outcomes"

    def is_lost(self, task_id: bytes) -> bool:
        """It has ended, and whoever knew how has ended too."""
        outcome = self.ledger.outcomes.get(task_id)
        is_over = outcome is not None and self.ledger.is_lost(outcome)
        return is_over or task_id not in self.ledger.must or task_id in self.ledger.forgotten

    def untold(self) -> str:
        """Who was not told of what has ended; "" if there is nobody."""
        ledger = self.ledger
        for process in ledger.world.alive():
            if process.caller is not None and process.caller.is_calling:
                return f"a call in {process.name} is still waiting"
        for ticket in self.tickets:
            process = ticket.caller.process
            if not process.alive:
                continue
            for task_id in ticket.waiting:
                if task_id not in ledger.must or task_id in ledger.forgotten:
                    continue
                if self.is_lost(task_id):
                    continue
                if not ticket.is_follower or ledger.settlers[task_id].alive:
                    return f"a caller in {process.name} was not told of {ledger.specs[task_id]}"
        return ""

    def check_rest(self) -> None:
        """Once more, at rest."""
        ledger = self.ledger
        for process in ledger.world.alive():
            caller = process.caller
            if caller is None:
                continue
            caller.check_rest()
            for task_id in caller.awaited():
                is_over = task_id in ledger.outcomes
                is_over &= not self.is_lost(task_id)
                assert not is_over or ledger.how[task_id] == "loose", "a ticket waits for nothing"
