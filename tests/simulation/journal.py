"""The journals of a simulated world: commits take time, and the disk has its troubles."""

from __future__ import annotations

from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zmqtasks.core import effects as fx
from zmqtasks.core.owned import OwnedRecord
from zmqtasks.errors import JournalError, JournalFull
from zmqtasks.journals.memory import MemoryJournal

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

#: As ``node.journaling`` does: tries of new tasks on a failing disk, and the wait between.
_TRIES = 4
_RETRY_MS = 50


class SimJournal:
    """The journal of one process.

    Args:
        folder: its slot; whoever has it next finds in it what this process left.
    """

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

    def adopt(self, folder: Path) -> list[OwnedRecord]:
        """Take over what a dead process left; it is in this journal, synced."""
        return [record for piece in self._journal.inherit(folder) for record in piece]

    def _go_on(self, wait_ms: int = 0) -> None:
        if self._waiting and not self._is_busy:
            self._is_busy = True
            rng, faults = self.world.rng, self.world.faults
            delay_ms = wait_ms + rng.randint(0, 2)
            rate = faults.rate("slowdisk", 0.2)
            if rate and rng.random() < rate:
                faults.count("slowdisk")
                delay_ms += rng.randint(20, 1_500)
            self.world.after(delay_ms, self._commit)

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
