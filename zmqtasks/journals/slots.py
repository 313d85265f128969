"""Numbered places for journals, each used by one process at a time.

::

    <state>/<mesh>/journal/<n>/lock           flock held while the process lives
                               identity       node id and epoch, replaced by rename
                               tasks/         the journal; in it the file ``former``: ids
                                              of nodes whose journals came into it
                               inherited-*/   journals of dead processes, not merged yet

The kernel frees the lock however the process ends. So a slot whose lock is free, with
open tasks in it, was left behind, and a process that lives on may adopt them: it takes
both locks and *moves the other journal, as a whole, into its own slot*; then it merges it
into its own journal (``Journal.inherit``) and removes it. At every moment each task is in
one slot only, so that whoever claims a slot owns exactly what lies in it, also after a
crash in the middle of an adoption.

A node keeps its id as long as it gets the same slot, and each claim has an epoch of its
own: what others remember of an earlier life is not mistaken for this one. An id ends when
the journal leaves: whoever asks that node about a task must find the one that has it now
(``Slot.heir_of``), and not a process that happens to use the same slot.

Slots are never removed, since another process may just be locking one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from zmqtasks.errors import ConfigError, JournalError
from zmqtasks.ids import EPOCH_MAX, NODE_ID_BYTES, new_node_id
from zmqtasks.journals import salvage
from zmqtasks.journals.base import Journal
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.journals.sqlite_file import os_error, sync_folder
from zmqtasks.limits import ADOPT_EMPTY_S, JOURNAL_FORMER_MAX, JOURNAL_SLOTS_MAX

_LOCK = "lock"
_IDENTITY = "identity"
_JOURNAL = "tasks"
_FORMER = "former"
_INHERITED = "inherited-"
#: In the name of what was made of a journal: ``salvage.py``.
_DERIVED = "."
_IDENTITY_BYTES_MAX = 4096
#: File systems that are gone with the power. Source: proc_pid_mountinfo(5), type names.
_FLEETING = frozenset({"tmpfs", "ramfs", "devtmpfs", "rootfs"})


class Identity(msgspec.Struct, rename={"node": "id"}):
    """The content of the file ``identity``."""

    node: str
    epoch: int
    #: Of the last claim, for people.
    pid: int = 0


class LeftBehind(NamedTuple):
    """A free slot with something in it."""

    number: int
    #: Tasks that lie there.
    open_count: int
    #: Why it cannot be adopted, "" when it can.
    damage: str


class Slot:
    """A claimed slot: made by :class:`JournalSlots`, held until ``release`` or the end of
    the process."""

    def __init__(self, number: int, folder: Path, node: bytes, epoch: int, lock_fd: int) -> None:
        self.number = number
        self.folder = folder
        #: Id of the node that this process is, and the number of this life of it.
        self.node = node
        self.epoch = epoch
        self._lock_fd = lock_fd
        _claimed.add(self)

    @property
    def journal_folder(self) -> Path:
        """Where the journal lies."""
        return self.folder / _JOURNAL

    def inherited(self) -> list[Path]:
        """Journals that were moved here and are not merged yet, oldest first.

        Raises:
            JournalError: the slot cannot be read.
        """
        try:
            for path in self.folder.glob("*"):
                if salvage.is_gone(path):
                    salvage.discard(path)
            _gather_former(self.folder)  # they go with what is merged
            return _inherited(self.folder)
        except OSError as exc:
            raise os_error(self.folder, exc) from exc

    def heir_of(self) -> list[bytes]:
        """Ids of ended nodes whose journals came into this slot, the last one last: whoever
        asks for one of them has to ask here. Asked for after a claim and after each
        ``take_over`` into this slot, it is kept for those who claim it later.

        Raises:
            JournalError: the slot cannot be written.
        """
        try:
            names = _gather_former(self.folder)
        except OSError as exc:
            raise os_error(self.folder, exc) from exc
        return [bytes.fromhex(name) for name in names if name != self.node.hex()]

    def is_lasting(self) -> bool:
        """Does it survive a power loss? See ``is_lasting``."""
        return is_lasting(self.folder)

    def release(self) -> None:
        """Let others have it; a second call does nothing. Close the journal before."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
        _claimed.discard(self)


