"""A call on its way to its owner."""

from __future__ import annotations

from typing import Any, NamedTuple

from zmqtasks.wire.messages import Kind


class Call(NamedTuple):
    """One call to own. ``body`` is the encoded arguments, ``ext`` see ``TaskRecord``."""

    id: bytes
    kind: Kind
    body: bytes
    ext: dict[str, Any] | None
