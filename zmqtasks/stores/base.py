"""The contract of a result store.

Every store implements :class:`Store`; :class:`Queryable` and :class:`BlobStore` are
optional and stated in ``capabilities``. The contract suites in ``zmqtasks.testing``
say in tests what is said here in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from zmqtasks.core.rows import OutcomeRow, VerdictRow


class Store(Protocol):
    """Keeps the outcomes of attempts, and in such rows whatever else is published like them:
    saved groups (docs/protocol.md, "Verdicts"). All methods are coroutines of one event
    loop, which may overlap; each of them but ``expire`` takes effect as a whole or not at all.

    Foreign errors are translated to :class:`zmqtasks.errors.StoreError`; after one the
    caller may try the same call again, so every method is idempotent. Rows that go in
    or come out are copied: changing one later changes nothing in the store.
    """

    #: Subset of {"queryable", "blobs"}: the optional protocols it implements.
    capabilities: frozenset[str]

    async def open(self) -> None:
        """Connect and create what is missing; on an open store it does nothing.

        Raises:
            ConfigError: what the URL names can never be used (trying again is useless).
            StoreError: it cannot be reached now.
        """

    async def put_batch(
        self, outcomes: Sequence[OutcomeRow], verdicts: Sequence[VerdictRow]
    ) -> None:
        """Store all of it in one commit; durable (as the back end can be) on return.

        A row that exists already (same task and attempt) keeps its first content,
        except that a verdict may still come to it. A verdict whose outcome is not
        stored yet is kept and applied when it comes. A verdict, once SETTLED or
        REFUSED, never changes: the one that came first stands (within a call those
        carried by ``outcomes`` come before ``verdicts``). NONE is no verdict. A task
        has one outcome: when an attempt of it is SETTLED, another one that is to be
        (a repeated call can have two owners) is REFUSED.
        """

    async def get_batch(self, task_ids: Sequence[bytes]) -> Mapping[bytes, list[OutcomeRow]]:
        """All rows of these tasks, each list in the order first stored; unknown ids
        are left out."""

    async def delete(self, task_ids: Sequence[bytes]) -> None:
        """Drop all rows of these tasks and the verdicts kept for outcomes to come;
        unknown ids are no error."""

    async def expire(self, before_ms: int) -> int:
        """Drop rows whose ``stored_ms`` is less than this; returns how many.

        Works in pieces, so that other calls get their turn. Verdicts whose outcome
        never came are dropped by the time when the store got them, and not counted.
        """

    async def close(self) -> None:
        """Release everything; a second call does nothing. Other calls after it raise
        StoreError."""


class Queryable(Protocol):
    """A store that can list."""

    async def list(
        self,
        *,
        status: int | None = None,
        name: str | None = None,
        since_ms: int | None = None,
        limit: int = 100,
    ) -> list[OutcomeRow]:
        """Final rows (``core.rows.final_row``), newest ``stored_ms`` first, of equal ones
        the last stored first.

        Args:
            status: only this ``wire.messages.Status``.
            name: only this task name.
            since_ms: only rows whose ``stored_ms`` is not less.
            limit: at most so many rows.
        """


class BlobStore(Protocol):
    """A store that keeps large payloads by reference."""

    async def put_blob(self, key: str, data: bytes) -> None:
        """Keep these bytes under this key."""

    async def get_blob(self, key: str) -> bytes | None:
        """The bytes, or None."""

    async def delete_blob(self, key: str) -> None:
        """Drop them; unknown keys are no error."""
