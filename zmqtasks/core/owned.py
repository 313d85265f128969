"""What a journal keeps of a task that its node owns."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from zmqtasks.wire.messages import Kind


class Durability(IntEnum):
    """What a task must survive."""

    #: Any worker's death; written behind, so that most survive the owner's process too.
    MEMORY = 0
    #: Power loss: synced to the owner's disk before it counts as accepted.
    DISK = 1


class OwnedRecord(msgspec.Struct, frozen=True, gc=False):
    """An open task as its owner's journal holds it. Key: ``id``."""

    id: bytes
    kind: Kind
    #: The encoded arguments.
    body: bytes
    #: As in ``wire.messages.TaskRecord``.
    ext: dict[str, Any] | None = None
    #: The last attempt that may have been given to a worker.
    attempt: int = 1
    strikes: int = 0
    durability: Durability = Durability.DISK
    #: Wall clock of the owner, milliseconds since 1970: when it was handed to the journal.
    written_ms: int = 0


class Progress(NamedTuple):
    """What changes about an open task."""

    id: bytes
    attempt: int
    strikes: int
