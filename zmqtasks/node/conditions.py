"""What other threads wait for to hold on the I/O thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from zmqtasks.node.loop import Loop

#: Some depend on time, so they are looked at this often at least, in milliseconds.
_LOOK_EVERY_MS = 50


class _Awaited:
    def __init__(self, condition: Callable[[], bool]) -> None:
        self.condition = condition
        self.held: Future[None] = Future()


class Conditions:
    """Conditions, each looked at after every turn of the loop until it holds.

    Args:
        loop: whose thread may look.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._awaited: list[_Awaited] = []

    def wait(self, condition: Callable[[], bool], wait_s: float) -> bool:
        """Wait for it, from another thread.

        Args:
            condition: called on the I/O thread; what it raises is raised here.
            wait_s: seconds at most.

        Returns:
            False when it did not hold in time.
        """
        awaited = _Awaited(condition)
        self._loop.call_soon(self._awaited.append, awaited)
        try:
            awaited.held.result(wait_s)
        except TimeoutError:
            return False
        finally:
            self._loop.call_soon(self._end, awaited)
        return True

    def _end(self, awaited: _Awaited) -> None:
        if awaited in self._awaited:
            self._awaited.remove(awaited)

    def turn(self, timeout_ms: int) -> int:
        """Look at them; returns how long the loop may wait, in milliseconds."""
        for awaited in self._awaited[:]:
            try:
                holds = awaited.condition()
            except Exception as exc:  # noqa: BLE001 - raised where it is waited for
                self._awaited.remove(awaited)
                awaited.held.set_exception(exc)
            else:
                if holds:
                    self._awaited.remove(awaited)
                    awaited.held.set_result(None)
        return min(timeout_ms, _LOOK_EVERY_MS) if self._awaited else timeout_ms

    def __len__(self) -> int:
        return len(self._awaited)
