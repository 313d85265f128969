"""Names of links and of peers that might be dialled."""

from __future__ import annotations

from typing import Literal, NamedTuple

Side = Literal["in", "out", "self"]


class LinkId(NamedTuple):
    """One connection to a peer: the socket it is on and the peer's routing id."""

    #: "in": the peer dialled us; "out": we dialled it; "self": this very node.
    side: Side
    peer: bytes


#: The link of a node to itself: a store reads its own worker's log, a dispatcher gives
#: tasks to its own intake.
SELF = LinkId("self", b"")
#: Stands for the link of tasks that came over the at-most-once lane.
LANE = LinkId("self", b"lane")
#: The only role of a candidate that takes nothing new and is about to leave. Its HELLO names
#: its roles as ever, with this as a key of ``ext``.
DRAINING = "draining"


class Candidate(NamedTuple):
    """A peer heard of, not yet trusted and perhaps not there any more."""

    #: Node id and epoch, or None and 0 where only an address is known (static peers).
    node: bytes | None
    epoch: int
    #: Hash of the mesh name (``keys.mesh_hash``) and the name for messages to people.
    mesh: bytes
    mesh_name: str
    #: Fingerprint of its mesh key, "" without one.
    fingerprint: str
    #: Addresses of its R_in: ``tcp://host:port`` or ``ipc://path``.
    endpoints: tuple[str, ...]
    #: Which host it is on: same value, same host and network namespace.
    host_id: bytes
    roles: tuple[str, ...]
    #: "local", "mdns", "static" or "cache".
    source: str
    #: What it calls itself, "" where that is not known before its HELLO.
    name: str = ""