class JournalSlots:
    """The slots of one mesh on this host.

    Args:
        folder: ``journal`` in the mesh's state folder (``paths.state_dir``), made when
            missing.
        make_journal: the kind of journal in these slots.
        count_open: how many tasks are in one, as its last commit says.
        idle_s: seconds after which a free slot without tasks is idle.

    All methods read and write files; ``take_over`` reads a whole journal.
    """

    def __init__(
        self,
        folder: Path,
        make_journal: Callable[[Path], Journal] = SqliteJournal,
        count_open: Callable[[Path], int] = salvage.count_open,
        *,
        idle_s: float = ADOPT_EMPTY_S,
    ) -> None:
        self._folder = folder
        self._make_journal = make_journal
        self._count_open = count_open
        #: {slot: (state of its files, what was found)}, to look into each only once.
        self._seen: dict[int, tuple[object, LeftBehind | None]] = {}
        self._idle_s = idle_s
        #: {slot without tasks: when it was first seen to be free}.
        self._free_since_s: dict[int, float] = {}

    def claim_free(self, *, only_empty: bool = False, node: bytes = b"") -> Slot:
        """Claim the first free slot, else a new one.

        Args:
            only_empty: pass over slots with tasks in them, which their claimer would own:
                for short scripts, that only want a place for their own.
            node: the id that the process has already; only together with ``only_empty``.
                The id of the slot ends, and the process is its heir: somebody may still
                ask for a task that ended there.

        Raises:
            JournalError: no slot can be made or claimed.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            numbers = slot_numbers(self._folder)
            for number in numbers:
                slot = self._claim_if(number, only_empty=only_empty, own=node)
                if slot is not None:
                    return slot
            return self._claim_new(numbers, node)
        except OSError as exc:
            raise os_error(self._folder, exc) from exc

    def claim(self, number: int) -> Slot | None:
        """Claim this slot, whatever is in it; None when another process holds it.

        Raises:
            JournalError: there is no such slot, or it cannot be used.
        """
        try:
            return self._claim_if(number, only_empty=False)
        except OSError as exc:
            raise os_error(self._folder / str(number), exc) from exc

    def left_behind(self) -> list[LeftBehind]:
        """Free slots with tasks in them; cheap when nothing changed since the last call.

        Raises:
            JournalError: the slots cannot be listed.
        """
        found = []
        try:
            for number in slot_numbers(self._folder):
                seen = self._look(number)
                if seen is not None:
                    found.append(seen)
        except OSError as exc:
            raise os_error(self._folder, exc) from exc
        return found

    def idle(self) -> list[int]:
        """Slots without tasks that were free whenever ``left_behind`` looked, for long. Their
        nodes had ended everything; others may still ask for them, and need an heir."""
        until_s = time.monotonic() - self._idle_s
        return [number for number, since_s in self._free_since_s.items() if since_s <= until_s]

    def take_over(self, number: int, into: Slot, *, even_empty: bool = False) -> list[Path]:
        """Move what was left behind in a slot into one's own, to be merged into its journal.

        Blocks for as long as it takes to read the journal, to be sure that it is whole.

        Args:
            number: the slot left behind.
            into: the slot of this process.
            even_empty: also a journal without tasks, for the id of its node.

        Returns:
            The journal that is there now; none when another process was faster, or has it.

        Raises:
            JournalCorrupt: it is damaged and stays where it is.
            JournalError: it cannot be used.
        """
        folder = self._folder / str(number)
        try:
            fd = lock_slot(folder)
        except OSError as exc:
            raise os_error(folder, exc) from exc
        self._free_since_s.pop(number, None)
        if fd < 0:
            self._seen.pop(number, None)
            return []
        try:
            return self._move(folder, into, even_empty=even_empty)
        except OSError as exc:
            raise os_error(folder, exc) from exc
        finally:
            self._seen.pop(number, None)
            os.close(fd)

    # --- claiming -------------------------------------------------------------------------

    def _claim_new(self, numbers: list[int], own: bytes) -> Slot:
        taken = set(numbers)
        for number in range(JOURNAL_SLOTS_MAX):
            if number in taken:
                continue
            # Another process may be making the same one; whoever locks it has it.
            (self._folder / str(number)).mkdir(mode=0o700, exist_ok=True)
            slot = self._claim_if(number, only_empty=bool(own), own=own)
            if slot is not None:
                sync_folder(self._folder)
                return slot
        raise JournalError(
            f"all {JOURNAL_SLOTS_MAX} journals in {self._folder} are in use or hold tasks; run a "
            "node on this host, which adopts what ended processes left behind"
        )

    def _claim_if(self, number: int, *, only_empty: bool, own: bytes = b"") -> Slot | None:
        """The slot, or None when it is held, or not empty though it should be.

        ``own``: the id that the claimer has already.
        """
        folder = self._folder / str(number)
        fd = lock_slot(folder)
        if fd < 0:
            return None
        try:
            if only_empty and self._inside(number, folder) is not None:
                os.close(fd)
                return None
            node, epoch = _next_life(folder, own)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise
        return Slot(number, folder, node, epoch, fd)

    # --- looking --------------------------------------------------------------------------

    def _look(self, number: int) -> LeftBehind | None:
        """What is in a slot that nobody holds; None: nothing, or it is held."""
        folder = self._folder / str(number)
        # Without the lock at first: whoever starts just now shall not miss this slot.
        state = _state_of(folder)
        if not state or self._seen.get(number) == (state, None):
            return None
        fd = lock_slot(folder)
        if fd < 0:
            self._free_since_s.pop(number, None)
            return None
        try:
            found = self._inside(number, folder)
        finally:
            os.close(fd)
        if found is None:
            self._free_since_s.setdefault(number, time.monotonic())
        return found

    def _inside(self, number: int, folder: Path) -> LeftBehind | None:
        """What is in a slot that is locked by us; None: no tasks."""
        known = self._seen.get(number)
        if known is not None and known[0] == _state_of(folder):
            return known[1]
        count, damage = 0, ""
        for path in journals_in(folder):
            try:
                count += self._count_open(path)
            except (ConfigError, JournalError) as exc:
                damage = str(exc)
        found = LeftBehind(number, count, damage) if count or damage else None
        # Reading may have tidied its files up.
        self._seen[number] = (_state_of(folder), found)
        return found

    def _read(self, path: Path) -> int:
        """How many tasks are in a journal, all of which can be read."""
        journal = self._make_journal(path)
        journal.open()
        try:
            return sum(1 for _ in journal.load())
        finally:
            journal.close()

    def _move(self, folder: Path, into: Slot, *, even_empty: bool) -> list[Path]:
        own = folder / _JOURNAL
        inherited = _inherited(folder)
        if inherited:
            # Its last owner died while it took over others. Only its own journal knows how
            # far that went, so that has to be finished before they can leave this slot.
            _gather_former(folder)
            journal = self._make_journal(own)
            journal.open()
            try:
                for path in inherited:
                    for _ in journal.inherit(path):
                        pass
            finally:
                journal.close()
        if not own.exists() or not (self._read(own) or even_empty):
            return []
        _end_identity(folder)
        target = into.folder / f"{_INHERITED}{_next_number(into.folder):06d}"
        own.rename(target)
        sync_folder(into.folder)
        sync_folder(folder)
        _gather_former(into.folder)
        return [target]


# --- is it on a disk? ---------------------------------------------------------------------


def is_lasting(path: Path) -> bool:
    """Is what is written there kept when the power fails? False on tmpfs and its like.

    Where the system does not tell (no ``/proc``), it is taken for a disk.
    """
    try:
        device = path.stat().st_dev
        with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="replace") as mounts:
            types = list(_types_of(mounts, f"{os.major(device)}:{os.minor(device)}"))
    except OSError:
        return True
    # Some file systems give files another device number than their mount: none found.
    return not types or types[-1] not in _FLEETING


def _types_of(mounts: Iterator[str], device: str) -> Iterator[str]:
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        if fields.split(" ", 3)[2:3] == [device]:
            yield rest.split(" ", 1)[0]


# --- files --------------------------------------------------------------------------------


def slot_numbers(folder: Path) -> list[int]:
    """The slots that were ever made in a folder of slots.

    Raises:
        OSError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as listing:
            names = [item.name for item in listing]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def is_slot(folder: Path) -> bool:
    """Was it ever locked as one?"""
    return (folder / _LOCK).is_file()


