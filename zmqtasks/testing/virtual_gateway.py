"""The gateways of a mesh in one process: of the test, and of whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from zmqtasks.app import timing
from zmqtasks.core.calls import Call, Ticket
from zmqtasks.core.owned import Durability
from zmqtasks.errors import MeshOverloaded
from zmqtasks.node.accepting import Acceptance
from zmqtasks.node.client import Client
from zmqtasks.node.conditions import Conditions
from zmqtasks.node.gateway import Gateway, Pending
from zmqtasks.testing.virtual_pool import way

if TYPE_CHECKING:
    from zmqtasks.node.room import Place
    from zmqtasks.node.runtime import Part, Runtime
    from zmqtasks.settings import NodeSettings
    from zmqtasks.testing.virtual_node import VirtualNode

_T = TypeVar("_T")


class VirtualConditions(Conditions):
    """Conditions that hold, or do not, after some time of the mesh.

    Args:
        node: by whose clock.
    """

    def __init__(self, node: VirtualNode) -> None:
        super().__init__(node.as_runtime.loop)
        self._clock = node.clock

    def wait(self, condition: Callable[[], bool], wait_s: float) -> bool:
        """See ``Conditions``."""
        return self._clock.wait_until(condition, timing.span_ms(wait_s))


class VirtualClient(Client):
    """What owns the calls of the test: a ``Client`` whose node has no thread and no sockets.

    Args:
        settings: of this process.
        make_node: makes its node.
        called: told of calls before they are submitted.
        run: runs all that is due, to make room.
    """

    def __init__(
        self, settings: NodeSettings, make_node: Callable[[Part], VirtualNode],
        called: Callable[[Sequence[Call]], None], run: Callable[[], None],
    ) -> None:  # fmt: skip
        self._make_node = make_node
        self._called = called
        self._run_all = run
        self._is_submitting = False
        super().__init__(settings)
        self.conditions = VirtualConditions(self.virtual_node)

    def _make_runtime(self, part: Part) -> Runtime:
        self.virtual_node = self._make_node(part)
        return self.virtual_node.as_runtime

    def _start(self) -> None:
        """There is no thread: whoever calls does what is to be done."""

    def on_loop(self, function: Callable[[], _T], /) -> _T:
        """Run it, and let all nodes answer."""
        self._check_alive()
        node = self.virtual_node
        with node.wires.lock:
            found = function()
            # Questions are concluded when it is time to look at them.
            for _ in range(3):
                node.wires.pump()
                node.tick(at_once=True)
            node.wires.pump()
        return found

    def submit(
        self, calls: Sequence[Call], ticket: Ticket, *, wait_s: float | Place | None = None,
        require_worker_s: float | None = None, delivery: str = "at_least_once",
        durability: Durability = Durability.MEMORY,
    ) -> None:  # fmt: skip
        """See ``Gateway``."""
        self._called(calls)
        self._is_submitting = True  # it may begin them
        try:
            self._with_room(
                lambda wait_s: super(VirtualClient, self).submit(
                    calls, ticket, wait_s=wait_s, require_worker_s=require_worker_s,
                    delivery=delivery, durability=durability,
                ),
                wait_s,
            )  # fmt: skip
        finally:
            self._is_submitting = False

    def begin(
        self, calls: Sequence[Call], ticket: Ticket, *, after: Pending | None = None,
        wait_s: float | Place | None = None,
    ) -> Acceptance:  # fmt: skip
        """See ``Gateway``."""
        if not self._is_submitting:
            self._called(calls)
        return self._with_room(
            lambda wait_s: super(VirtualClient, self).begin(
                calls, ticket, after=after, wait_s=wait_s
            ),
            wait_s,
        )

    def _with_room(
        self, submit: Callable[[float | Place | None], _T], wait_s: float | Place | None
    ) -> _T:
        """Waiting for room takes no time: what is open is run."""
        if wait_s is not None and not isinstance(wait_s, (int, float)):
            return submit(wait_s)
        try:
            return submit(0)
        except MeshOverloaded:
            if wait_s == 0:
                raise
            self._run_all()
            return submit(0)

    def pace(self, task_id: bytes, is_behind: Callable[[], bool]) -> None:
        """Nobody reads while a task runs, and it would wait for that in vain."""

    def close(self, reason: str = "closed") -> None:
        """No more is called through it."""
        self._closed = True


class Ways:
    """The gateway of this process: inside a task that of the task, else that of the test.

    Args:
        client: of the test.
    """

    def __init__(self, client: VirtualClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(way.get() or self._client, name)

    @property
    def as_gateway(self) -> Gateway:
        """The same."""
        return cast("Gateway", self)
