"""Calls on their way to the journal, and the threads that wait until they are there."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call, Ticket
from zmqtasks.errors import SubmitRejected, SubmitUnknown
from zmqtasks.node.tickets import Tickets


class Acceptance:
    """Durable calls that one thread submits: all of them are accepted, or none.

    Args:
        calls: to be accepted.
        ticket: told of their outcomes.
        wait_s: seconds that ``wait`` waits at most.
        forget: makes the ticket wait no longer for these calls, at once; from any thread.
        after: not before these are accepted, and not at all if they are not.
    """

    def __init__(
        self, calls: Sequence[Call], ticket: Ticket, wait_s: float,
        forget: Callable[[Acceptance], None], after: Acceptance | None = None,
    ) -> None:  # fmt: skip
        self.calls = calls
        self.ticket = ticket
        self.after = after
        #: Those that have to wait for these.
        self.next: Acceptance | None = None
        #: Why they are not accepted, "" when they are; None: nobody knows (yet).
        self.refusal: str | None = None
        self._wait_s = wait_s
        self._forget = forget
        self._told = threading.Event()

    @property
    def is_told(self) -> bool:
        """It is known how it ended, or that nobody will know."""
        return self._told.is_set()

    def tell(self, refusal: str | None) -> None:
        """How it ended."""
        self.refusal = refusal
        self._told.set()

    def wait(self) -> None:
        """See ``Pending``."""
        is_told = self._told.wait(self._wait_s)
        if is_told and self.refusal == "":
            return
        if is_told and self.refusal is not None:
            raise SubmitRejected(f"{self.refusal}; nothing was submitted")
        self.forget()
        count = len(self.calls)
        calls = f"these {count:,} calls" if count != 1 else "this call"
        when = "before this process left the mesh" if is_told else f"within {self._wait_s:g} s"
        raise SubmitUnknown(
            f"the journal did not say {when} whether it has {calls}: they may run. Repeat a call "
            "with the same idempotency_key, so that it is the same task; where the disk is slow, "
            "raise submit_timeout_s"
        )

    def forget(self) -> None:
        """See ``Pending``."""
        self._forget(self)


class Acceptances:
    """Those that are under way, on the I/O thread.

    Args:
        tickets: who waits for tasks of this process.
        submit: lets their owner have these calls, and answer with this token.
    """

    def __init__(
        self, tickets: Tickets, submit: Callable[[Sequence[Call], int], None]
    ) -> None:  # fmt: skip
        self._tickets = tickets
        self._submit = submit
        self._numbers = itertools.count(1)
        #: {token: who waits}.
        self._waiting: dict[int, Acceptance] = {}

    def begin(self, acceptance: Acceptance) -> None:
        """Submit them, or when those before them are accepted."""
        before, acceptance.after = acceptance.after, None
        if before is not None and not before.is_told:
            before.next = acceptance
        elif before is not None and before.refusal != "":
            self._refuse(acceptance, before.refusal or "earlier calls came to nothing")
        else:
            token = next(self._numbers)
            self._waiting[token] = acceptance
            self._submit(acceptance.calls, token)

    def of(self, task_id: bytes) -> Acceptance | None:
        """The one that this task is part of, if it is under way."""
        found = (
            acceptance for acceptance in self._waiting.values()
            if any(call.id == task_id for call in acceptance.calls)
        )  # fmt: skip
        return next(found, None)

    def accepted(self, effect: fx.CallsAccepted) -> None:
        """The journal has them."""
        acceptance = self._waiting.pop(effect.token)
        acceptance.tell("")
        if acceptance.next is not None:
            self.begin(acceptance.next)

    def refused(self, effect: fx.CallsRefused) -> None:
        """The journal does not have them, and nobody will settle them."""
        self._refuse(self._waiting.pop(effect.token), effect.text)

    def _refuse(self, acceptance: Acceptance | None, text: str) -> None:
        while acceptance is not None:
            self._tickets.take_back([call.id for call in acceptance.calls], acceptance.ticket)
            acceptance.tell(text)
            acceptance = acceptance.next

    def abandon(self) -> None:
        """The loop has ended: nobody will hear what becomes of them."""
        waiting, self._waiting = self._waiting, {}
        for acceptance in waiting.values():
            acceptance.tell(None)
            self._refuse(acceptance.next, "this process has left the mesh")
