"""The same-host directory: a folder with one entry for each node of the mesh.

::

    <runtime>/<mesh>/<node>-<epoch>.lock    flock held while that process lives
                     <node>-<epoch>.json    what it announces, replaced by rename

Instant and without a network. The lock tells a killed process from a living one: the
kernel frees it however the process ends, so an entry whose lock is free is stale, is
removed by whoever sees it, and its sockets with it. Node and epoch never come again, so
removing cannot hit a successor.

A lock file that vanished is not a free lock: somebody emptied the folder, and the process
may live. Those who know an entry keep its lock file open, which tells even then; its own
process makes the files again (:meth:`LocalDirectory.make_again`).

The folder is watched with inotify, and since the kernel also reports that a file which
was open for writing got closed, the death of a process is news as well. Where inotify is
not to be had, a thread looks four times a second.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from zmqtasks.core.links import Candidate
from zmqtasks.discovery import inotify
from zmqtasks.discovery.base import DiscoveryLoop, Gone, Listener
from zmqtasks.errors import ConfigError
from zmqtasks.ids import NODE_ID_BYTES
from zmqtasks.limits import (
    CANDIDATES_COUNT_MAX,
    ENDPOINTS_PER_PEER_MAX,
    LOCKS_HELD_MAX,
    RUNTIME_TOUCH_MS,
)
from zmqtasks.paths import socket_path

_NAME = re.compile(rf"([0-9a-f]{{{2 * NODE_ID_BYTES}}})-([0-9a-f]{{1,8}})\.(json|lock)")
_ENTRY_BYTES_MAX = 64 * 1024
_POLL_S = 0.25
#: Names of a node's sockets, as the transport makes them.
_SOCKET_SUFFIXES = ("r", "p", "l")
#: The kernel reports the close of a dying process's lock file just before it frees the
#: lock; the lock is looked at again in this many turns of the loop.
_LOOK_AGAIN_COUNT = 20
#: Living processes renew their entries' times; one without a lock file and older than this
#: was left by somebody who cleaned up by halves.
_ABANDONED_S = 2 * RUNTIME_TOUCH_MS / 1000
#: State of a lock; "unknown": we may not look.
_Lock = Literal["held", "free", "vanished", "unknown"]
_CHANGES = inotify.IN_CLOSE_WRITE | inotify.IN_MOVED_TO | inotify.IN_DELETE


class _Entry(msgspec.Struct, rename={"node": "id"}):
    """The content of an entry's file."""

    node: str
    epoch: int
    mesh: str
    mesh_name: str
    fingerprint: str
    endpoints: list[str]
    host_id: str
    roles: list[str]
    pid: int = 0
    name: str = ""


_decode = msgspec.json.Decoder(_Entry).decode


