"""The journal of a client: its code, a thread's work and its files come when they are needed.

Most scripts never write anything, and loading SQLite and all that goes with it takes a good
part of the start of a process. The thread is there from the beginning all the same: some
Pythons (3.12) start no more threads when a process ends, and that is when most of those
scripts have something to write that ever do.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from zmqtasks.core import effects as fx

if TYPE_CHECKING:
    from zmqtasks.node.journalkeeper import JournalKeeper
    from zmqtasks.node.runtime import Runtime

#: For what is under way when the process ends, in seconds.
_CLOSE_S = 10.0


class ClientJournal:
    """Stands for the JournalKeeper of a client. ``start`` is called before the loop runs and
    ``close`` after it has ended, the rest on its thread.

    Args:
        runtime: of the process; not opened yet.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._keeper: JournalKeeper | None = None
        #: Written before there was a keeper.
        self._waiting: list[fx.JournalWrite] = []
        #: Ends the wait of the thread: True, something is to be written; False, nothing is.
        self._wanted: SimpleQueue[bool] = SimpleQueue()
        self._loaded: Future[JournalKeeper] = Future()
        self._thread = threading.Thread(target=self._serve, name="zmqtasks-journal", daemon=True)
        runtime.part.has_journal = True

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _serve(self) -> None:
        if not self._wanted.get():
            return
        try:
            from zmqtasks.node.journalkeeper import JournalKeeper

            keeper = JournalKeeper(self._runtime, _told_with_each_refusal)
        except BaseException as exc:  # noqa: BLE001 - a Python without SQLite: told on the loop
            self._loaded.set_exception(exc)
            self._runtime.loop.call_soon(self._took)
            return
        self._loaded.set_result(keeper)
        self._runtime.loop.call_soon(self._took)
        keeper.serve()

    def _took(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._loaded.exception() is None:
            self._keeper = self._loaded.result()
        for effect in waiting:
            self.write(effect)

    def write(self, effect: fx.JournalWrite) -> None:
        """Commit a batch; the mesh is told what became of it."""
        if self._keeper is not None:
            self._keeper.write(effect)
        elif self._loaded.done() and self._loaded.exception() is not None:
            self._refuse(effect, f"there is no journal: {self._loaded.exception()}")
        else:
            if not self._waiting:
                self._wanted.put(True)
            self._waiting.append(effect)

    def _refuse(self, effect: fx.JournalWrite, reason: str) -> None:
        mesh = self._runtime.mesh
        if effect.puts:
            mesh.journal_refused([effect.batch], reason)
        else:
            mesh.journaled([effect.batch])

    def describe(self) -> dict[str, Any] | None:
        """See ``JournalKeeper.describe``."""
        return self._keeper.describe() if self._keeper is not None else None

    @property
    def backlog(self) -> int:
        """See ``JournalKeeper.backlog``."""
        return self._keeper.backlog if self._keeper is not None else 0

    def close(self) -> int:
        """Write what waits and let others have the slot; see ``JournalKeeper.close``."""
        self._wanted.put(False)
        if self._waiting:
            with suppress(Exception):
                self._loaded.result(_CLOSE_S)
                self._took()
        if self._keeper is not None:
            return self._keeper.close()
        if self._thread.is_alive() and not self._waiting:
            self._thread.join()
        return sum(len(effect.puts) for effect in self._waiting)


def _told_with_each_refusal(_error: Exception) -> None:
    """A damaged journal stops a node; a client goes on, and what needs one is refused."""
