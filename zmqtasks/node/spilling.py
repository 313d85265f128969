"""Carries results that wait for a store from the node's loop to the disk and back.

A disk may be slow, which the loop must not be. So a :class:`Spiller` uses its file in a
thread of its own, which begins with the first effect, and answers through ``call_soon``:

* Effects are carried out in the order given, each is answered, and a large deletion is
  done in pieces between the others.
* A write that finds no room is answered with the reason: its rows are still in memory.
* A disk that fails is tried again a few times. When it cannot be read any more, what was
  there is lost, ``broken`` is told once, and the next write begins a new file.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from zmqtasks import paths
from zmqtasks.core.effects import SpillFind, SpillRead, SpillTrim, SpillWrite
from zmqtasks.core.spillrows import SpillPiece, SpillRow, SpillState
from zmqtasks.errors import JournalError, JournalFull
from zmqtasks.limits import SPILL_FIND_IDS_MAX, SPILL_TRIES

if TYPE_CHECKING:
    from zmqtasks.core.publishing import Publisher
    from zmqtasks.journals.spill import SpillFile
    from zmqtasks.node.runtime import Runtime

logger = logging.getLogger("zmqtasks.node.spilling")

#: Between two tries of a disk that fails, seconds.
_AGAIN_S = 0.05
#: Given to what is under way when the node ends, seconds.
_CLOSE_S = 5.0

SpillEffect: TypeAlias = SpillWrite | SpillRead | SpillFind | SpillTrim


class SpillListener(NamedTuple):
    """What the node's loop wants to hear; all are called on its thread."""

    #: A write has ended: "" or why nothing of it is on the disk, and what is there now.
    spilled: Callable[[str, SpillState], None]
    #: Rows were read for this token.
    read: Callable[[int, SpillPiece], None]
    #: Outcomes were looked up for this token; "" or why they could not be.
    found: Callable[[int, list[SpillRow], str], None]
    #: A trim is done; what is there now.
    trimmed: Callable[[SpillState], None]
    #: All that was there is lost, and why. What was asked for then is answered as from an
    #: empty file.
    broken: Callable[[str], None]


def make_spiller(runtime: Runtime) -> Spiller:
    """For the result log of a node, with its settings; does no input or output."""
    settings = runtime.settings

    def publisher() -> Publisher:
        return runtime.mesh.publisher

    def file() -> SpillFile:
        from zmqtasks.journals.spill import SpillFile  # slow: it brings SQLite along

        return SpillFile(
            lambda: paths.state_dir(settings) / "spill", settings.result_spill_bytes_max
        )

    return Spiller(
        file,
        runtime.loop.call_soon,
        SpillListener(
            spilled=lambda error, state: publisher().spilled(error, state, runtime.now_ms),
            read=lambda token, piece: publisher().spill_read(token, piece),
            found=lambda token, rows, why: runtime.mesh.answers.spill_found(token, rows, why),
            trimmed=lambda state: publisher().spill_trimmed(state),
            broken=lambda error: publisher().spill_broken(error, runtime.now_ms),
        ),
    )


class Spiller:
    """One spill file, one thread. ``perform`` may be called from any thread and never
    blocks.

    Args:
        file: makes the file, in the thread; nobody else may use it.
        call_soon: runs a function on the loop's thread; callable from any thread.
        listener: told what became of each effect.
    """

    def __init__(
        self, file: Callable[[], SpillFile], call_soon: Callable[..., None],
        listener: SpillListener,
    ) -> None:  # fmt: skip
        self._make_file = file
        self._file: SpillFile
        self._call_soon = call_soon
        self._listener = listener
        self._thread: threading.Thread | None = None
        #: Guards all below; notified when there is something to do.
        self._changed = threading.Condition(threading.Lock())
        self._effects: deque[SpillEffect] = deque()
        #: Of the lookups that wait.
        self._ids = 0
        self._is_closed = False

    @property
    def performers(self) -> dict[type, Callable[[Any], None]]:
        """What carries out which effect."""
        return dict.fromkeys((SpillWrite, SpillRead, SpillFind, SpillTrim), self.perform)

    def perform(self, effect: SpillEffect) -> None:
        """Carry an effect out; what comes after ``close`` is not answered."""
        with self._changed:
            if isinstance(effect, SpillFind):
                if self._ids and self._ids + len(effect.ids) > SPILL_FIND_IDS_MAX:
                    reason = "too many lookups wait for this node's disk, ask again later"
                    self._call_soon(self._listener.found, effect.token, [], reason)
                    return
                self._ids += len(effect.ids)
            self._effects.append(effect)
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(
                    target=self._run, name="zmqtasks-spill", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End the thread and give the file back to the disk; what waits is left."""
        with self._changed:
            self._is_closed = True
            self._effects.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    # --- the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        self._file = self._make_file()
        try:
            while (effect := self._next()) is not None:
                try:
                    self._repeat(effect)
                except JournalError as exc:
                    self._failed(effect, str(exc))
                except Exception as exc:
                    logger.critical("spill.failed", exc_info=exc)
                    self._failed(effect, repr(exc))
        finally:
            self._file.close()

    def _next(self) -> SpillEffect | None:
        with self._changed:
            while not self._effects:
                if self._is_closed:
                    return None
                self._changed.wait()
            effect = self._effects.popleft()
            if isinstance(effect, SpillFind):
                self._ids -= len(effect.ids)
            return effect

    def _repeat(self, effect: SpillEffect) -> None:
        for _ in range(SPILL_TRIES - 1):
            try:
                self._carry_out(effect)
            except JournalFull:
                raise
            except JournalError:
                time.sleep(_AGAIN_S)
            else:
                return
        self._carry_out(effect)

    def _carry_out(self, effect: SpillEffect) -> None:
        file, listener = self._file, self._listener
        if isinstance(effect, SpillWrite):
            file.write(effect.rows, effect.changes)
            self._call_soon(listener.spilled, "", file.state)
        elif isinstance(effect, SpillRead):
            piece = file.read(effect.first, effect.last, effect.count_max, effect.bytes_max)
            self._call_soon(listener.read, effect.token, piece)
        elif isinstance(effect, SpillFind):
            self._call_soon(listener.found, effect.token, file.find(effect.ids), "")
        else:
            file.drop(effect.positions, effect.ids)
            if file.trim(effect.upto, effect.before_ms):
                with self._changed:
                    # What has come meanwhile has its turn first.
                    self._effects.append(effect._replace(positions=[], ids=[]))
            else:
                self._call_soon(listener.trimmed, file.state)

    def _failed(self, effect: SpillEffect, reason: str) -> None:
        """Answer all the same. Rows stay in memory until they are written, so a failed write
        loses nothing; what cannot be read is lost."""
        listener = self._listener
        if isinstance(effect, SpillWrite):
            self._call_soon(listener.spilled, reason, self._file.state)
            return
        self._file.close()
        self._call_soon(listener.broken, reason)
        if isinstance(effect, SpillRead):
            self._call_soon(listener.read, effect.token, SpillPiece([], effect.last))
        elif isinstance(effect, SpillFind):
            self._call_soon(listener.found, effect.token, [], reason)
        else:
            self._call_soon(listener.trimmed, self._file.state)
