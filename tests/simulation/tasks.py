"""The tasks of a simulated world: what they do, how long they take, what they return."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

from zmqtasks.wire.messages import CatalogEntry, Kind, Status

APP = "sim"
QUICK = Kind(APP, "quick", "d1", "default")
SLOW = Kind(APP, "slow", "d1", "default")
#: Served by every second worker only.
RARE = Kind(APP, "rare", "", "special")
KINDS = (QUICK, SLOW, RARE)
#: Ends the names of tasks that are not idempotent.
_ONCE = ".once"


class Again(NamedTuple):
    """An attempt asks for another one after this time; ``counts``: as a retry."""

    delay_ms: int
    counts: bool


class Spec(NamedTuple):
    """One task."""

    id: bytes
    kind: Kind
    body: bytes
    run_ms: int
    #: "plain", "raise" (FAILURE), "kill" (its child dies of it), "spawn" (submits another).
    deed: str
    #: Bytes of the result.
    size: int = 4
    #: It is not idempotent, which its kind says, or else the workers' catalogs.
    once: bool = False
    #: Facts of its call.
    ext: dict[str, Any] | None = None
    #: What its first attempts end with.
    again: tuple[Again, ...] = ()


def catalog(kinds: tuple[Kind, ...]) -> list[CatalogEntry]:
    """What a worker announces that knows these kinds."""
    return [
        CatalogEntry(kind.app, kind.name + suffix, "d1", "(x)", ext)
        for kind in kinds
        for suffix, ext in (("", {}), (_ONCE, {"idem": 0}))
    ]


def once(spec: Spec, *, is_known: bool) -> Spec:
    """The task as one that must not run twice; ``is_known`` to its caller as such, who else
    calls it by its name alone."""
    name = spec.kind.name + _ONCE
    kind = Kind(APP, name, "", spec.kind.queue)
    if is_known:
        kind = Kind(APP, name, spec.kind.digest, spec.kind.queue, (("idem", 0),))
    return spec._replace(kind=kind, once=True)


def value_of(spec: Spec) -> tuple[int, bytes]:
    """Status and payload that this task must end with."""
    digest = zlib.crc32(spec.body + b"value").to_bytes(4, "big")
    status = Status.FAILURE if spec.deed == "raise" else Status.SUCCESS
    if spec.again and status is Status.FAILURE:
        status = Status.RETRIES_EXHAUSTED
    return status, digest * (spec.size // 4)


def offspring(parent: Spec, attempt: int) -> Spec:
    """The task that an attempt of a "spawn" task submits: new for each attempt, since a
    child process makes its ids at random."""
    tag = zlib.crc32(parent.id + bytes([attempt])) & 0xFFFFFF | 0x800000
    task_id = parent.id[:8] + tag.to_bytes(3, "big") + parent.id[-5:]
    return Spec(task_id, QUICK, b"child of " + parent.body, 1, "plain")
