"""A node's files in the runtime directory: made again when somebody removed them.

Whoever empties the folder (a cleaner of temporary files, systemd at logout, a person)
harms no link that exists, but nobody new finds the node, and nothing tells it so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zmqtasks import paths
from zmqtasks.core import effects as fx
from zmqtasks.discovery.local import LocalDirectory
from zmqtasks.errors import ConfigError
from zmqtasks.limits import RUNTIME_CHECK_MS, RUNTIME_TOUCH_MS
from zmqtasks.net.transport import Transport


class Upkeep:
    """Looks after the files of one node; on its loop's thread.

    Args:
        folder: the mesh's runtime folder.
        local: the entry and its lock.
        transport: the ipc sockets.
        note: told what had to be made again, and what cannot be.
        now_ms: when the files were made.
    """

    def __init__(
        self,
        folder: Path,
        local: LocalDirectory,
        transport: Transport,
        note: Callable[[fx.Note], None],
        now_ms: int,
    ) -> None:
        self._folder = folder
        self._local = local
        self._transport = transport
        self._note = note
        self._check_ms = now_ms + RUNTIME_CHECK_MS
        self._touch_ms = now_ms + RUNTIME_TOUCH_MS
        #: Said once until it works again.
        self._failed = False

    def advance(self, now_ms: int) -> int:
        """Do what is due; returns when to call again."""
        if now_ms >= self._check_ms:
            self._check_ms = now_ms + RUNTIME_CHECK_MS
            self.check()
        if now_ms >= self._touch_ms:
            self._touch_ms = now_ms + RUNTIME_TOUCH_MS
            self._local.touch()
            self._transport.touch_files()
        return min(self._check_ms, self._touch_ms)

    def check(self) -> None:
        """Make again what is missing, and say so."""
        gone = self._missing()
        if not gone:
            self._failed = False
            return
        try:
            paths.make_again(self._folder)
            # Who reads the entry connects to the sockets at once.
            self._transport.bind_again()
            self._local.make_again()
        except ConfigError as exc:
            if not self._failed:
                self._failed = True
                self._note(fx.Note("error", "node.files", self._failure(gone, exc)))
            return
        self._failed = False
        text = (
            f"files of this node vanished from {self._folder} ({gone}); they are made again, "
            "until now nobody new found it"
        )
        self._note(fx.Note("warning", "node.files", text))

    def _missing(self) -> str:
        gone = self._local.missing()
        sockets = len(self._transport.missing_files())
        if sockets:
            gone.append("1 socket" if sockets == 1 else f"{sockets} sockets")
        if gone and not self._folder.is_dir():
            return "the whole folder"
        return ", ".join(gone)

    def _failure(self, gone: str, exc: ConfigError) -> str:
        return (
            f"files of this node vanished from {self._folder} ({gone}), nobody new on this host "
            f"finds it, and they cannot be made again: {exc}; where a logout removes the folder, "
            "'loginctl enable-linger' keeps it; trying on"
        )
