"""What beats tell each other: which ticks were started, and how they ended."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from zmqtasks.wire.codes import MessageType
from zmqtasks.wire.messages import Message


class TickRecord(msgspec.Struct, array_like=True, gc=False):
    """One tick of an entry: a moment at which its task was due.

    ``due_ms`` wall clock, milliseconds since 1970; ``fate`` see ``core.ticks.Fate``;
    ``starts`` the nodes that submitted its task; ``status`` how that ended (-1: not known),
    ``ended_ms`` when (wall clock), ``told_by`` which node says so; ``count`` of ticks not
    started that this record stands for, this one the last; ``by_hand``: somebody ordered it;
    ``again`` how often it was started since nobody knew the outcome of an earlier start;
    ``text`` why it was refused.
    """

    due_ms: int
    fate: int
    starts: list[bytes]
    status: int = -1
    ended_ms: int = 0
    told_by: bytes = b""
    count: int = 1
    by_hand: bool = False
    again: int = 0
    text: str = ""


class BeatRecord(msgspec.Struct, array_like=True, gc=False):
    """What is known of an entry, and those of its ticks of which there is news.

    All ticks after ``since_ms`` and up to ``upto_ms`` are decided. ``schedule`` in words.
    ``paused`` was said at ``paused_ms`` (wall clock); the last word counts.
    """

    name: str
    schedule: str
    since_ms: int
    upto_ms: int
    paused: bool
    paused_ms: int
    ticks: list[TickRecord]


class Beats(Message):
    """News of entries of this app, from one beat to another; ``more`` of the same follow."""

    TYPE: ClassVar[MessageType] = MessageType.BEATS
    app: str
    entries: list[BeatRecord]
    more: bool = False
