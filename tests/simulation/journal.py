"""The journals of a simulated world: commits take time, and the disk has its troubles."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from zmqtasks.core import effects as fx
from zmqtasks.core.owned import OwnedRecord
from zmqtasks.errors import JournalError, JournalFull
from zmqtasks.journals.memory import MemoryJournal
from zmqtasks.node.journaling import JournalListener, JournalOptions, JournalWriter

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

#: As ``node.journaling`` does: tries of new tasks on a failing disk, and the wait between.
_TRIES = 4
_RETRY_MS = 50


class ProcessJournal(Protocol):
    """The journal of one process, as the process sees it."""

    #: Its slot; whoever has it next finds in it what this process left.
    folder: Path

    def open(self) -> list[OwnedRecord]:
        """Everything that is in it."""

    def write(self, effect: fx.JournalWrite) -> None:
        """Commit it after all before it."""

    def adopt(self, last: Process) -> None:
        """Take over what a dead process left, and tell our own."""

    def die(self) -> None:
        """Its process has ended."""


def make_journal(world: World, process: Process, folder: Path) -> ProcessJournal:
    """One as production's, or one that commits batch by batch, or none."""
    if not process.has_journal:
        return NoJournal(process, folder)
    rng = world.faults.features.get("writer")
    if rng is None:
        return SimJournal(world, process, folder)
    # Some take little at once, so that it happens that they refuse.
    return WriterJournal(world, process, folder, rng.choice((10, 1_000)))


class NoJournal:
    """The folder for journals cannot be used: what needs one is refused."""

    def __init__(self, process: Process, folder: Path) -> None:
        self.process = process
        self.folder = folder

    def open(self) -> list[OwnedRecord]:
        """There is nothing."""
        return []

    def write(self, effect: fx.JournalWrite) -> None:
        """As ``node.journalkeeper`` does."""
        node = self.process.node
        if effect.puts:
            self.process.world.faults.count("nojournal")
            self.process.deliver(node.journal_refused, [effect.batch], "there is no folder")
        else:
            self.process.deliver(node.journaled, [effect.batch])

    def adopt(self, last: Process) -> None:
        """Never asked for."""
        raise AssertionError("whoever has no journal adopts none")

    def die(self) -> None:
        """Nothing is left."""


class SimJournal:
    """The journal of one process, written batch by batch."""

    def __init__(self, world: World, process: Process, folder: Path) -> None:
        self.world = world
        self.process = process
        self.folder = folder
        self._journal = MemoryJournal(folder, world.disk)
        self._waiting: deque[fx.JournalWrite] = deque()
        self._is_busy = False
        self._tries = 0

    def open(self) -> list[OwnedRecord]:
        """Everything that is in it."""
        self._journal.open()
        return list(self._journal.load())

    def write(self, effect: fx.JournalWrite) -> None:
        """Commit it after all before it."""
        self._waiting.append(effect)
        self._go_on()

    def adopt(self, last: Process) -> None:
        """Take over what a dead process left; it is in this journal, synced."""
        try:
            records = [r for piece in self._journal.inherit(last.journal.folder) for r in piece]
        except JournalError:
            return  # tried again later
        del self.world.holders[last.journal.folder]
        former = self.world.inherited(last, self.folder)
        self.process.node.adopt(last.hello.node, records, former, self.process.now)

    def die(self) -> None:
        """What it has not committed is gone."""

    def _go_on(self, wait_ms: int = 0) -> None:
        if self._waiting and not self._is_busy:
            self._is_busy = True
            self.world.after(wait_ms + commit_ms(self.world), self._commit)

    def _commit(self) -> None:
        if not self.process.alive:
            return
        self._is_busy = False
        write = self._waiting[0]
        node = self.process.node
        try:
            self._journal.commit(write.puts, write.progress, write.drops, sync=write.sync)
        except JournalFull as exc:
            self._waiting.popleft()
            assert write.puts, "a full disk refuses nothing but new tasks"
            self.process.deliver(node.journal_refused, [write.batch], str(exc))
        except JournalError as exc:
            self._tries += 1
            if write.puts and self._tries >= _TRIES:
                self._waiting.popleft()
                self._tries = 0
                refused = partial(node.journal_refused, is_certain=False)
                self.process.deliver(refused, [write.batch], str(exc))
            self._go_on(_RETRY_MS)
            return
        else:
            self._tries = 0
            self._waiting.popleft()
            self.process.deliver(node.journaled, [write.batch])
        self._go_on()


def commit_ms(world: World) -> int:
    """How long a commit takes."""
    rng, faults = world.rng, world.faults
    delay_ms = rng.randint(0, 2)
    rate = faults.rate("slowdisk", 0.2)
    if rate and rng.random() < rate:
        faults.count("slowdisk")
        delay_ms += rng.randint(20, 1_500)
    return delay_ms


