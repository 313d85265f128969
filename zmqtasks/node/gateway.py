"""What tasks and handles need from the process they are in.

There are two gateways: the client of a producing process (``node/client.py``), which
owns tasks, and the one inside a pool child (``pools/child.py``), which passes calls on
to the owner of the running task. Code in ``app/`` knows only this protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from zmqtasks.core.calls import UNKNOWN_STATUS, Call, Ticket
from zmqtasks.core.owned import Durability
from zmqtasks.wire.messages import Hello, Kind, StateRecord

if TYPE_CHECKING:
    from zmqtasks.node.room import Place
    from zmqtasks.node.survey import Request, SeenNode


class TaskView(NamedTuple):
    """A task as seen by the nodes of the mesh."""

    #: As from ``states``.
    record: StateRecord
    #: ``(node, what it tells)`` of those that know the task, see ``Custodian.story_of``.
    told: Sequence[tuple[str, Mapping[str, Any]]]
    #: {node id in hex: name} of the nodes in sight.
    names: Mapping[str, str]


class Pending(Protocol):
    """Calls on their way to their owner."""

    def wait(self) -> None:
        """Until they are accepted.

        Raises:
            SubmitRejected: they are not, with the reason.
            SubmitUnknown: that cannot be said (in time). Their ticket is told nothing then.
        """

    def forget(self) -> None:
        """Tell their ticket nothing, from now on. For those begun after some that failed."""


class Gateway(Protocol):
    """Submits calls and answers questions. Thread-safe, and refuses after a fork."""

    #: True inside a running task, where waiting for another task is refused.
    inside_task: bool

    def new_ids(self, count: int) -> list[bytes]:
        """Ids for calls to come."""

    def submit(
        self,
        calls: Sequence[Call],
        ticket: Ticket,
        *,
        wait_s: float | Place | None = None,
        require_worker_s: float | None = None,
        delivery: str = "at_least_once",
        durability: Durability = Durability.MEMORY,
    ) -> None:
        """Take these calls over; their outcomes go to ``ticket``.

        Args:
            wait_s: how long to wait for room when too many tasks are open (None: the
                setting ``submit_timeout_s``; 0: do not wait). Or the place in the line where
                that was done: of just these calls.
            require_worker_s: raise NoWorkers unless a worker that can run it is, or
                comes, in sight within so many seconds.
            delivery: "at_least_once" or "at_most_once" (PUSH/PULL, no redelivery).
            durability: DISK returns once their owner has all of them on disk, which blocks
                for as long as that takes; never together with "at_most_once".

        Raises:
            MeshOverloaded: no room in time; none of the calls was accepted.
            NoWorkers: see above; none of the calls was accepted.
            SubmitRejected: the disk refuses them, or an id belongs to a task with other
                content (``ext["c"]``); none of the calls was accepted.
            SubmitUnknown: DISK, and it cannot be said whether they are accepted.
        """

    def line_up(self, calls: Sequence[Call], wake: Callable[[], None]) -> Place:
        """Wait for room for these calls without a thread: for ``wait_s`` of ``submit``.
        Not offered inside a task. Whoever lines up has to ``leave`` in the end.

        Args:
            wake: called when there is room, see ``Room.line_up``.
        """

    def begin(
        self,
        calls: Sequence[Call],
        ticket: Ticket,
        *,
        after: Pending | None = None,
        wait_s: float | Place | None = None,
    ) -> Pending:
        """Start to submit calls with durability DISK; ``wait`` of what it returns follows.

        Args:
            after: what an earlier ``begin`` returned: these calls are accepted after those,
                and not at all if those are not.
            wait_s: as for ``submit``.

        Raises:
            MeshOverloaded: no room in time; none of the calls was accepted.
        """

    def states(self, ids: Sequence[bytes], timeout_s: float) -> dict[bytes, StateRecord]:
        """What is known of these tasks: own ones at once, else store, owner, everybody.

        An id that nobody knows has state UNKNOWN once all have answered, else PENDING.
        """

    def watch(self, ids: Sequence[bytes], ticket: Ticket) -> None:
        """Tell the ticket when these tasks, submitted elsewhere, settle. An id found
        to be unknown to everybody is told with ``Outcome.status`` UNKNOWN_STATUS."""

    def pace(self, task_id: bytes, is_behind: Callable[[], bool]) -> None:
        """Have a generator task pause while its reader here is behind, or go on; from any
        thread. ``is_behind`` is asked a moment later, and again at each further call."""

    def forget(self, ids: Sequence[bytes]) -> None:
        """Drop their outcomes here and in the stores."""

    def keep(self, kind: Kind, record_id: bytes, body: bytes, timeout_s: float) -> None:
        """Let stores keep a value as the outcome of a task that never was; ``states`` finds it.

        Inside a task it returns at once: a store has it before it has the task's own outcome.

        Args:
            kind: says what it is.
            record_id: under which it is found; what was kept so first stands.
            body: an encoded value.
            timeout_s: how long to look for a store, and again until it has it.

        Raises:
            StoreError: no store is in sight, or none had it in time.
        """

    def describe(self, task_id: bytes) -> str:
        """One sentence about where the task is, for error messages."""

    def story(self, task_id: bytes, timeout_s: float) -> TaskView:
        """What all nodes tell of a task. Not offered inside a task.

        Args:
            timeout_s: how long each of its questions waits for nodes that do not answer.
        """

    def find(self, request: Request, timeout_s: float) -> list[Hello]:
        """The nodes in sight that a request is for. Not offered inside a task."""

    def command(self, request: Request, timeout_s: float) -> list[SeenNode]:
        """Let nodes answer something, or do it. Not offered inside a task.

        Returns:
            Their answers, and those that gave none in time.
        """


__all__ = ["UNKNOWN_STATUS", "Call", "Durability", "Gateway", "Pending", "TaskView", "Ticket"]
