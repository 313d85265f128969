"""Taking over what ended processes left in the journals of this host.

Looking and moving (``journals/slots.py``) wait for a disk, so they happen in a thread of
their own; merging what was moved is the journal writer's business. The node owns the tasks
of a journal once all of it is merged, and says then whose heir it is: workers that still
have attempts of them tell it at once, and it must know the tasks by then. Journals without
tasks are taken over as well when they have been free for a minute: whoever gave that node
a task may wait for its word how it ended.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from zmqtasks.core.owned import OwnedRecord
from zmqtasks.errors import ConfigError, JournalError
from zmqtasks.journals.slots import JournalSlots, LeftBehind, Slot, former_of
from zmqtasks.limits import ADOPT_EVERY_S, ADOPT_SOON_S
from zmqtasks.node.journaling import JournalWriter

_LOG = logging.getLogger("zmqtasks.node.journaling")
#: For a look that is under way when the node ends; reading a large journal takes longer.
_CLOSE_S = 2.0

#: Called on the loop's thread with all tasks of a journal, which are this node's now, and the
#: ids of the ended nodes that they came from: the last one is that of its last owner.
Adopted: TypeAlias = Callable[[Sequence[OwnedRecord], Sequence[bytes]], None]


class _Merge:
    """A journal that was moved into our slot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: See :data:`Adopted`.
        self.heir_of = former_of(folder)
        #: Those that are in our own journal so far.
        self.records: list[OwnedRecord] = []
        self.is_under_way = False


class Adopter:
    """Adopts for one node, from ``start`` to ``close``.

    Args:
        slots: of this host and mesh.
        slot: this node's own.
        writer: of the journal in it; started.
        call_soon: runs a function on the loop's thread.
        adopted: see :data:`Adopted`.
        every_s: seconds between two looks when no process ends.
    """

    def __init__(
        self, slots: JournalSlots, slot: Slot, writer: JournalWriter,
        call_soon: Callable[..., None], adopted: Adopted, *, every_s: float = ADOPT_EVERY_S,
    ) -> None:  # fmt: skip
        self._slots = slots
        self._slot = slot
        self._writer = writer
        self._call_soon = call_soon
        self._adopted = adopted
        self._every_s = every_s
        self._thread = threading.Thread(target=self._run, name="zmqtasks-adopt", daemon=True)
        #: {slot: what is wrong with it}, each said once.
        self._said: dict[int, str] = {}

        #: Guards all below.
        self._changed = threading.Condition()
        self._is_woken = False
        self._is_closed = False
        #: {folder in our slot: what is known of it}, until it is merged.
        self._merges: dict[Path, _Merge] = {}

    def start(self) -> None:
        """Look now, and from now on."""
        self._thread.start()

    def look(self) -> None:
        """A process of this host has ended: look soon."""
        with self._changed:
            self._is_woken = True
            self._changed.notify()

    def stop(self) -> None:
        """Take nothing over any more; does not wait for a look that is under way."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def close(self) -> bool:
        """Stop, and wait.

        Returns:
            False when a look is still under way, and so the slot must not be released
            before the process ends.
        """
        self.stop()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)
        return not self._thread.is_alive()

    # --- the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        delays: list[float] = []
        while True:
            self._look()
            with self._changed:
                if not self._is_woken and not self._is_closed:
                    self._changed.wait(delays.pop(0) if delays else self._every_s)
                if self._is_closed:
                    return
                if self._is_woken:
                    self._is_woken = False
                    delays = list(ADOPT_SOON_S)

    def _look(self) -> None:
        try:
            for left in self._slots.left_behind():
                if self._is_closed:
                    return
                self._take_over(left)
            for number in self._slots.idle():
                self._take_over(LeftBehind(number, 0, ""))
            # Also those that a take-over left there which was cut short.
            for folder in self._slot.inherited():
                self._merge(folder)
        except JournalError as exc:
            self._say(-1, f"{exc}; trying on")

    def _take_over(self, left: LeftBehind) -> None:
        damage = left.damage
        if not damage:
            try:
                self._slots.take_over(left.number, self._slot, even_empty=not left.open_count)
            except (ConfigError, JournalError) as exc:
                damage = str(exc)
        if damage:
            self._say(left.number, f"{damage}; what is in slot {left.number} is left alone")
        else:
            self._said.pop(left.number, None)

    def _merge(self, folder: Path) -> None:
        with self._changed:
            merge = self._merges.get(folder)
            if merge is None:
                merge = self._merges[folder] = _Merge(folder)
            elif merge.is_under_way:
                return
            merge.is_under_way = True
        self._writer.adopt(folder, partial(self._merged, merge))

    def _say(self, number: int, reason: str) -> None:
        if self._said.get(number) != reason:
            self._said[number] = reason
            _LOG.warning("journal.left: %s", reason)

    # --- on the loop's thread -------------------------------------------------------------

    def _merged(
        self, merge: _Merge, records: list[OwnedRecord], is_last: bool, reason: str
    ) -> None:
        """See ``AdoptCallback``."""
        merge.records += records
        if not is_last:
            return
        with self._changed:
            merge.is_under_way = False
            if not reason:
                del self._merges[merge.folder]
                self._is_woken = True  # another may have come to the same place
                self._changed.notify()
        if not reason:
            self._adopted(merge.records, merge.heir_of)
