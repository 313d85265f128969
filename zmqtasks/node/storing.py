"""Carries batches of outcomes from the node's loop into a result store.

Stores are coroutines and may wait for a disk or a network, which the loop must not. So
a :class:`StoreWriter` runs its store in a thread of its own with an event loop, and tells
the node's loop through ``call_soon`` what became of each request:

* Batches are committed in the order given. Those that wait are merged into one commit.
* When the back end fails, the same batch is tried again, later and later, until it is
  stored; nothing overtakes it and nothing is dropped.
* What waits is bounded. Past the bound ``write`` refuses: the publisher gets no
  acknowledgement and sends it again when it is asked to.
* Lookups run beside the writing and see what was committed.

What is ugly here: a row that its back end can never store (say, over a limit of that
back end) stops all after it. The log names the reason at each new one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from zmqtasks.core.rows import OutcomeRow, VerdictRow
from zmqtasks.errors import StoreError
from zmqtasks.limits import (
    STORE_BACKLOG_BYTES_MAX,
    STORE_BACKLOG_ROWS_MAX,
    STORE_EXPIRE_MS,
    STORE_MERGE_BYTES_MAX,
    STORE_MERGE_ROWS_MAX,
    STORE_READ_IDS_MAX,
    STORE_READ_IDS_PER_CALL_MAX,
    STORE_RETRY_MS_MAX,
    STORE_RETRY_MS_MIN,
)
from zmqtasks.stores.base import Store

logger = logging.getLogger("zmqtasks.node.storing")

#: What a row costs beside its body, roughly; bounds a backlog of small outcomes.
_ROW_BYTES = 600
#: Given to the store to close, beyond the time for what waits, seconds.
_CLOSE_GRACE_S = 2.0

Rows: TypeAlias = Mapping[bytes, list[OutcomeRow]]
#: Called with the rows found and "", or with no rows and why the lookup failed.
ReadCallback: TypeAlias = Callable[[Rows, str], None]


class StoreListener(NamedTuple):
    """What the node's loop wants to hear; all are called on its thread."""

    #: These batches (numbers given to ``write``) are committed.
    stored: Callable[[list[int]], None]
    #: ``write`` refused since the last call of this, and there is room again.
    room: Callable[[], None]


class StoreOptions(NamedTuple):
    """Bounds and times of a StoreWriter, for all of which there are good defaults."""

    #: For the log: the store's URL without its password.
    name: str = "store"
    #: How long results are kept after they were stored; None: for ever.
    keep_ms: int | None = None
    expire_every_ms: int = STORE_EXPIRE_MS
    retry_ms_min: int = STORE_RETRY_MS_MIN
    retry_ms_max: int = STORE_RETRY_MS_MAX
    backlog_rows_max: int = STORE_BACKLOG_ROWS_MAX
    backlog_bytes_max: int = STORE_BACKLOG_BYTES_MAX


class Backlog(NamedTuple):
    """What is not committed yet, for ``status``."""

    rows: int
    bytes: int
    #: Why the back end does not take it, "" when it does.
    failing: str


class _Write(NamedTuple):
    batch_no: int
    outcomes: Sequence[OutcomeRow]
    verdicts: Sequence[VerdictRow]
    rows: int
    bytes: int


class _Forget(NamedTuple):
    task_ids: Sequence[bytes]
    rows: int
    bytes: int


class _Mark(NamedTuple):
    """Nothing to store; tells when all before it is."""

    callback: Callable[[], None]
    rows: int = 0
    bytes: int = 0


class _Read(NamedTuple):
    task_ids: Sequence[bytes]
    callback: ReadCallback


_Item: TypeAlias = _Write | _Forget | _Mark


