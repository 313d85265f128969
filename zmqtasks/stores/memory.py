"""``memory://``: results kept in the store node's memory, gone when it ends.

For tests and for results that nobody needs after a restart. Bodies are bounded by
``memory://?bytes_max=``; past it ``put_batch`` refuses instead of forgetting older
results silently: the workers then keep what was refused until expiry has made room.
"""

from __future__ import annotations

import asyncio
import copy
import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from zmqtasks.core.rows import OutcomeRow, VerdictRow, final_row
from zmqtasks.errors import ConfigError, StoreError
from zmqtasks.limits import MEMORY_STORE_BYTES_MAX, STORE_EXPIRE_ROWS_MAX
from zmqtasks.stores.registry import StoreURL
from zmqtasks.wire.messages import Verdict

#: What a row costs beside its body, roughly (measured: 560 bytes with short names).
_ROW_BYTES = 600

#: What the named rows are: ``Queryable.list`` hides the builtin in the class body.
_Rows = list[OutcomeRow]


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def from_url(url: StoreURL) -> MemoryStore:
    """The store of a ``memory://`` URL.

    Raises:
        ConfigError: the URL has a host, a path or an unknown parameter.
    """
    if url.authority or url.path not in ("", "/"):
        raise ConfigError(f"store {url}: memory:// takes no host and no path")
    url.check_params({"bytes_max": "bytes that it may hold"})
    return MemoryStore(bytes_max=url.int_param("bytes_max", MEMORY_STORE_BYTES_MAX))


