"""What a journal keeps of a task that its node owns."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

import msgspec

from zmqtasks.limits import JOURNAL_MARK_BYTES_MAX
from zmqtasks.wire.messages import Kind


class Durability(IntEnum):
    """What a task must survive."""

    #: Any worker's death; written behind, so that most survive the owner's process too.
    MEMORY = 0
    #: Power loss: synced to the owner's disk before it counts as accepted.
    DISK = 1


#: ``OwnedRecord.mark`` of a task that is owned here and active.
MARK_OWNED = b""


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
    #: In whose hands it is; made and read by the functions below, plain bytes to a journal.
    mark: bytes = MARK_OWNED


class Progress(NamedTuple):
    """What changes about an open task."""

    id: bytes
    attempt: int
    strikes: int
    #: None: as it is, here and below.
    mark: bytes | None = None
    #: Other facts, and other arguments, in place of those that it had.
    ext: dict[str, Any] | None = None
    body: bytes | None = None

    def after(self, before: Progress) -> Progress:
        """Both as one."""
        return self._replace(
            mark=before.mark if self.mark is None else self.mark,
            ext=before.ext if self.ext is None else self.ext,
            body=before.body if self.body is None else self.body,
        )


def merged(progress: Sequence[Progress]) -> dict[bytes, Progress]:
    """{task id: all of its changes as one}."""
    last: dict[bytes, Progress] = {}
    for change in progress:
        before = last.get(change.id)
        last[change.id] = change if before is None else change.after(before)
    return last


def changed_record(record: OwnedRecord, change: Progress) -> OwnedRecord:
    """The task with that change."""
    return msgspec.structs.replace(
        record,
        attempt=change.attempt,
        strikes=change.strikes,
        mark=record.mark if change.mark is None else change.mark,
        ext=record.ext if change.ext is None else change.ext,
        body=record.body if change.body is None else change.body,
    )


# --- marks --------------------------------------------------------------------------------

_INCOMING = b"<"
_GIVEN = b">"
_DEAD = b"!"
_ENDED = b"="
#: Of the reason why a task is dead, characters: leaves room for its story.
_REASON_CHARS_MAX = 2_000


class Incoming(NamedTuple):
    """Offered to us by a node that has not confirmed it yet: never dispatched from here."""

    node: bytes


class Given(NamedTuple):
    """Given to a node that has not said yet that it is active there: not ours any longer,
    kept to answer its questions."""

    node: bytes


class Ended(NamedTuple):
    """It has succeeded and is told: ``body`` is its result, for tasks that wait for others
    as well."""


class Dead(msgspec.Struct, frozen=True):
    """Given up after too many lost workers, kept for people to decide."""

    #: Its story, the last line last.
    story: list[dict[str, Any]]
    reason: str
    #: Wall clock, milliseconds since 1970.
    at_ms: int


#: What a mark says; None: owned here and active.
Custodian: TypeAlias = Incoming | Given | Ended | Dead | None
#: ``OwnedRecord.mark`` of one that has ended and whose result is still wanted.
MARK_ENDED = _ENDED

_encode_dead = msgspec.msgpack.Encoder().encode
_decode_dead = msgspec.msgpack.Decoder(Dead).decode


def incoming_from(node: bytes) -> bytes:
    """The mark of a task that this node offered to us."""
    return _INCOMING + node


def given_to(node: bytes) -> bytes:
    """The mark of a task that was given to this node."""
    return _GIVEN + node


def dead_mark(story: Sequence[dict[str, Any]], reason: str, at_ms: int) -> bytes:
    """The mark of a dead task. Of a story that is too long the first lines are left out.

    Args:
        story: its lines, of what msgpack can hold.
        reason: why it was given up.
        at_ms: wall clock, milliseconds since 1970.
    """
    lines = list(story)
    reason = reason[:_REASON_CHARS_MAX]
    while len(mark := _DEAD + _encode_dead(Dead(lines, reason, at_ms))) > JOURNAL_MARK_BYTES_MAX:
        lines = lines[1 + len(lines) // 8 :]
    return mark


def parse_mark(mark: bytes) -> Custodian:
    """What a mark says.

    Raises:
        ValueError: it is none of the five that there are.
    """
    if not mark:
        return None
    tag, rest = mark[:1], mark[1:]
    if mark == _ENDED:
        return Ended()
    if tag == _INCOMING and rest:
        return Incoming(rest)
    if tag == _GIVEN and rest:
        return Given(rest)
    if tag == _DEAD:
        try:
            return _decode_dead(rest)
        except msgspec.MsgspecError as exc:
            raise ValueError(f"the mark of a dead task cannot be read: {exc}") from exc
    raise ValueError(f"a task in the journal has a mark {mark[:20]!r}, which has no meaning")
