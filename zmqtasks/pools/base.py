"""The contract of a pool: the place where user code runs.

A pool has numbered *slots*. The intake (``core/intake.py``) decides which tasks go to
which slot; the pool carries them there and tells what came of it. All calls and all
callbacks happen on the loop's thread, except ``load`` and ``start`` which run before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from zmqtasks.limits import PAYLOAD_BYTES_MAX
from zmqtasks.pools.protocol import Answer, ChildOutcome, ChildRequest, RunTask
from zmqtasks.wire.messages import CatalogEntry


class PoolConfig(msgspec.Struct, frozen=True):
    """What a pool and its children need to know; travels to them as JSON.

    ``program`` and ``preload`` are "module:function" names of code above this layer:
    ``program(link, config)`` gives the :class:`~zmqtasks.pools.child.Program` that
    runs tasks; ``preload(config)`` imports what children will need ("" for nothing).
    """

    #: Application spec, as ``zmqtasks node --app`` takes it.
    app: str
    program: str = "zmqtasks.app.childmain:main"
    preload: str = "zmqtasks.app.childmain:preload"
    #: Name of the node, which tasks see as ``self.request.hostname``.
    node_name: str = ""
    #: Largest result. Before the application says what it wants: it can want less only.
    payload_bytes_max: int = PAYLOAD_BYTES_MAX
    #: Level of the root logger in children, unless the application sets one itself.
    log_level: str = "INFO"
    #: {setting: value} of the node's command line, which its tasks shall obey too.
    flags: dict[str, Any] = {}
    #: Send what tasks print and log to the node; off: it goes where it always went.
    capture: bool = True


class PoolHost(Protocol):
    """What a pool needs from the node that hosts it."""

    def register(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back on the loop's thread whenever ``fd`` is readable."""

    def unregister(self, fd: int) -> None:
        """Stop doing so."""

    def register_writable(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back on the loop's thread once, when ``fd`` takes bytes again."""

    def call_soon(self, function: Callable[..., None], *args: Any) -> None:
        """Run on the loop's thread; callable from any thread."""

    def slot_ready(self, slot: int) -> None:
        """The slot exists and is idle (after start, or after a replacement)."""

    def slot_done(self, slot: int, outcomes: Sequence[ChildOutcome]) -> None:
        """These attempts ended in this slot, in the order in which they were sent."""

    def slot_died(self, slot: int, reason: str) -> None:
        """The slot's process is gone; ``slot_ready`` follows when it is replaced."""

    def slot_request(self, slot: int, request: ChildRequest) -> None:
        """Code in the slot submits, asks, waits, reports a state or logs.

        Submits and queries must be answered at some time: the task waits for it. What
        ended tasks write still comes, with an empty ``id``.
        """


class Pool(Protocol):
    """Runs attempts in slots."""

    #: How many there are; may be set until ``start``.
    slots: int

    def load(self) -> Mapping[str, Any]:
        """Load the application, return the settings that it makes, by name.

        What it writes meanwhile is told to the host that ``start`` gets.

        Raises:
            AppLoadError: with the traceback of the failed import.
        """

    def start(self, host: PoolHost) -> list[CatalogEntry]:
        """Load the application if need be, start the slots, return the tasks it has.

        Raises:
            AppLoadError: with the traceback of the failed import.
        """

    def run(self, slot: int, tasks: Sequence[RunTask]) -> None:
        """Hand these to the slot, which runs them one after the other."""

    def answer(self, slot: int, answer: Answer) -> None:
        """Answer a request of that slot."""

    def kill(self, slot: int) -> None:
        """End what runs there at once; ``slot_died`` follows."""

    def stop(self) -> None:
        """End all slots; ``start`` is not called again. Leaves no process behind."""