# --- as in production -----------------------------------------------------------------------


class _HostJournal(MemoryJournal):
    """Knows at once whose journals are in it, as a slot does."""

    def __init__(self, world: World, folder: Path) -> None:
        super().__init__(folder, world.disk)
        self.world = world
        self.folder = folder
        #: {folder: its last process} of those that are being taken over.
        self.left: dict[Path, Process] = {}
        #: {folder: ended nodes whose journals are in it} of those that were.
        self.former: dict[Path, list[bytes]] = {}

    def inherit(self, folder: Path) -> Iterator[list[OwnedRecord]]:
        """See ``Journal.inherit``."""
        yield from super().inherit(folder)
        self.done(folder)

    def done(self, folder: Path) -> None:
        """All of it is here."""
        self.former[folder] = self.world.inherited(self.left.pop(folder), self.folder)

    def let_go(self, folder: Path) -> None:
        """It is left again, or was empty already."""
        content = self.world.disk.contents.get(folder)
        if content is None or not content.written:
            self.done(folder)
        else:
            self.world.holders[folder] = self.left.pop(folder)


class _StepWriter(JournalWriter):
    """Production's, without its thread: it notes how long that would wait."""

    wait_ms = 0
    #: It waits no longer when there are more batches than these.
    known_count: int | None = None

    def step(self) -> None:
        """One commit, with all that can be committed together."""
        self.wait_ms = 0
        self.known_count = None
        self._turn()

    @property
    def has_work(self) -> bool:
        """There is something to write or to take over."""
        return bool(self._batches or self._adoptions or self._takeover)

    @property
    def batches_count(self) -> int:
        """Those that wait."""
        return len(self._batches)

    def _wait(self) -> bool:
        return False

    def _pause(self, known_count: int | None) -> None:
        self.wait_ms = self._delay_ms()
        self.known_count = known_count


class WriterJournal:
    """The journal of one process, written by production's JournalWriter."""

    def __init__(self, world: World, process: Process, folder: Path, tasks_max: int) -> None:
        self.world = world
        self.process = process
        self.folder = folder
        self._journal = _HostJournal(world, folder)
        listener = JournalListener(self._committed, self._refused, lambda: None, self._broke)
        options = JournalOptions(name=folder.name, backlog_tasks_max=tasks_max)
        self._writer = _StepWriter(self._journal, process.deliver, listener, options)
        #: Of the step that is planned; a later one replaces it.
        self._step_no = 0
        self._step_ms = -1

    def open(self) -> list[OwnedRecord]:
        """Everything that is in it."""
        return self._writer.open()

    def write(self, effect: fx.JournalWrite) -> None:
        """As ``node.journalkeeper`` does."""
        node, writer = self.process.node, self._writer
        if writer.write(effect.batch, effect.puts, effect.progress, effect.drops, sync=effect.sync):
            known = writer.known_count
            if self._step_ms < 0 or (known is not None and writer.batches_count > known):
                self._plan(0)
        else:
            assert effect.puts, "a writer takes whatever is no new task"
            self.process.deliver(node.journal_refused, [effect.batch], "too much waits")

    def adopt(self, last: Process) -> None:
        """Take over what a dead process left, piece by piece between the batches."""
        folder = last.journal.folder
        self._journal.left[folder] = self.world.holders.pop(folder)
        merged: list[OwnedRecord] = []

        def told(records: list[OwnedRecord], is_last: bool, reason: str) -> None:
            merged.extend(records)
            if reason:
                self._journal.let_go(folder)
            elif is_last:
                former = self._journal.former[folder]
                self.process.node.adopt(last.hello.node, merged, former, self.process.now)

        assert self._writer.adopt(folder, told)
        if self._step_ms < 0:
            self._plan(0)

    def die(self) -> None:
        """What it has not taken over somebody else may."""
        for folder in list(self._journal.left):
            self._journal.let_go(folder)

    def _plan(self, wait_ms: int) -> None:
        self._step_no += 1
        self._step_ms = self.world.now + wait_ms + commit_ms(self.world)
        self.world.at(self._step_ms, self._step, self._step_no)

    def _step(self, number: int) -> None:
        if not self.process.alive or number != self._step_no:
            return
        if self._writer.batches_count > 1:
            self.world.faults.count("writer")
        self._step_ms = -1
        self._writer.step()
        if self._writer.has_work:
            self._plan(self._writer.wait_ms)

    def _committed(self, numbers: Sequence[int]) -> None:
        self.process.node.journaled(numbers)

    def _refused(self, numbers: Sequence[int], error: JournalError) -> None:
        is_certain = isinstance(error, JournalFull)
        self.process.node.journal_refused(numbers, str(error), is_certain=is_certain)

    def _broke(self, error: JournalError) -> None:
        raise AssertionError(f"nothing is damaged here: {error}")
