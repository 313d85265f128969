"""What a dispatcher keeps: its open tasks, by kind, and the workers that hold them."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from zmqtasks.core.links import LinkId
from zmqtasks.limits import SETTLED_KEPT_COUNT_MAX
from zmqtasks.wire.messages import Hello, Kind, Outcome


class OwnedTask(msgspec.Struct):
    """A task that has not settled."""

    id: bytes
    lane: Lane
    body: bytes
    ext: dict[str, Any] | None
    attempt: int = 1
    strikes: int = 0
    #: Where the attempt is, None while READY.
    worker: WorkerLink | None = None
    #: True once the worker said that it runs.
    started: bool = False
    #: The outcome whose large payload is on its way.
    fetching: Outcome | None = None


class Lane:
    """The READY tasks of one kind, and the workers that can run them."""

    __slots__ = ("kind", "ready", "unserved_since_ms", "warned", "workers")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.ready: deque[OwnedTask] = deque()
        self.workers: list[WorkerLink] = []
        self.unserved_since_ms = -1
        self.warned = ""


class WorkerLink:
    """A worker as its tasks' owner sees it."""

    __slots__ = (
        "catalog", "demanded", "held", "limit", "link", "paused", "peer", "queues", "refused",
        "sent", "slots", "unstored",
    )  # fmt: skip

    def __init__(self, link: LinkId, peer: Hello) -> None:
        self.link = link
        self.peer = peer
        self.slots = max(1, peer.slots)
        self.queues = frozenset(peer.queues)
        #: {(app, name): signature digest}
        self.catalog = {(entry.app, entry.name): entry.digest for entry in peer.catalog}
        #: {(app, name, queue)} that it gave back although it announced them.
        self.refused: set[tuple[str, str, str]] = set()
        #: Tasks sent in all on this link, and how many may be.
        self.sent = 0
        self.limit = 0
        self.paused = False
        #: The backlog last told to it.
        self.demanded = 0
        #: {task id: task} sent and not answered, oldest first.
        self.held: dict[bytes, OwnedTask] = {}
        #: ``(position, kind, task id)`` of settled outcomes that no store is known to
        #: have, oldest first; the outcomes are among the owner's kept ones.
        self.unstored: deque[tuple[int, Kind, bytes]] = deque(maxlen=SETTLED_KEPT_COUNT_MAX)

    def serves(self, kind: Kind) -> bool:
        """Can it run tasks of this kind?"""
        if kind.queue not in self.queues or (kind.app, kind.name, kind.queue) in self.refused:
            return False
        digest = self.catalog.get((kind.app, kind.name))
        return digest is not None and (not kind.digest or not digest or digest == kind.digest)


def load_of(worker: WorkerLink) -> float:
    """Tasks held per slot, what others gave it included as far as it was heard."""
    return len(worker.held) / worker.slots