class LocalDirectory:
    """Peers on this host.

    Args:
        folder: the mesh's runtime folder: exists, 0700, ours.
        loop: the node's loop.
        also: folders of other users' nodes to look into, where they exist.
    """

    def __init__(self, folder: Path, loop: DiscoveryLoop, also: Sequence[Path] = ()) -> None:
        #: The mesh's runtime folder.
        self.folder = folder
        self._folders = (folder, *also)
        self._loop = loop
        self._listener: Listener | None = None
        self._gone: Gone | None = None
        #: {(folder, stem): inode of the entry's file}.
        self._known: dict[tuple[Path, str], int] = {}
        #: {(folder, stem): its lock file, kept open}.
        self._held: dict[tuple[Path, str], int] = {}
        self._own_stem = ""
        self._own_entry: _Entry | None = None
        self._own_inode: tuple[int, int] | None = None
        self._lock_fd = -1
        self._inotify: inotify.Inotify | None = None
        #: {inotify's number: folder}.
        self._watched: dict[int, Path] = {}
        #: Which folder of that name is watched: it may be removed and made again.
        self._watched_inode: tuple[int, int] | None = None
        self._poller: _PollThread | None = None

    # --- the Discovery protocol ---------------------------------------------------------

    def start(self, listener: Listener, gone: Gone) -> None:
        """Watch first, then scan, so that nothing falls between."""
        self._listener, self._gone = listener, gone
        _live.add(self)
        self._begin_to_watch()
        self._scan()

    def announce(self, candidate: Candidate) -> None:
        """Write this node's entry.

        Raises:
            ConfigError: the folder cannot be written.
        """
        assert candidate.node is not None
        stem = f"{candidate.node.hex()}-{candidate.epoch:x}"
        _live.add(self)
        try:
            if self._lock_fd < 0:
                self._lock_fd = self._make_lock(stem)
            self._own_stem = stem
            self._own_entry = _Entry(
                candidate.node.hex(), candidate.epoch, candidate.mesh.hex(), candidate.mesh_name,
                candidate.fingerprint, list(candidate.endpoints), candidate.host_id.hex(),
                list(candidate.roles), os.getpid(), candidate.name,
            )  # fmt: skip
            self._write_entry(self._own_entry)
        except OSError as exc:
            raise self._unwritable(exc) from None

    def stop(self) -> None:
        """Remove this node's entry and stop watching."""
        _live.discard(self)
        self._listener = self._gone = None
        if self._poller is not None:
            self._poller.stop()
            self._poller = None
        self._close_inotify()
        self._let_go()
        if self._lock_fd >= 0:
            # First, so that whoever sees the files go sees that it is no accident.
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
            self._remove(self.folder, self._own_stem)
            os.close(self._lock_fd)
            self._lock_fd = -1

    # --- our own files ------------------------------------------------------------------

    def missing(self) -> list[str]:
        """Which of this node's own files somebody has removed or replaced."""
        gone: list[str] = []
        if self._lock_fd >= 0:
            status = os.fstat(self._lock_fd)
            lock = self.folder / f"{self._own_stem}.lock"
            if _identity(lock) != (status.st_dev, status.st_ino):
                gone.append("its lock")
            entry = self.folder / f"{self._own_stem}.json"
            if _identity(entry) != self._own_inode:
                gone.append("its entry")
        return gone

    def make_again(self) -> None:
        """Make what is missing again, in a folder that is there again.

        Raises:
            ConfigError: the folder cannot be written.
        """
        if self._inotify is not None and self._watched_inode != _identity(self.folder):
            self._close_inotify()
            self._begin_to_watch()
        try:
            gone = self.missing()
            if "its lock" in gone:
                # The old lock is held until the new one is there: others look at both.
                old, self._lock_fd = self._lock_fd, self._make_lock(self._own_stem)
                os.close(old)
            if gone and self._own_entry is not None:
                self._write_entry(self._own_entry)
        except OSError as exc:
            raise self._unwritable(exc) from None
        self._scan()

    def touch(self) -> None:
        """Renew the times of our files, for cleaners of temporary folders."""
        names = ("", f"{self._own_stem}.lock", f"{self._own_stem}.json")
        for name in names if self._lock_fd >= 0 else ():
            with contextlib.suppress(OSError):
                os.utime(self.folder / name)

    def _write_entry(self, entry: _Entry) -> None:
        # No name of an entry, so nobody reads it half written.
        fresh = self.folder / f"{self._own_stem}.new"
        fresh.write_bytes(msgspec.json.encode(entry))
        self._own_inode = _identity(fresh)
        fresh.rename(self.folder / f"{self._own_stem}.json")

    def _unwritable(self, exc: OSError) -> ConfigError:
        return ConfigError(
            f"cannot write this node's entry in {self.folder}: {exc.strerror}; choose a "
            "ZMQTASKS_RUNTIME_DIR that this user can write"
        )

    # --- liveness -----------------------------------------------------------------------

    def is_alive(self, node: bytes, epoch: int) -> bool | None:
        """Whether a process of this host that announced itself still runs.

        Returns:
            True: its lock is held; False: it is free, so the process has ended; None:
            this directory never saw it, may not look, or the lock file vanished.
        """
        stem = f"{node.hex()}-{epoch:x}"
        for folder in self._folders:
            if (folder, stem) in self._known or (folder / f"{stem}.lock").exists():
                state = self._lock_of(folder, stem)
                return None if state in ("vanished", "unknown") else state == "held"
        return None

    def _lock_of(self, folder: Path, stem: str) -> _Lock:
        """State of an entry's lock; one that vanished is judged by the file kept open."""
        key = (folder, stem)
        fd, state = _look(folder, stem)
        if state == "held" and key in self._known:
            self._hold(key, fd)
        elif fd >= 0:
            os.close(fd)
        if state == "vanished" and key in self._held:
            return _state(self._held[key])
        return state

    def _hold(self, key: tuple[Path, str], fd: int) -> None:
        """Keep a lock file open; it may be another one than before."""
        before = self._held.get(key, -1)
        if before < 0 and len(self._held) >= LOCKS_HELD_MAX:
            os.close(fd)
            return
        self._held[key] = fd
        if before >= 0:
            os.close(before)

    def _let_go(self) -> None:
        while self._held:
            os.close(self._held.popitem()[1])

    # --- watching -----------------------------------------------------------------------

    def _begin_to_watch(self) -> None:
        try:
            self._watch()
        except OSError:
            self._close_inotify()
            self._poller = _PollThread(self)
            self._poller.start()

    def _watch(self) -> None:
        watcher = self._inotify = inotify.Inotify()
        self._watched_inode = _identity(self.folder)
        for folder in self._folders:
            if folder == self.folder or folder.is_dir():
                self._watched[watcher.watch(folder, _CHANGES)] = folder
        self._loop.register(watcher.fd, self._changed)

    def _close_inotify(self) -> None:
        watcher, self._inotify = self._inotify, None
        if watcher is not None:
            if self._watched:
                self._loop.unregister(watcher.fd)
            watcher.close()
        self._watched.clear()

    def _changed(self) -> None:
        watcher = self._inotify
        if watcher is None:
            return
        rescan = False
        for number, mask, name in watcher.read():
            match = _NAME.fullmatch(name)
            if match is not None and match[3] == "lock" and mask & inotify.IN_CLOSE_WRITE:
                self._check(self._watched[number], name.removesuffix(".lock"), _LOOK_AGAIN_COUNT)
            elif mask & (inotify.IN_Q_OVERFLOW | inotify.IN_DELETE) or (
                match is not None and match[3] == "json"
            ):
                rescan = True
        if rescan:
            self._scan()

    def _check(self, folder: Path, stem: str, looks: int) -> None:
        """Somebody closed this lock file: has the process ended?"""
        if (folder, stem) not in self._known:
            return
        if self._lock_of(folder, stem) == "free":
            self._bury(folder, stem)
        elif looks > 0:
            self._loop.call_soon(self._check, folder, stem, looks - 1)

    # --- scanning -----------------------------------------------------------------------

    def _scan(self) -> None:
        """Compare the folders with what is known."""
        if self._listener is None:
            return
        found: set[tuple[Path, str]] = set()
        for folder in self._folders:
            for stem, inode in self._entries(folder):
                key = (folder, stem)
                found.add(key)
                if self._known.get(key) == inode:
                    continue
                if len(self._known) >= CANDIDATES_COUNT_MAX and key not in self._known:
                    continue
                state = self._lock_of(folder, stem)
                if state == "free" or (state == "vanished" and _is_abandoned(folder, stem)):
                    self._bury(folder, stem)
                    continue
                candidate = _read(folder, stem)
                if candidate is not None:
                    self._known[key] = inode
                    self._lock_of(folder, stem)  # Now that it is known, it is kept open.
                    self._loop.call_soon(self._tell, candidate)
        for key in [key for key in self._known if key not in found]:
            # A node that finishes its work before it leaves has no entry, but its lock.
            if self._lock_of(*key) != "held":
                self._forget(key)

    def _entries(self, folder: Path) -> Iterator[tuple[str, int]]:
        """Stem and inode of the entries in a folder, without our own."""
        try:
            with os.scandir(folder) as listing:
                for item in listing:
                    match = _NAME.fullmatch(item.name)
                    if match is not None and match[3] == "json":
                        stem = item.name.removesuffix(".json")
                        if stem != self._own_stem:
                            yield stem, item.inode()
        except OSError:
            return

    def _bury(self, folder: Path, stem: str) -> None:
        """Its process has ended without removing the entry."""
        self._remove(folder, stem)
        self._forget((folder, stem))

    def _forget(self, key: tuple[Path, str]) -> None:
        held = self._held.pop(key, -1)
        if held >= 0:
            os.close(held)
        if self._known.pop(key, None) is not None:
            node, _, epoch = key[1].partition("-")
            self._loop.call_soon(self._tell_gone, bytes.fromhex(node), int(epoch, 16))

    def _tell(self, candidate: Candidate) -> None:
        if self._listener is not None:
            self._listener(candidate)

    def _tell_gone(self, node: bytes, epoch: int) -> None:
        if self._gone is not None:
            self._gone(node, epoch)

    def _remove(self, folder: Path, stem: str) -> None:
        """The entry, the sockets, and last the lock, which is what says it is stale."""
        paths = [folder / f"{stem}.json", folder / f"{stem}.new"]
        with contextlib.suppress(ConfigError):  # No sockets can be there under that name.
            paths += [socket_path(folder, f"{stem}.{suffix}") for suffix in _SOCKET_SUFFIXES]
        for path in (*paths, folder / f"{stem}.lock"):
            try:
                path.unlink(missing_ok=True)
            except OSError:
                return  # Another user's folder: its owner will do it.

    def _make_lock(self, stem: str) -> int:
        """The lock file appears under its name only once it is locked."""
        fresh = self.folder / f"{stem}.lock.new"
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fresh.rename(self.folder / f"{stem}.lock")
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _after_fork(self) -> None:
        """In a forked child: let go of the parent's lock, which must end with the parent."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
        self._let_go()
        if self._inotify is not None:
            self._inotify.close()
        self._listener = self._gone = None

    # --- polling, where there is no inotify ---------------------------------------------

    def poll_state(self) -> tuple[object, ...]:
        """What a change of the folders changes; called from the polling thread."""
        state: list[object] = []
        for folder in self._folders:
            try:
                state.append(folder.stat().st_mtime_ns)
            except OSError:
                state.append(None)
        for folder, stem in list(self._known):
            # Not those kept open, which belong to the loop's thread.
            fd, lock = _look(folder, stem)
            if fd >= 0:
                os.close(fd)
            state.append((stem, lock))
        return tuple(state)

    def poll_changed(self) -> None:
        """Look at everything anew; called from the polling thread."""
        self._loop.call_soon(self._scan_all)

    def _scan_all(self) -> None:
        for folder, stem in list(self._known):
            if self._lock_of(folder, stem) == "free":
                self._bury(folder, stem)
        self._scan()


class _PollThread(threading.Thread):
    """Looks at a directory from time to time."""

    def __init__(self, directory: LocalDirectory) -> None:
        super().__init__(name="zmqtasks-local-directory", daemon=True)
        self._directory = directory
        self._ended = threading.Event()

    def run(self) -> None:
        """Until :meth:`stop`."""
        last: tuple[object, ...] = ()
        while not self._ended.wait(_POLL_S):
            state = self._directory.poll_state()
            if state != last:
                last = state
                self._directory.poll_changed()

    def stop(self) -> None:
        """End soon; not waited for, since it holds nothing."""
        self._ended.set()


def _look(folder: Path, stem: str) -> tuple[int, _Lock]:
    """An entry's lock file, opened (-1 when it cannot be), and its state."""
    try:
        fd = os.open(folder / f"{stem}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return -1, "vanished"
    except OSError:
        return -1, "unknown"
    return fd, _state(fd)


def _state(fd: int) -> _Lock:
    """Whether somebody holds the lock of an open file."""
    try:
        # Shared, so that two who look at the same time do not take each other for it.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
    except BlockingIOError:
        return "held"
    except OSError:
        return "unknown"
    return "free"


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from others of its name, None when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_abandoned(folder: Path, stem: str) -> bool:
    try:
        changed_s = (folder / f"{stem}.json").stat().st_mtime
    except OSError:
        return False
    return time.time() - changed_s > _ABANDONED_S


def _read(folder: Path, stem: str) -> Candidate | None:
    """The candidate in an entry's file; None for one that is damaged or not its own."""
    try:
        with (folder / f"{stem}.json").open("rb") as file:
            entry = _decode(file.read(_ENTRY_BYTES_MAX))
        node = bytes.fromhex(entry.node)
        if stem != f"{node.hex()}-{entry.epoch:x}":
            return None
        return Candidate(
            node=node,
            epoch=entry.epoch,
            mesh=bytes.fromhex(entry.mesh),
            mesh_name=entry.mesh_name,
            fingerprint=entry.fingerprint,
            endpoints=tuple(entry.endpoints[:ENDPOINTS_PER_PEER_MAX]),
            host_id=bytes.fromhex(entry.host_id),
            roles=tuple(entry.roles),
            source="local",
            name=entry.name,
        )
    except (OSError, ValueError, msgspec.DecodeError):
        return None


#: Directories to let go of in a forked child.
_live: weakref.WeakSet[LocalDirectory] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for directory in list(_live):
        directory._after_fork()
    _live.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
