"""Calls on their way to the journal, and the threads that wait until they are there."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call, Ticket
from zmqtasks.errors import SubmitRejected, SubmitUnknown
from zmqtasks.node.tickets import Tickets


class Acceptance:
    """Durable calls that one thread submits: all of them are accepted, or none.

    Args:
        calls: to be accepted.
        ticket: told of their outcomes.
    """

    def __init__(self, calls: Sequence[Call], ticket: Ticket) -> None:
        self.calls = calls
        self.ticket = ticket
        #: Why not, "" when they are accepted; None: nobody knows.
        self._refusal: str | None = None
        self._told = threading.Event()

    def tell(self, refusal: str | None) -> None:
        """How it ended."""
        self._refusal = refusal
        self._told.set()

    def wait(self, wait_s: float) -> None:
        """Until they are accepted, for so many seconds at most.

        Raises:
            SubmitRejected: they are not, with the reason.
            SubmitUnknown: that is not known.
        """
        is_told = self._told.wait(wait_s)
        if is_told and self._refusal == "":
            return
        if is_told and self._refusal is not None:
            raise SubmitRejected(f"{self._refusal}; nothing was submitted")
        count = len(self.calls)
        calls = f"these {count:,} calls" if count != 1 else "this call"
        when = "before this process left the mesh" if is_told else f"within {wait_s:g} s"
        raise SubmitUnknown(
            f"the journal did not say {when} whether it has {calls}: they may run. Repeat a call "
            "with the same idempotency_key, so that it is the same task; where the disk is slow, "
            "raise submit_timeout_s"
        )


class Acceptances:
    """Those that are under way, on the I/O thread.

    Args:
        tickets: who waits for tasks of this process.
    """

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets
        self._numbers = itertools.count(1)
        #: {token: who waits}.
        self._waiting: dict[int, Acceptance] = {}

    def begin(self, acceptance: Acceptance) -> int:
        """It is being submitted; returns its token."""
        token = next(self._numbers)
        self._waiting[token] = acceptance
        return token

    def of(self, task_id: bytes) -> Acceptance | None:
        """The one that this task is part of, if it is under way."""
        found = (
            acceptance for acceptance in self._waiting.values()
            if any(call.id == task_id for call in acceptance.calls)
        )  # fmt: skip
        return next(found, None)

    def accepted(self, effect: fx.CallsAccepted) -> None:
        """The journal has them."""
        self._waiting.pop(effect.token).tell("")

    def refused(self, effect: fx.CallsRefused) -> None:
        """The journal does not have them, and nobody will settle them."""
        acceptance = self._waiting.pop(effect.token)
        self._tickets.take_back([call.id for call in acceptance.calls], acceptance.ticket)
        acceptance.tell(effect.text)

    def abandon(self) -> None:
        """The loop has ended: nobody will hear what becomes of them."""
        waiting, self._waiting = self._waiting, {}
        for acceptance in waiting.values():
            acceptance.tell(None)
