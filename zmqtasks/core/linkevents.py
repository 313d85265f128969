"""What Membership tells the other machines about links, and the timers it goes by."""

from __future__ import annotations

from typing import NamedTuple

from zmqtasks.core.links import LinkId
from zmqtasks.wire.messages import Hello, Message


class Timers(NamedTuple):
    """The timers of links, in milliseconds (docs/promises.md says what follows from them)."""

    heartbeat_ms: int
    lease_ms: int
    stalled_ms: int
    lost_ms: int
    stalled_lost_ms: int


class LinkUp(NamedTuple):
    """A peer may be worked with."""

    link: LinkId
    peer: Hello


class PeerChanged(NamedTuple):
    """A peer says of itself something else than before: queues, slots, tasks, facts."""

    link: LinkId
    peer: Hello


class LinkDown(NamedTuple):
    """``reason``: "gone", "silent", "replaced" (newer epoch), "reset" or "left"."""

    link: LinkId
    peer: Hello
    reason: str


class LinkPaused(NamedTuple):
    """No new work for this peer (or work again)."""

    link: LinkId
    paused: bool


class LeaseLost(NamedTuple):
    """This peer can no longer count on us: its unstarted tasks are not ours."""

    link: LinkId


class LeaseBack(NamedTuple):
    """This peer counts on us again."""

    link: LinkId


class Delivered(NamedTuple):
    """The next message of a link's stream."""

    link: LinkId
    message: Message


MemberEvent = LinkUp | PeerChanged | LinkDown | LinkPaused | LeaseLost | LeaseBack | Delivered


def changing(hello: Hello) -> tuple[object, ...]:
    """What a node may say otherwise while it runs."""
    return hello.slots, hello.queues, hello.catalog, hello.ext
