"""What a way of finding peers looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zmqtasks.core.links import Candidate

#: Told of each candidate, again whenever something about it changed.
Listener = Callable[[Candidate], None]
#: Told that a process has ended, by node id and epoch.
Gone = Callable[[bytes, int], None]


class Discovery(Protocol):
    """One way of finding peers.

    Constructors do nothing but remember. ``start`` and ``stop`` are called from the
    loop's thread and do not block; listeners are called from the loop.
    """

    def start(self, listener: Listener, gone: Gone) -> None:
        """Begin to look for peers.

        Args:
            listener: gets every candidate found, never this node itself.
            gone: gets those that are known to have ended; only ways that can prove it
                ever call it.
        """

    def announce(self, candidate: Candidate) -> None:
        """Let others find this node; again replaces what was announced."""

    def stop(self) -> None:
        """Take the announcement back and stop looking; again is no harm."""


class DiscoveryLoop(Protocol):
    """What a way of finding peers needs of the loop."""

    def register(self, obj: Any, callback: Callable[[], None], /) -> None:
        """Call back whenever a file descriptor can be read."""

    def unregister(self, obj: Any, /) -> None:
        """Forget a file descriptor."""

    def call_soon(self, fn: Callable[..., Any], /, *args: Any) -> None:
        """Call from the loop; may be used from any thread."""
