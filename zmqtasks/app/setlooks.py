"""What is known of many tasks, and revoking all of them: a part of ``ResultSet``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from zmqtasks.app.completing import PartOfSet

R = TypeVar("R")
T = TypeVar("T")


class SetLooks(PartOfSet[R]):
    """The part of a set that looks at its tasks.

    Of tasks of other processes it asks the mesh when it first looks, which takes a second at
    most for each 1,000 of them; later outcomes are told. That blocks: in coroutines await the
    twins.
    """

    def completed_count(self) -> int:
        """How many have succeeded."""
        results = self._as_set()
        results.look()
        return results.arrived_count - results.failures_count

    def ready(self) -> bool:
        """Whether all have ended."""
        results = self._as_set()
        results.look()
        return results.is_complete

    def successful(self) -> bool:
        """Whether all have returned a value."""
        return self.ready() and not self._as_set().failures_count

    def failed(self) -> bool:
        """Whether one of them did not succeed."""
        results = self._as_set()
        if not results.failures_count:
            results.look()
        return results.failures_count > 0

    def waiting(self) -> bool:
        """Whether one of them has not ended."""
        return not self.ready()

    async def acompleted_count(self) -> int:
        """Same as ``completed_count()`` without blocking the running loop."""
        return await _in_thread(self.completed_count)

    async def aready(self) -> bool:
        """Same as ``ready()`` without blocking the running loop."""
        return await _in_thread(self.ready)

    async def asuccessful(self) -> bool:
        """Same as ``successful()`` without blocking the running loop."""
        return await _in_thread(self.successful)

    async def afailed(self) -> bool:
        """Same as ``failed()`` without blocking the running loop."""
        return await _in_thread(self.failed)

    async def awaiting(self) -> bool:
        """Same as ``waiting()`` without blocking the running loop."""
        return await _in_thread(self.waiting)

    async def aforget(self) -> None:
        """Same as ``forget()`` without blocking the running loop."""
        await _in_thread(self._as_set().forget)

    async def amaybe_throw(
        self, propagate: bool = True, callback: Callable[[str, R], object] | None = None
    ) -> None:
        """Same as ``maybe_throw()`` without blocking the running loop."""
        results = self._as_set()
        await _in_thread(results.look)
        results.throw_first(propagate, callback)

    def revoke(
        self,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        wait: bool = False,
        timeout: float | None = None,
    ) -> dict[str, str]:
        """Let those that have not started not be run.

        Args:
            terminate: end those that run, too.
            signal: with which they are ended; by force soon after.
            wait: until all have ended.
            timeout: seconds that nodes have to answer about each 1,000 or so (1 by default),
                and again for ``wait``.

        Returns:
            {id: what came of it}, as of ``app.control.revoke``.

        Raises:
            TimeoutError: with ``wait``, not all have ended in time.
            RuntimeError: called inside a task, or in a running asyncio loop (``arevoke``).
        """
        from zmqtasks.app.control import TIMEOUT_S

        results = self._as_set()
        if not len(results):
            return {}
        answer_s = TIMEOUT_S if timeout is None else timeout
        said = results.the_app().control.revoke(results.ids, terminate, signal, answer_s)
        if wait:
            results.get(timeout, propagate=False)
        return said

    async def arevoke(
        self,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        wait: bool = False,
        timeout: float | None = None,
    ) -> dict[str, str]:
        """Same as ``revoke()`` without blocking the running loop."""
        return await _in_thread(lambda: self.revoke(terminate, signal, wait, timeout))


async def _in_thread(function: Callable[[], T]) -> T:
    import asyncio

    return await asyncio.to_thread(function)