class StoreWriter:
    """One store, one thread. ``start`` first; all other methods may be called from any
    thread, never block but ``close``, and answer through ``call_soon``."""

    def __init__(
        self,
        store: Store,
        call_soon: Callable[..., None],
        listener: StoreListener,
        options: StoreOptions = StoreOptions(),  # noqa: B008 - immutable
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Does no input or output.

        Args:
            store: not opened; nobody else may use it.
            call_soon: runs a function on the loop's thread; callable from any thread.
            listener: told what became of the batches.
            options: bounds and times.
            wall_ms: the clock that expiry goes by.
        """
        self._store = store
        self._call_soon = call_soon
        self._listener = listener
        self._options = options
        self._wall_ms = wall_ms
        self._thread: threading.Thread | None = None
        self._opened: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        #: Set before ``_closing``.
        self._close_timeout_s = 0.0
        self._wake_writer = asyncio.Event()
        self._wake_reader = asyncio.Event()

        #: Guards all below, which both threads use.
        self._lock = threading.Lock()
        self._items: deque[_Item] = deque()
        self._reads: deque[_Read] = deque()
        #: Of all items not committed yet, also of those under way.
        self._rows = 0
        self._bytes = 0
        self._read_ids = 0
        self._failing = ""
        self._has_refused = False
        self._is_closed = False

    def start(self) -> None:
        """Open the store; blocks until that is done.

        Raises:
            ConfigError: the store can never be used; its message has the remedy.
            StoreError: it cannot be reached now.
        """
        self._thread = threading.Thread(target=self._run, name="zmqtasks-store", daemon=True)
        self._thread.start()
        self._opened.result()

    def write(
        self, batch_no: int, outcomes: Sequence[OutcomeRow], verdicts: Sequence[VerdictRow]
    ) -> bool:
        """Store a batch; ``listener.stored`` gets its number after the commit.

        Returns:
            False when the batch was not taken, since too much waits already (then
            ``listener.room`` follows) or the writer is closed.
        """
        rows = len(outcomes) + len(verdicts)
        size = rows * _ROW_BYTES + sum(len(row.body) for row in outcomes)
        return self._put(_Write(batch_no, outcomes, verdicts, rows, size))

    def forget(self, task_ids: Sequence[bytes]) -> bool:
        """Delete all that was written of these tasks before this call.

        Returns:
            False when it was not taken, as for ``write``.
        """
        return self._put(_Forget(task_ids, len(task_ids), len(task_ids) * _ROW_BYTES))

    def drain(self, callback: Callable[[], None]) -> bool:
        """Call back when all that was taken before is committed, and told.

        Returns:
            False when the writer is closed.
        """
        return self._put(_Mark(callback))

    def read(self, task_ids: Sequence[bytes], callback: ReadCallback) -> None:
        """Look tasks up; what is not committed yet is not seen."""
        with self._lock:
            reason = ""
            if self._is_closed:
                reason = f"{self._options.name} is closed"
            elif self._reads and self._read_ids + len(task_ids) > STORE_READ_IDS_MAX:
                reason = f"{self._options.name} has too many questions to answer, ask again later"
            else:
                self._reads.append(_Read(task_ids, callback))
                self._read_ids += len(task_ids)
                self._wake(self._wake_reader, is_first=len(self._reads) == 1)
        if reason:
            self._call_soon(callback, {}, reason)

    def backlog(self) -> Backlog:
        """What waits, and why."""
        with self._lock:
            return Backlog(self._rows, self._bytes, self._failing)

    def close(self, timeout_s: float) -> int:
        """Store what waits, close the store and end the thread; blocks for that long.

        ``listener.stored`` is still told of what got stored, if the loop runs on.

        Args:
            timeout_s: how long to try.

        Returns:
            How many rows could not be stored.
        """
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if self._thread is None:
            return 0
        if not was_closed and self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._begin_close, timeout_s)
        self._thread.join(timeout_s + _CLOSE_GRACE_S)
        return self.backlog().rows

    # --- the loop's side --------------------------------------------------------------

    def _put(self, item: _Item) -> bool:
        options = self._options
        with self._lock:
            if self._is_closed:
                return False
            # One that is over the bounds all by itself passes when nothing else waits.
            is_full = self._rows > 0 and (
                self._rows + item.rows > options.backlog_rows_max
                or self._bytes + item.bytes > options.backlog_bytes_max
            )
            if is_full and item.rows:
                was_refused, self._has_refused = self._has_refused, True
            else:
                was_refused = True
                self._items.append(item)
                self._rows += item.rows
                self._bytes += item.bytes
                self._wake(self._wake_writer, is_first=len(self._items) == 1)
                return True
        if not was_refused:
            logger.warning(
                "store.full store=%s rows=%d bytes=%d: results wait at their workers until the "
                "store has caught up",
                options.name,
                self._rows,
                self._bytes,
            )
        return False

    def _wake(self, event: asyncio.Event, *, is_first: bool) -> None:
        """Wake the thread, once for all that it will find."""
        if is_first and self._loop is not None:
            with suppress(RuntimeError):  # the thread is ending; who waits is told there
                self._loop.call_soon_threadsafe(event.set)

    # --- the thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as exc:
            if self._opened.done():
                logger.critical("store.stopped store=%s", self._options.name, exc_info=exc)
            else:
                self._opened.set_exception(exc)
        finally:
            with self._lock:
                self._is_closed = True
            self._refuse_reads()

    async def _main(self) -> None:
        await self._store.open()
        self._loop = asyncio.get_running_loop()
        writer = asyncio.create_task(self._write_all())
        others = [asyncio.create_task(self._read_all())]
        if self._options.keep_ms is not None:
            others.append(asyncio.create_task(self._expire_all(self._options.keep_ms)))
        closing = asyncio.create_task(self._closing.wait())
        # For what was asked for before the store was open.
        self._wake_writer.set()
        self._wake_reader.set()
        self._opened.set_result(None)
        # Ends early only by a bug in here, which must not be waited for in silence.
        await asyncio.wait([closing, writer, *others], return_when=asyncio.FIRST_COMPLETED)
        if closing.done():
            await asyncio.wait([writer], timeout=self._close_timeout_s)
        tasks = [closing, writer, *others]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_GRACE_S):
                await self._store.close()
        for result in results:
            if isinstance(result, Exception):
                raise result

    def _begin_close(self, timeout_s: float) -> None:
        self._close_timeout_s = timeout_s
        self._closing.set()
        self._wake_writer.set()

    async def _write_all(self) -> None:
        while True:
            await self._wake_writer.wait()
            self._wake_writer.clear()
            while group := self._take_group():
                await self._until_done(group)
            if self._closing.is_set():
                return

    def _take_group(self) -> list[_Item]:
        """The first items that can be carried out together; none when nothing waits."""
        group: list[_Item] = []
        rows = size = 0
        with self._lock:
            while self._items:
                item = self._items[0]
                rows += item.rows
                size += item.bytes
                if group and (
                    type(item) is not type(group[0])
                    or rows > STORE_MERGE_ROWS_MAX
                    or size > STORE_MERGE_BYTES_MAX
                ):
                    break
                group.append(self._items.popleft())
        return group

    async def _until_done(self, group: list[_Item]) -> None:
        """Carry out, again and again until it succeeds; order forbids anything else."""
        delay_ms = self._options.retry_ms_min
        while True:
            try:
                await self._carry_out(group)
            except Exception as exc:  # noqa: BLE001 - a store is a plug-in
                self._note_failure(exc)
                await self._pause(delay_ms)
                delay_ms = min(2 * delay_ms, self._options.retry_ms_max)
            else:
                self._note_success(group)
                return

    async def _pause(self, delay_ms: int) -> None:
        """Wait before trying again, but try at once when the writer is told to close."""
        if self._closing.is_set():
            await asyncio.sleep(delay_ms / 1000)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_ms / 1000):
                await self._closing.wait()

    async def _carry_out(self, group: list[_Item]) -> None:
        writes = [item for item in group if isinstance(item, _Write)]
        if writes:
            # Merging keeps the meaning: first rows and first verdicts stay first.
            await self._store.put_batch(
                [row for item in writes for row in item.outcomes],
                [verdict for item in writes for verdict in item.verdicts],
            )
        forgets = [item for item in group if isinstance(item, _Forget)]
        if forgets:
            await self._store.delete([task_id for item in forgets for task_id in item.task_ids])

    def _note_failure(self, exc: Exception) -> None:
        reason = str(exc) or type(exc).__name__
        with self._lock:
            is_news = reason != self._failing
            self._failing = reason
            rows = self._rows
        if is_news:
            # Anything but a StoreError is a bug of the back end: show where.
            trace = None if isinstance(exc, StoreError) else exc
            logger.warning(
                "store.failing store=%s backlog_rows=%d: %s; trying again until it works",
                self._options.name,
                rows,
                reason,
                exc_info=trace,
            )

    def _note_success(self, group: list[_Item]) -> None:
        half_rows = self._options.backlog_rows_max // 2
        half_bytes = self._options.backlog_bytes_max // 2
        with self._lock:
            self._rows -= sum(item.rows for item in group)
            self._bytes -= sum(item.bytes for item in group)
            has_recovered, self._failing = bool(self._failing), ""
            # Half, so that it is not told and refused in turns.
            tell_room = self._has_refused and self._rows <= half_rows and self._bytes <= half_bytes
            if tell_room:
                self._has_refused = False
        if has_recovered:
            logger.warning("store.recovered store=%s", self._options.name)
        stored = [item.batch_no for item in group if isinstance(item, _Write)]
        if stored:
            self._call_soon(self._listener.stored, stored)
        for item in group:
            if isinstance(item, _Mark):
                self._call_soon(item.callback)
        if tell_room:
            self._call_soon(self._listener.room)

    async def _read_all(self) -> None:
        while True:
            await self._wake_reader.wait()
            self._wake_reader.clear()
            while reads := self._take_reads():
                await self._answer(reads)

    def _take_reads(self) -> list[_Read]:
        """Lookups that one call of the store can answer."""
        reads: list[_Read] = []
        count = 0
        with self._lock:
            while self._reads:
                count += len(self._reads[0].task_ids)
                if reads and count > STORE_READ_IDS_PER_CALL_MAX:
                    break
                reads.append(self._reads.popleft())
            self._read_ids -= sum(len(read.task_ids) for read in reads)
        return reads

    async def _answer(self, reads: list[_Read]) -> None:
        found: Rows = {}
        reason = ""
        try:
            found = await self._store.get_batch(
                list(dict.fromkeys(task_id for read in reads for task_id in read.task_ids))
            )
        except asyncio.CancelledError:
            reason = f"{self._options.name} is closed"
            raise
        except Exception as exc:  # noqa: BLE001 - a store is a plug-in
            reason = str(exc) or type(exc).__name__
        finally:
            # Whatever happens: who asks is answered.
            self._call_soon(
                _tell,
                [
                    (read.callback, {key: found[key] for key in read.task_ids if key in found})
                    for read in reads
                ],
                reason,
            )

    def _refuse_reads(self) -> None:
        with self._lock:
            reads = list(self._reads)
            self._reads.clear()
            self._read_ids = 0
        if reads:
            reason = f"{self._options.name} is closed"
            self._call_soon(_tell, [(read.callback, {}) for read in reads], reason)

    async def _expire_all(self, keep_ms: int) -> None:
        while True:
            try:
                dropped = await self._store.expire(self._wall_ms() - keep_ms)
            except Exception as exc:  # noqa: BLE001 - a store is a plug-in
                logger.warning(
                    "store.expire_failed store=%s: %s; trying again later", self._options.name, exc
                )
            else:
                logger.debug("store.expired store=%s rows=%d", self._options.name, dropped)
            await asyncio.sleep(self._options.expire_every_ms / 1000)


def _tell(answers: list[tuple[Callable[[Any, str], None], Rows]], reason: str) -> None:
    for callback, rows in answers:
        callback(rows, reason)
