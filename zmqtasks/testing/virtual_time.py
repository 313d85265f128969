"""The clock of a mesh in one process: its time passes on command only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from zmqtasks.app import timing

#: How often time may go on while somebody waits: with a periodic task it would for ever.
_STEPS_MAX = 50_000
#: Virtual time after which who waits without a timeout is told that nothing comes.
_PATIENCE_MS = 366 * 24 * 3_600_000


class NeverEnds(RuntimeError):
    """What is waited for will not happen, or what runs will not come to an end."""


class Driven(Protocol):
    """What happens in this time."""

    def begin(self) -> None:
        """Somebody wants to see something happen."""

    def step(self) -> bool:
        """Let one thing happen that is due; False if there is none."""

    def do_soon(self, function: Callable[[], None]) -> None:
        """One of those things."""

    def next_ms(self) -> int | None:
        """When something happens next, in the time of the nodes; None: never."""

    def set_time(self, now_ms: int) -> None:
        """It is this time now."""

    def open_calls(self) -> str:
        """Which calls have not ended, and why, for messages."""


class VirtualClock:
    """A clock (``app.timing.Clock``) that is wound by who waits.

    Args:
        start: what time it is at first.
        driven: what happens meanwhile.
    """

    is_virtual = True

    def __init__(self, start: datetime, driven: Driven) -> None:
        self._start_ms = round(start.timestamp() * 1000)
        self._driven = driven
        #: The monotonic time of all nodes.
        self.now_ms = 0

    def wall_ms(self) -> int:
        """See ``Clock``."""
        return self._start_ms + self.now_ms

    def monotonic(self) -> float:
        """See ``Clock``."""
        return self.now_ms / 1000

    def datetime(self) -> datetime:
        """The time of day, in UTC."""
        return datetime.fromtimestamp(self.wall_ms() / 1000, UTC)

    def advance(self, duration_ms: int) -> None:
        """Let so much time pass."""
        end_ms = self.now_ms + duration_ms
        self._driven.begin()
        while True:
            while self._driven.step():
                pass
            at_ms = self._driven.next_ms()
            if at_ms is None or at_ms > end_ms:
                break
            self._set(at_ms)
        self._set(end_ms)
        while self._driven.step():
            pass

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """See ``Clock``."""
        timeout_ms = None if timeout is None else timing.span_ms(timeout)
        return self.wait_until(event.is_set, timeout_ms)

    def call_soon(self, function: Callable[[], None]) -> bool:
        """See ``Clock``."""
        self._driven.do_soon(function)
        return True

    def wait_until(self, holds: Callable[[], Any], timeout_ms: int | None) -> bool:
        """Let as much happen, and then as much time pass, as it takes until this holds.

        Raises:
            NeverEnds: there is no limit, and it never will.
        """
        begun_ms = self.now_ms
        self._driven.begin()
        end_ms = begun_ms + (_PATIENCE_MS if timeout_ms is None else timeout_ms)
        for _ in range(_STEPS_MAX):
            while not holds():
                if not self._driven.step():
                    break
            else:
                return True
            at_ms = self._driven.next_ms()
            if at_ms is None or at_ms > end_ms:
                break
            self._set(at_ms)
        if timeout_ms is None:
            days = (self.now_ms - begun_ms) / 86_400_000
            raise NeverEnds(
                f"what is waited for has not happened after {days:.3g} days of the mesh's time, "
                f"and there is no timeout: {self._driven.open_calls()}"
            )
        self._set(end_ms)
        return bool(holds())

    def _set(self, at_ms: int) -> None:
        self.now_ms = max(self.now_ms, at_ms)
        self._driven.set_time(self.now_ms)
