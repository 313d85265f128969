"""The journal of a process: what its machines want written goes to a disk, and they are told
what became of it.

There are two ways to begin:

* A *node* claims a slot before it joins the mesh (``start_node``): it is the node of that
  slot, with its id and the tasks in it, and takes over what ended processes left in others.
* A *client* claims a slot when it first has something to write (``serve``, see
  ``clientjournal.py``): most scripts never do. It keeps its own id, takes over nothing, and only
  wants an empty slot.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple

from zmqtasks import paths
from zmqtasks.core import effects as fx
from zmqtasks.core.owned import Dead, Durability, OwnedRecord, Progress, parse_mark
from zmqtasks.errors import ConfigError, JournalCorrupt, JournalError, JournalFull
from zmqtasks.ids import format_node
from zmqtasks.journals.slots import JournalSlots, Slot
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.node.adopting import Adopter
from zmqtasks.node.journaling import JournalListener, JournalOptions, JournalWriter
from zmqtasks.node.runtime import Runtime
from zmqtasks.words import counted

_LOG = logging.getLogger("zmqtasks.node.journaling")
_CLOSE_S = 10.0


class _Opened(NamedTuple):
    """A claimed slot and the writer of the journal in it."""

    slot: Slot
    writer: JournalWriter
    records: list[OwnedRecord]
    #: Ended nodes that the slot was left by, or whose journals came into it.
    heir_of: Sequence[bytes]
    #: It survives a power loss.
    is_lasting: bool


class JournalKeeper:
    """The journal of one process.

    All but ``start_node``, ``serve`` and ``close`` is called on the loop's thread.

    Args:
        runtime: of the process.
        broken: told on the loop's thread that the journal turned out to be damaged; a
            node must stop then, a client goes on and what needs a journal is refused.
    """

    def __init__(self, runtime: Runtime, broken: Callable[[JournalError], None]) -> None:
        self._runtime = runtime
        self._broken = broken
        self._slots: JournalSlots | None = None
        self._opened: _Opened | None = None
        self._adopter: Adopter | None = None
        #: A lazy start under way, and what waits for it.
        self._opening: Future[_Opened] | None = None
        #: Openings for the thread in ``serve``; None ends it.
        self._wanted: SimpleQueue[Future[_Opened] | None] = SimpleQueue()
        self._waiting: list[fx.JournalWrite] = []
        #: Why there is no journal, "" where there is one or nothing was written yet.
        self._why_not = ""
        #: {batch: what is to be written}, of all that the writer has not answered yet.
        self._under_way: dict[int, fx.JournalWrite] = {}
        self._is_leaving = False
        self._has_warned = False
        #: Tasks that were in the journal at the start, and that came from others' since.
        self.resumed_count = 0
        self.adopted_count = 0

    # --- beginning ------------------------------------------------------------------------

    def start_node(self, *, is_required: bool) -> None:
        """Claim a slot, become its node and read its journal; before the mesh is joined.

        Without ``is_required`` a node goes on without a journal, with a warning, where none
        can be had.

        Raises:
            JournalCorrupt: the journal in the slot is damaged.
            ConfigError, JournalError: there is none, and it is required; or a newer
                version wrote it.
        """
        try:
            slots = JournalSlots(paths.journal_dir(self._runtime.settings))
            slot = slots.claim_free()
        except (ConfigError, JournalError) as exc:
            self._go_without(exc, is_required)
            return
        try:
            opened = self._open(slot, slot.inherited())
        except (ConfigError, JournalCorrupt):
            slot.release()
            raise
        except JournalError as exc:
            slot.release()
            self._go_without(exc, is_required)
            return
        self._slots, self._opened = slots, opened
        part = self._runtime.part
        part.has_journal, part.is_journal_lasting = True, opened.is_lasting
        self._runtime.take_identity(slot.node, slot.epoch)

    def _go_without(self, exc: ConfigError | JournalError, is_required: bool) -> None:
        if is_required:
            text = f"a broker cannot do without a journal: {exc}"
            raise ConfigError(text) if isinstance(exc, ConfigError) else JournalError(text)
        self._why_not = str(exc)
        _LOG.warning(
            "journal.none: %s; until it is started anew this node takes over no tasks of others, "
            "and those that it owns end with it", exc,
        )  # fmt: skip

    def joined(self) -> None:
        """The machines are there: a node owns what was in its journal, and adopts."""
        opened, slots = self._opened, self._slots
        if opened is None or slots is None:
            return
        mesh = self._runtime.mesh
        assert mesh.dispatcher is not None
        mesh.resume(opened.records, self._runtime.now_ms, opened.heir_of)
        self.resumed_count = len(mesh.dispatcher.tasks)
        opened.records.clear()
        self._adopter = Adopter(
            slots, opened.slot, opened.writer, self._runtime.loop.call_soon, self._adopted
        )
        self._adopter.start()

    def look(self) -> None:
        """A process of this host has ended."""
        if self._adopter is not None:
            self._adopter.look()

    def stop_adopting(self) -> None:
        """This node is about to leave."""
        self._is_leaving = True
        if self._adopter is not None:
            self._adopter.stop()

    def _adopted(self, records: Sequence[OwnedRecord], heir_of: Sequence[bytes]) -> None:
        if self._is_leaving:
            return  # they lie in this node's slot, for whoever has it next
        mesh = self._runtime.mesh
        assert mesh.dispatcher is not None
        before = len(mesh.dispatcher.tasks)
        former = heir_of[-1] if heir_of else b""
        mesh.adopt(former, records, heir_of, self._runtime.now_ms)
        count = len(mesh.dispatcher.tasks) - before
        self.adopted_count += count
        _LOG.log(
            logging.INFO if count else logging.DEBUG,
            "took over %s that a process of this host left (node %s)", counted(count, "task"),
            format_node(former) or "unknown",
        )  # fmt: skip

    def _open(
        self, slot: Slot, inherited: Sequence[Any] = (), *, is_served: bool = False
    ) -> _Opened:
        """``is_served``: this very thread is going to do its work."""
        listener = JournalListener(self._committed, self._refused, _nothing, self._broke)
        writer = JournalWriter(
            SqliteJournal(slot.journal_folder), self._runtime.loop.call_soon, listener,
            JournalOptions(name=str(slot.folder)),
        )  # fmt: skip
        start = writer.open if is_served else writer.start
        records = start(inherited)
        heir_of: Sequence[bytes] = ()
        try:
            heir_of = slot.heir_of()
        except JournalError as exc:
            _LOG.warning("journal.former slot=%d: %s", slot.number, exc)
        return _Opened(slot, writer, records, heir_of, slot.is_lasting())

    # --- writing --------------------------------------------------------------------------

    def write(self, effect: fx.JournalWrite) -> None:
        """Commit a batch; the mesh is told what became of it."""
        opened = self._opened
        if opened is None:
            self._waiting.append(effect)
            self._open_later()
            return
        if not opened.is_lasting:
            self._warn_fleeting(opened.slot, effect.puts)
        if opened.writer.write(
            effect.batch, effect.puts, effect.progress, effect.drops, sync=effect.sync
        ):
            self._under_way[effect.batch] = effect
        else:
            self._answer([effect], self._why_not or self._why_not_taken(opened))

    def _why_not_taken(self, opened: _Opened) -> str:
        backlog = opened.writer.backlog()
        return backlog.failing or (
            f"too much waits for the disk ({counted(backlog.changes, 'change')}, "
            f"{backlog.bytes:,} bytes) of journal "
            f"{opened.slot.folder}: submit more slowly, or put the journals on a faster disk "
            "(ZMQTASKS_STATE_DIR)"
        )

    def _answer(self, writes: Iterable[fx.JournalWrite], refusal: str) -> None:
        """Nothing can be written: new tasks are refused, what became of others goes on.

        But nobody is told that a journal says whose a task is when it may not say so: whoever
        reads it later would go by what it does say.
        """
        mesh = self._runtime.mesh
        is_there = self._opened is not None
        with_puts: list[int] = []
        others: list[int] = []
        for write in writes:
            if write.puts:
                with_puts.append(write.batch)
            elif not (is_there and any(map(_is_handoff, write.progress))):
                others.append(write.batch)
        if with_puts:
            mesh.journal_refused(with_puts, refusal)
        if others:
            mesh.journaled(others)

    def _warn_fleeting(self, slot: Slot, puts: Sequence[OwnedRecord]) -> None:
        if self._has_warned or not any(put.durability is Durability.DISK for put in puts):
            return
        self._has_warned = True
        _LOG.warning(
            "journal.fleeting: journal %s is on a file system in memory, so tasks with "
            "durability='disk' survive this process but no power loss; put the journals on a disk "
            "(ZMQTASKS_STATE_DIR)", slot.folder,
        )  # fmt: skip

    # --- a client's journal, when there is something to write -----------------------------

    def _open_later(self) -> None:
        if self._opening is not None:
            return
        self._opening = Future()
        self._wanted.put(self._opening)

    def serve(self) -> None:
        """Be the thread of a client's journal, until ``close``."""
        while (opening := self._wanted.get()) is not None:
            try:
                opened = self._claim()
            except BaseException as exc:  # noqa: BLE001 - told to whoever waits
                opening.set_exception(exc)
                self._runtime.loop.call_soon(self._opening_ended)
                continue
            opening.set_result(opened)
            self._runtime.loop.call_soon(self._opening_ended)
            opened.writer.serve()
            return

    def _claim(self) -> _Opened:
        slots = JournalSlots(paths.journal_dir(self._runtime.settings))
        slot = slots.claim_free(only_empty=True, node=self._runtime.node)
        try:
            return self._open(slot, is_served=True)
        except BaseException:
            slot.release()
            raise

    def _opening_ended(self) -> None:
        opening, self._opening = self._opening, None
        if opening is None:
            return
        waiting, self._waiting = self._waiting, []
        exc = opening.exception()
        if exc is not None:
            # The next write tries again; the same trouble is told once.
            why_not, self._why_not = self._why_not, str(exc) or repr(exc)
            if why_not != self._why_not:
                _LOG.warning("journal.none: %s; durable calls are refused until there is one", exc)
            self._answer(waiting, self._why_not)
            return
        self._why_not = ""
        self._opened = opened = opening.result()
        if opened.heir_of:
            # The slot was empty. Whoever asks for a task that ended there is to be told so.
            self._runtime.mesh.adopt(b"", [], opened.heir_of, self._runtime.now_ms)
        for effect in waiting:
            self.write(effect)

    # --- what the writer says -------------------------------------------------------------

    def _committed(self, batches: list[int]) -> None:
        for batch in batches:
            self._under_way.pop(batch, None)
        self._runtime.mesh.journaled(batches)

    def _refused(self, batches: list[int], error: JournalError) -> None:
        for batch in batches:
            self._under_way.pop(batch, None)
        is_certain = isinstance(error, JournalFull)
        self._runtime.mesh.journal_refused(batches, str(error), is_certain=is_certain)

    def _broke(self, error: JournalError) -> None:
        self._why_not = str(error)
        under_way, self._under_way = self._under_way, {}
        self._answer(under_way.values(), self._why_not)
        self._broken(error)

    # --- describing -----------------------------------------------------------------------

    def describe(self) -> dict[str, Any] | None:
        """Plain data for `zmqtasks status`; None while nothing needs a journal.

        Keys: ``slot`` (None: there is no journal), ``folder``, ``lasting``, ``tasks`` (open
        ones that are in it), ``waiting`` (changes on their way to the disk), ``failing`` ("" or
        why it takes nothing), ``resumed`` and ``adopted`` (tasks).
        """
        opened = self._opened
        if opened is None:
            return {"slot": None, "failing": self._why_not} if self._why_not else None
        backlog = opened.writer.backlog()
        dispatcher = self._runtime.mesh.dispatcher
        tasks = dispatcher.tasks.values() if dispatcher is not None else ()
        return {
            "slot": opened.slot.number,
            "folder": str(opened.slot.folder),
            "lasting": opened.is_lasting,
            "tasks": sum(task.is_written for task in tasks),
            "waiting": backlog.changes,
            "failing": self._why_not or backlog.failing,
            "resumed": self.resumed_count,
            "adopted": self.adopted_count,
        }

    @property
    def backlog(self) -> int:
        """Changes on their way to the disk; 0 while that takes nothing."""
        waiting = self._opened.writer.backlog() if self._opened is not None else None
        return waiting.changes if waiting is not None and not waiting.failing else 0

    @property
    def why_not(self) -> str:
        """Why nothing can be written, "" as long as it can."""
        return self._why_not

    @property
    def folder(self) -> str:
        """Where its tasks lie, "" without a journal."""
        return str(self._opened.slot.folder) if self._opened is not None else ""

    # --- the end --------------------------------------------------------------------------

    def close(self) -> int:
        """Write what waits, close the journal and let others have the slot. Blocks; after
        the loop has ended.

        Returns:
            How many changes could not be written.
        """
        self._is_leaving = True
        may_release = self._adopter is None or self._adopter.close()
        self._wanted.put(None)
        opened = self._opened
        if opened is None and self._opening is not None:
            with suppress(Exception):  # then nothing was written, nor claimed
                opened = self._opening.result(_CLOSE_S)
        if opened is None:
            return sum(len(effect.puts) for effect in self._waiting)
        for effect in self._waiting:
            opened.writer.write(
                effect.batch, effect.puts, effect.progress, effect.drops, sync=effect.sync
            )
        left = opened.writer.close(_CLOSE_S)
        if may_release:
            opened.slot.release()
        return left


def _is_handoff(change: Progress) -> bool:
    """It notes who owns a task from now on."""
    return change.mark is not None and not isinstance(parse_mark(change.mark), Dead)


def _nothing() -> None:
    """That there is room again is seen by the next batch."""