def lock_slot(folder: Path) -> int:
    """A descriptor that holds the slot's lock; -1 when another process has it.

    Raises:
        OSError: the folder cannot be used.
    """
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    except BaseException:
        os.close(fd)
        raise
    return fd


def identity_of(folder: Path) -> Identity | None:
    """Who claimed this slot last; None when that cannot be told."""
    with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
        with (folder / _IDENTITY).open("rb") as file:
            last = msgspec.json.decode(file.read(_IDENTITY_BYTES_MAX), type=Identity)
        if len(bytes.fromhex(last.node)) == NODE_ID_BYTES:
            return last
    return None


def _next_life(folder: Path, own: bytes) -> tuple[bytes, int]:
    """Node id and epoch of a new claim, on the disk before anybody hears of them."""
    node, epoch = own or new_node_id(), 0
    # One that cannot be read is given up for a fresh id, which nobody has met.
    last = identity_of(folder)
    if last is not None and not own and 0 < last.epoch < EPOCH_MAX:
        node, epoch = bytes.fromhex(last.node), last.epoch
    elif last is not None:
        _end_identity(folder)
    epoch += 1
    _replace(folder / _IDENTITY, msgspec.json.encode(Identity(node.hex(), epoch, os.getpid())))
    return node, epoch


def _end_identity(folder: Path) -> None:
    """The journal of a slot is about to leave its node: the id goes along. Cut short, the
    next one that claims the slot, with the journal still in it, is the heir."""
    last = identity_of(folder)
    own = folder / _JOURNAL
    if last is not None:
        _note_former(own, [*_former(own), last.node])
    (folder / _IDENTITY).unlink(missing_ok=True)
    sync_folder(folder)