class MemoryStore:
    """Implements ``Store`` and ``Queryable`` with dicts."""

    capabilities = frozenset({"queryable"})

    def __init__(
        self,
        *,
        bytes_max: int = MEMORY_STORE_BYTES_MAX,
        wall_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        self._bytes_max = bytes_max
        self._wall_ms = wall_ms
        self._bytes = 0
        self._is_closed = False
        #: Total of rows ever stored; the order of first storing.
        self._ordinal = 0
        #: {task id: {attempt: (ordinal, row)}}, inner dicts in the order first stored.
        self._tasks: dict[bytes, dict[int, tuple[int, OutcomeRow]]] = {}
        #: {task id: {attempt: (verdict, received_ms)}} without an outcome so far.
        self._early: dict[bytes, dict[int, tuple[int, int]]] = {}

    async def open(self) -> None:
        """See ``Store.open``."""
        self._check_open()

    async def put_batch(
        self, outcomes: Sequence[OutcomeRow], verdicts: Sequence[VerdictRow]
    ) -> None:
        """See ``Store.put_batch``.

        Raises:
            StoreError: it would hold more than ``bytes_max``; nothing was stored.
        """
        self._check_open()
        self._check_room(outcomes)
        for row in outcomes:
            self._put_outcome(row)
        for verdict in verdicts:
            self._put_verdict(verdict)

    async def get_batch(self, task_ids: Sequence[bytes]) -> Mapping[bytes, _Rows]:
        """See ``Store.get_batch``."""
        self._check_open()
        return {
            task_id: [_copied(row) for _, row in attempts.values()]
            for task_id in task_ids
            if (attempts := self._tasks.get(task_id))
        }

    async def delete(self, task_ids: Sequence[bytes]) -> None:
        """See ``Store.delete``."""
        self._check_open()
        for task_id in task_ids:
            self._early.pop(task_id, None)
            for _, row in self._tasks.pop(task_id, {}).values():
                self._bytes -= _size(row)

    async def expire(self, before_ms: int) -> int:
        """See ``Store.expire``."""
        self._check_open()
        dropped = 0
        for number, task_id in enumerate(list(self._tasks), start=1):
            dropped += self._expire_task(task_id, before_ms)
            if number % STORE_EXPIRE_ROWS_MAX == 0:
                await asyncio.sleep(0)
        for task_id, early in list(self._early.items()):
            kept = {key: value for key, value in early.items() if value[1] >= before_ms}
            if kept:
                self._early[task_id] = kept
            else:
                del self._early[task_id]
        return dropped

    async def close(self) -> None:
        """See ``Store.close``."""
        self._is_closed = True
        self._tasks.clear()
        self._early.clear()

    async def list(
        self,
        *,
        status: int | None = None,
        name: str | None = None,
        since_ms: int | None = None,
        limit: int = 100,
    ) -> _Rows:
        """See ``Queryable.list``."""
        self._check_open()

        def wanted() -> Iterator[tuple[int, int, OutcomeRow]]:
            for attempts in self._tasks.values():
                row = final_row([row for _, row in attempts.values()])
                if (
                    row is not None
                    and (status is None or row.status == status)
                    and (name is None or row.name == name)
                    and (since_ms is None or row.stored_ms >= since_ms)
                ):
                    yield row.stored_ms, attempts[row.attempt][0], row

        newest = heapq.nlargest(limit, wanted(), key=lambda item: item[:2])
        return [_copied(row) for _, _, row in newest]

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreError("the result store memory:// is closed")

    def _check_room(self, outcomes: Sequence[OutcomeRow]) -> None:
        """Count only new rows: a full store still takes repetitions and verdicts."""
        new = {
            (row.task_id, row.attempt): _size(row)
            for row in outcomes
            if row.attempt not in self._tasks.get(row.task_id, ())
        }
        size = self._bytes + sum(new.values())
        if new and size > self._bytes_max:
            raise StoreError(
                f"the result store memory:// is full: {size} bytes would be over its limit of "
                f"{self._bytes_max}; raise memory://?bytes_max=, keep results for a shorter time "
                "or use sqlite:///…"
            )

    def _put_outcome(self, row: OutcomeRow) -> None:
        attempts = self._tasks.setdefault(row.task_id, {})
        known = attempts.get(row.attempt)
        if known is not None:
            if known[1].verdict == Verdict.NONE:
                known[1].verdict = _one_settled(attempts, row.verdict)
            return
        row = _copied(row)
        early = self._early.get(row.task_id)
        if early is not None and row.attempt in early:
            row.verdict = early.pop(row.attempt)[0]
            if not early:
                del self._early[row.task_id]
        row.verdict = _one_settled(attempts, row.verdict)
        self._ordinal += 1
        attempts[row.attempt] = (self._ordinal, row)
        self._bytes += _size(row)

    def _put_verdict(self, verdict: VerdictRow) -> None:
        if verdict.verdict == Verdict.NONE:
            return
        known = self._tasks.get(verdict.task_id, {}).get(verdict.attempt)
        if known is None:
            early = self._early.setdefault(verdict.task_id, {})
            early.setdefault(verdict.attempt, (verdict.verdict, self._wall_ms()))
        elif known[1].verdict == Verdict.NONE:
            attempts = self._tasks[verdict.task_id]
            known[1].verdict = _one_settled(attempts, verdict.verdict)

    def _expire_task(self, task_id: bytes, before_ms: int) -> int:
        # Deleted by another call since the ids were listed: nothing is left to drop.
        attempts = self._tasks.get(task_id, {})
        old = [attempt for attempt, (_, row) in attempts.items() if row.stored_ms < before_ms]
        for attempt in old:
            self._bytes -= _size(attempts.pop(attempt)[1])
        if old and not attempts:
            del self._tasks[task_id]
        return len(old)


def _copied(row: OutcomeRow) -> OutcomeRow:
    """A row of its own; ``ext`` may be nested and is almost always empty."""
    row = copy.copy(row)
    if row.ext:
        row.ext = copy.deepcopy(row.ext)
    return row


def _size(row: OutcomeRow) -> int:
    return len(row.body) + _ROW_BYTES


def _one_settled(attempts: Mapping[int, tuple[int, OutcomeRow]], verdict: int) -> int:
    """The verdict, if no other attempt of the task is settled already."""
    if verdict == Verdict.SETTLED and any(
        row.verdict == Verdict.SETTLED for _, row in attempts.values()
    ):
        return Verdict.REFUSED
    return verdict
