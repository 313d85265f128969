"""The store role: the machines' batches go to a store, its answers come back."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from zmqtasks.core import effects as fx
from zmqtasks.node.runtime import Runtime
from zmqtasks.node.storing import Rows, StoreListener, StoreOptions, StoreWriter
from zmqtasks.settings import NodeSettings
from zmqtasks.stores.registry import hide_password, make_store
from zmqtasks.wire.messages import Verdict

_LOG = logging.getLogger("zmqtasks.store")
_CLOSE_S = 10.0


class _Batch(NamedTuple):
    rows: int
    settled: list[bytes]


class StoreKeeper:
    """One store of one node.

    Args:
        runtime: of the node.
        settings: for how long results are kept.
        url: of the store.

    Raises:
        ConfigError: the URL or its back end cannot be used.
    """

    def __init__(self, runtime: Runtime, settings: NodeSettings, url: str) -> None:
        self._runtime = runtime
        self.name = hide_password(url)
        self._writer = StoreWriter(
            make_store(url),
            runtime.loop.call_soon,
            StoreListener(self._stored, self._room),
            StoreOptions(name=self.name, keep_ms=round(settings.result_keep_s * 1000)),
        )
        self._batches: dict[int, _Batch] = {}
        self._refused: list[fx.StoreRows] = []

    def start(self) -> None:
        """Open the store; see ``StoreWriter.start``."""
        self._writer.start()

    def joined(self) -> None:
        """The node is in the mesh."""
        _LOG.info("results go to %s", self.name)

    def write(self, effect: fx.StoreRows) -> None:
        """Store a batch; it stays here while the store has no room (the machine that
        made it bounds how much that can be)."""
        settled = [v.task_id for v in effect.verdicts if v.verdict == Verdict.SETTLED]
        rows = len(effect.outcomes) + len(effect.verdicts)
        self._batches[effect.batch] = _Batch(rows, settled)
        if self._refused or not self._writer.write(effect.batch, effect.outcomes, effect.verdicts):
            self._refused.append(effect)

    def ask(self, effect: fx.AskStore) -> None:
        """Look ids up."""
        token = effect.token

        def found(rows: Rows, reason: str) -> None:
            if reason:
                _LOG.warning("a lookup failed: %s", reason)
            self._runtime.mesh.answers.store_answered(token, rows, reason)

        self._writer.read(effect.ids, found)

    def forget(self, effect: fx.ForgetRows) -> None:
        """Drop rows."""
        if not self._writer.forget(effect.ids):
            _LOG.warning("%s is too busy to forget %d results", self.name, len(effect.ids))

    def _stored(self, batches: list[int]) -> None:
        for number in batches:
            batch = self._batches.pop(number)
            self._runtime.mesh.rows_stored(number, batch.rows, batch.settled)

    def _room(self) -> None:
        refused, self._refused = self._refused, []
        for position, effect in enumerate(refused):
            if not self._writer.write(effect.batch, effect.outcomes, effect.verdicts):
                self._refused = refused[position:]
                return

    def describe(self) -> dict[str, Any]:
        """What waits for the store, and why it does not take it ("" when it does)."""
        backlog = self._writer.backlog()
        return {
            "url": self.name,
            "waiting": backlog.rows,
            "waiting_bytes": backlog.bytes,
            "failing": backlog.failing,
        }

    def close(self) -> int:
        """Store what waits; returns how many rows could not be stored."""
        return self._writer.close(_CLOSE_S)