def former_of(journal: Path) -> list[bytes]:
    """Ids of the ended nodes whose tasks came with a journal that was taken over: that of its
    last owner is the last one. Empty when that cannot be told."""
    return [bytes.fromhex(name) for name in _former(journal)]


def _gather_former(folder: Path) -> list[str]:
    """Note with the slot's own journal whose others lie beside it."""
    own = folder / _JOURNAL
    names = [name for path in [own, *_inherited(folder)] for name in _former(path)]
    if names:
        _note_former(own, names)
    return _former(own)


def _former(journal: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
        names = msgspec.json.decode((journal / _FORMER).read_bytes(), type=list[str])
        return [name for name in names if len(bytes.fromhex(name)) == NODE_ID_BYTES]
    return []


def _note_former(journal: Path, names: list[str]) -> None:
    # Each one once, where it comes last.
    kept = list(dict.fromkeys(reversed(names)))[:JOURNAL_FORMER_MAX][::-1]
    if kept != _former(journal):
        journal.mkdir(mode=0o700, exist_ok=True)
        _replace(journal / _FORMER, msgspec.json.encode(kept))


def _replace(path: Path, data: bytes) -> None:
    """Write a file as a whole, on the disk when this returns."""
    fresh = path.with_name(f"{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    fresh.rename(path)
    sync_folder(path.parent)


def journals_in(folder: Path) -> list[Path]:
    """All journals in a slot, also those that were taken over and not merged yet."""
    own = folder / _JOURNAL
    return [*([own] if own.exists() else []), *_inherited(folder)]


def _next_number(folder: Path) -> int:
    numbers = [path.name.removeprefix(_INHERITED) for path in folder.glob(f"{_INHERITED}*")]
    return 1 + max((int(name[:6]) for name in numbers if name[:6].isdecimal()), default=0)


def _inherited(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.glob(f"{_INHERITED}*"))
        # Beside them lie what was removed, and what was damaged and has been salvaged.
        if _DERIVED not in path.name
    ]


def _state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes with the files of the journals in a slot; empty when there are none."""
    state = []
    for path in journals_in(folder):
        # Whoever holds the slot may be moving them away right now.
        with contextlib.suppress(FileNotFoundError), os.scandir(path) as listing:
            for item in listing:
                status = item.stat()
                if stat.S_ISREG(status.st_mode):
                    name = f"{path.name}/{item.name}"
                    state.append((name, status.st_mtime_ns, status.st_size))
    return tuple(sorted(state))


# --- forks --------------------------------------------------------------------------------

#: Slots to let go of in a forked child.
_claimed: weakref.WeakSet[Slot] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """The lock belongs to the parent, and must end with it."""
    for slot in list(_claimed):
        slot.release()


os.register_at_fork(after_in_child=_let_go_in_child)
