"""What this process asks the mesh about tasks that it does not own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Ticket
from zmqtasks.node.survey import OnLoop
from zmqtasks.node.tickets import Tickets, pending_if_unknown, said_before, unknown_outcome
from zmqtasks.wire.messages import StateRecord, TaskState, UpdateRecord

if TYPE_CHECKING:
    from zmqtasks.node.runtime import Runtime


class _Question:
    """Somebody waits for its answer; ``quick``: not longer than for those who are there."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.answer: Future[list[StateRecord]] = Future()


def _is_known(record: StateRecord) -> bool:
    """Somebody has this task, or knows who does; some answers only say that one must wait."""
    if record.state == TaskState.PENDING:
        return "name" in record.info or "taker" in record.info
    return record.state != TaskState.UNKNOWN


class Questions:
    """Questions and their answers; one for each client.

    Args:
        runtime: of this process.
        tickets: who waits for tasks of this process.
        on_loop: runs a function on the I/O thread.

    ``states`` and ``seen_elsewhere`` are for other threads, the rest is for the I/O thread.
    """

    def __init__(self, runtime: Runtime, tickets: Tickets, on_loop: OnLoop) -> None:
        self._runtime = runtime
        self._tickets = tickets
        self._on_loop = on_loop
        #: {token of a question: what to do with news}.
        self._news: dict[int, Callable[[fx.QuestionAnswered], None]] = {}
        #: {token of a question: the tasks that somebody follows, and gives it}.
        self._followers: dict[int, tuple[frozenset[bytes], Callable[[], Ticket | None]]] = {}
        #: {token: question} of those that end when all who are linked have answered.
        self._quick: dict[int, _Question] = {}
        #: When everybody who is there could be found.
        self._found_ms = runtime.now_ms + runtime.finding.grace_ms

    # --- from other threads ---------------------------------------------------------------

    def states(self, ids: Sequence[bytes], timeout_s: float) -> dict[bytes, StateRecord]:
        """See ``Gateway.states``."""
        own = self._on_loop(lambda: self._runtime.mesh.states_of(ids))
        known = {state.id: state for state in own}
        asked = [
            task_id for task_id, state in known.items()
            # Of what was given away its new owner knows more.
            if state.state in (TaskState.UNKNOWN, TaskState.UNSETTLED) or "taker" in state.info
        ]  # fmt: skip
        if asked:
            known.update((state.id, state) for state in self._wait(asked, timeout_s, quick=False))
        return known

    def seen_elsewhere(self, ids: Sequence[bytes], timeout_s: float) -> list[StateRecord]:
        """What others know of these tasks; those that nobody knows are left out.

        Ends when all who are linked have answered, once there was time to find them.
        """
        return [record for record in self._wait(ids, timeout_s, quick=True) if _is_known(record)]

    def _wait(self, ids: Sequence[bytes], timeout_s: float, *, quick: bool) -> list[StateRecord]:
        question = _Question(quick=quick)
        token = self._on_loop(lambda: self._ask(ids, question))
        try:
            return question.answer.result(timeout_s)
        except TimeoutError:
            return self._on_loop(lambda: self._best_so_far(token))

    # --- on the I/O thread ------------------------------------------------------------------

    def _ask(self, ids: Sequence[bytes], question: _Question) -> int:
        token = self._runtime.mesh.ask(ids, False, self._runtime.now_ms)

        def news(effect: fx.QuestionAnswered) -> None:
            if effect.final and not question.answer.done():
                question.answer.set_result(effect.states)

        self._news[token] = news
        if question.quick:
            self._quick[token] = question
        return token

    def _best_so_far(self, token: int) -> list[StateRecord]:
        self._news.pop(token, None)
        self._quick.pop(token, None)
        question = self._runtime.mesh.inquiry.questions.get(token)
        if question is None:
            return []
        self._runtime.mesh.inquiry.drop(token)
        return [pending_if_unknown(record) for record in question.best.values()]

    @property
    def is_all_found(self) -> bool:
        """There was time to find everybody, and nobody is still being dialled."""
        runtime = self._runtime
        return runtime.now_ms >= self._found_ms and not runtime.mesh.membership.pending_dials()

    def turn(self) -> None:
        """End the quick questions that all who are there have answered."""
        if not self._quick or not self.is_all_found:
            return
        mesh = self._runtime.mesh
        for token, question in list(self._quick.items()):
            asked = mesh.inquiry.questions.get(token)
            if asked is None:
                del self._quick[token]
            elif not asked.waiting:
                question.answer.set_result(self._best_so_far(token))

    def watch(self, ids: Sequence[bytes], ticket: Ticket) -> None:
        """See ``Gateway.watch``."""
        mesh = self._runtime.mesh
        dispatcher = mesh.dispatcher
        assert dispatcher is not None
        elsewhere: list[bytes] = []
        for task_id in ids:
            record = dispatcher.state_of(task_id)
            if record is not None and record.outcome is not None:
                ticket.settled(task_id, record.outcome)
            elif record is not None or task_id in self._tickets:
                self._tickets.add(task_id, ticket)
            else:
                elsewhere.append(task_id)
        if not elsewhere:
            return

        token = mesh.ask(elsewhere, True, self._runtime.now_ms)
        # Handles are dropped when their owner has waited for long enough, and nobody says so.
        told = weakref.ref(
            ticket, lambda _: self._runtime.loop.call_soon(self._nobody_waits, token)
        )

        def news(effect: fx.QuestionAnswered) -> None:
            ticket = told()
            if ticket is None:
                return
            for record in effect.states:
                if record.state == TaskState.SETTLED and record.outcome is not None:
                    ticket.settled(record.id, record.outcome)
                elif record.state == TaskState.UNKNOWN:
                    ticket.settled(record.id, unknown_outcome(record.id))
                elif "state" in record.info:
                    ticket.updated(record.id, said_before(record))

        self._news[token] = news
        self._followers[token] = frozenset(elsewhere), told

    def updated(self, updates: Iterable[UpdateRecord]) -> None:
        """News of running tasks, some of which are followed here."""
        for ids, told in self._followers.values():
            ticket = told()
            if ticket is not None:
                for record in updates:
                    if record.id in ids:
                        ticket.updated(record.id, record)

    def _nobody_waits(self, token: int) -> None:
        self._news.pop(token, None)
        self._followers.pop(token, None)
        self._runtime.mesh.inquiry.drop(token)

    def follow(self, record: StateRecord, ticket: Ticket) -> None:
        """This is known of a task of somebody else: tell the ticket how it ends."""
        if record.state == TaskState.SETTLED and record.outcome is not None:
            ticket.settled(record.id, record.outcome)
        else:
            self.watch([record.id], ticket)

    def answered(self, effect: fx.QuestionAnswered) -> None:
        """The mesh has news."""
        news = self._news.get(effect.token)
        if effect.final:
            self._news.pop(effect.token, None)
            self._followers.pop(effect.token, None)
        if news is not None:
            news(effect)
