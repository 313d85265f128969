"""Node and task identifiers.

A node id is 8 bytes: random for a process without a journal, kept for one with.
A task id is 16 bytes, ``owner node (8) | epoch (3) | counter (5)``: unique without
coordination, sortable within one producer (random keys slow SQLite inserts about
fivefold), naming the owner to ask, and printed as a UUID. Ids for tasks that a task
submits carry the owner of their parent, a set top bit and a random tag, since the
child cannot use its owner's counter.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Mapping
from typing import Any

NODE_ID_BYTES = 8
#: Of ``TaskRecord.ext``: the text that the task's id was given as.
ID_TEXT_KEY = "ti"
EPOCH_MAX = (1 << 23) - 1

#: First byte of every ZeroMQ routing id: a leading zero is reserved by libzmq.
_ROUTING_PREFIX = b"n"
_ROUTING_BYTES = 1 + NODE_ID_BYTES + 4
#: Texts that ids of tasks were given as, kept to show them; about 200 bytes each.
_TEXTS_COUNT_MAX = 10_000
_NAMESPACE = uuid.UUID("6f3f5c0e-6a0c-5d4f-9a53-0c1c9a8b7e21")


def new_node_id() -> bytes:
    """A fresh random node id (8 bytes)."""
    return os.urandom(NODE_ID_BYTES)


def routing_id(node: bytes, epoch: int) -> bytes:
    """The ZeroMQ routing id of one incarnation of a node."""
    return _ROUTING_PREFIX + node + epoch.to_bytes(4, "big")


def parse_routing_id(value: bytes) -> tuple[bytes, int] | None:
    """``(node, epoch)`` of a routing id, or None if it is not one of ours."""
    if len(value) != _ROUTING_BYTES or value[:1] != _ROUTING_PREFIX:
        return None
    return value[1 : 1 + NODE_ID_BYTES], int.from_bytes(value[1 + NODE_ID_BYTES :], "big")


def format_node(node: bytes) -> str:
    """A node id for people: hex."""
    return node.hex()


def task_id_maker(node: bytes, epoch: int) -> Callable[[], bytes]:
    """A function that makes the ids of tasks owned by this node incarnation."""
    if not 0 < epoch <= EPOCH_MAX:
        raise ValueError(f"epoch must be between 1 and {EPOCH_MAX}, not {epoch}")
    prefix = node + epoch.to_bytes(3, "big")
    counter = itertools.count(1)

    def make() -> bytes:
        return prefix + next(counter).to_bytes(5, "big")

    return make


def foreign_task_id_maker(owner: bytes) -> Callable[[], bytes]:
    """A function that makes ids, away from the owner, for tasks it will own."""
    tag = int.from_bytes(os.urandom(5), "big") | 1 << 39
    prefix = owner + tag.to_bytes(5, "big")
    counter = itertools.count(1)

    def make() -> bytes:
        return prefix + next(counter).to_bytes(3, "big")

    return make


def owner_of(task_id: bytes) -> bytes:
    """The node id in the prefix of a task id: the first node to ask about it."""
    return task_id[:NODE_ID_BYTES]


def format_task_id(task_id: bytes) -> str:
    """The id as users see it: the text that they gave, where this process has seen that, else a
    UUID. ``parse_task_id`` makes the same id of both."""
    return _texts.get(task_id) or str(uuid.UUID(bytes=task_id))


def parse_task_id(text: str) -> bytes:
    """Bytes of a task id given as text.

    A UUID is taken as it is; any other text names the task and becomes the UUIDv5
    (RFC 9562) of that name, so that the same name always means the same task.
    """
    if not text:
        raise ValueError("a task id cannot be empty")
    try:
        return uuid.UUID(text).bytes
    except ValueError:
        task_id = uuid.uuid5(_NAMESPACE, text).bytes
    if len(_texts) >= _TEXTS_COUNT_MAX:
        _texts.clear()
    _texts[task_id] = text
    return task_id


def learn_text(ext: Mapping[str, Any]) -> None:
    """Know from now on how the id of a task was given; ``ext`` of its record, from the wire."""
    text = ext.get(ID_TEXT_KEY)
    if isinstance(text, str) and text:
        parse_task_id(text)


def text_of_task_id(task_id: bytes) -> str | None:
    """The text that this id was given as, None for a UUID; see :func:`format_task_id`."""
    return _texts.get(task_id)


#: {task id: its text}. An id says nothing of it, so it is kept beside, for people only.
_texts: dict[bytes, str] = {}


def keyed_task_id(app: str, name: str, key: str) -> bytes:
    """The id of calls of this task with this ``idempotency_key``: always the same."""
    import hashlib  # most processes never need it

    # Names of apps and tasks have no zero byte, so the parts cannot run into each other.
    content = "\0".join((app, name, key)).encode()
    return hashlib.blake2b(content, digest_size=16, person=b"zmqtasks key").digest()


def tick_task_id(mesh: str, app: str, entry: str, due_ms: int, *, by_hand: bool = False) -> bytes:
    """The id of the task of one tick: the same, whichever beat starts it, and how often.

    Args:
        mesh: name of the mesh.
        app, entry: whose tick it is.
        due_ms: wall clock, milliseconds since 1970.
        by_hand: somebody ordered it, the schedule did not.
    """
    import hashlib  # most processes never need it

    content = "\0".join((mesh, app, entry, str(due_ms), "run" if by_hand else "")).encode()
    return hashlib.blake2b(content, digest_size=16, person=b"zmqtasks tick").digest()


def derived_task_id(task_id: bytes, number: int) -> bytes:
    """The id of a further task of a tick whose entry calls a workflow: always the same."""
    import hashlib  # most processes never need it

    content = task_id + number.to_bytes(8, "big")
    return hashlib.blake2b(content, digest_size=16, person=b"zmqtasks part").digest()
