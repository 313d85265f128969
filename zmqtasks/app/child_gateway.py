"""The way to the mesh for code inside a task: over the node, to the task's owner."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from zmqtasks.app.trail import note
from zmqtasks.core.calls import weight
from zmqtasks.errors import SubmitRejected, TimeoutError
from zmqtasks.ids import foreign_task_id_maker, format_task_id
from zmqtasks.limits import CHILD_SUBMIT_BYTES_MAX, CHILD_SUBMIT_COUNT_MAX
from zmqtasks.node.gateway import Call, Durability, Pending, TaskView, Ticket
from zmqtasks.node.tickets import unknown_outcome
from zmqtasks.pools.child import Link
from zmqtasks.pools.protocol import (
    ForgetRequest,
    KeepRequest,
    QueryRequest,
    RunTask,
    StateUpdate,
    SubmitRequest,
)
from zmqtasks.pools.running import running_task
from zmqtasks.wire.messages import Hello, Kind, StateRecord, TaskState

if TYPE_CHECKING:
    from zmqtasks.node.room import Place
    from zmqtasks.node.survey import Request, SeenNode

#: Owners whose id makers are kept; a child mostly works for a few.
_MAKERS_MAX = 1_000
#: How long ``describe`` may take to enrich an error message.
_DESCRIBE_S = 1.0


class ChildGateway:
    """Implements ``Gateway`` inside a running task.

    What a task submits is owned by the owner of the task: ``submit`` returns when the
    owner has accepted it, and the task's own outcome is not reported before that.

    Args:
        link: the way to the node; None where nothing may be submitted at all (while
            the application is imported for children to be).
    """

    inside_task = True

    def __init__(self, link: Link | None) -> None:
        self._link = link
        self._makers: dict[bytes, Callable[[], bytes]] = {}

    def new_ids(self, count: int) -> list[bytes]:
        """Ids for calls to come, in the name of the running task's owner.

        Raises:
            SubmitRejected: no task runs here.
        """
        owner = self._running()[1].owner
        try:
            make = self._maker(owner)
            return [make() for _ in range(count)]
        except OverflowError:
            # One maker has 16 million ids.
            self._makers.pop(owner, None)
            make = self._maker(owner)
            return [make() for _ in range(count)]

    def _maker(self, owner: bytes) -> Callable[[], bytes]:
        make = self._makers.get(owner)
        if make is None:
            if len(self._makers) >= _MAKERS_MAX:
                self._makers.clear()
            make = self._makers[owner] = foreign_task_id_maker(owner)
        return make

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
        """Hand calls to the owner of the running task and wait until it has them.

        The ticket is told nothing: waiting for a task inside a task is refused.

        Args:
            wait_s: the owner decides how long it may take; ignored.
            durability: with DISK the owner has them on disk before it accepts them.

        Raises:
            SubmitRejected: refused by the owner, or not possible inside a task. When
                only a part was accepted, the message says how many.
        """
        if delivery != "at_least_once":
            raise SubmitRejected(
                f"delivery={delivery!r} is not offered inside a task, whose calls go through "
                "its owner; leave it out"
            )
        if require_worker_s is not None:
            raise SubmitRejected(
                "require_worker= is not offered inside a task, whose calls its owner "
                "distributes; leave it out"
            )
        link, task = self._running()
        facts = {"dur": 1} if durability is Durability.DISK else {}
        done = 0
        for piece in _pieces(calls):
            answer = link.ask(partial(_request, parent=task, calls=piece, facts=facts))
            if answer is None or answer.error:
                reason = answer.error if answer else "no answer"
                raise SubmitRejected(
                    f"the owner of task {format_task_id(task.id)} did not accept "
                    f"{len(calls) - done} of {len(calls)} calls: {reason}"
                )
            done += len(piece)
        note(task, [call.id for call in calls])

    def line_up(self, calls: Sequence[Call], wake: Callable[[], None]) -> Place:
        """Refused: inside a task the owner of the task waits for room.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("inside a task calls are submitted without a place in a line")

    def begin(
        self, calls: Sequence[Call], ticket: Ticket, *, after: Pending | None = None,
        wait_s: float | Place | None = None,
    ) -> Pending:  # fmt: skip
        """The same with durability DISK; it waits at once, so ``after`` says nothing new.

        Raises:
            SubmitRejected: as from :meth:`submit`.
        """
        self.submit(calls, ticket, wait_s=wait_s, durability=Durability.DISK)
        return _Accepted()

    def states(self, ids: Sequence[bytes], timeout_s: float) -> dict[bytes, StateRecord]:
        """What is known of these tasks; PENDING for those without an answer in time."""
        link = self._running()[0]
        answer = link.ask(
            lambda number: QueryRequest(request=number, ids=list(ids), wait=False), timeout_s
        )
        found = {id_: StateRecord(id_, TaskState.PENDING, {}, None) for id_ in ids}
        if answer is not None:
            found.update({state.id: state for state in answer.states})
        return found

    def pace(self, task_id: bytes, is_behind: Callable[[], bool]) -> None:
        """Nothing to do: what a task follows is not owned by its process."""

    def watch(self, ids: Sequence[bytes], ticket: Ticket) -> None:
        """Tell the ticket when these tasks settle.

        A thread waits for it: in a task this is rare (callbacks on handles).
        """
        link = self._running()[0]
        threading.Thread(
            target=_watch, args=(link, list(ids), ticket), name="zmqtasks-watch", daemon=True
        ).start()

    def forget(self, ids: Sequence[bytes]) -> None:
        """Drop their outcomes in the mesh and the stores."""
        self._running()[0].tell(ForgetRequest(ids=list(ids)))

    def keep(self, kind: Kind, record_id: bytes, body: bytes, timeout_s: float) -> None:
        """See ``Gateway``: the node publishes it, before the outcome of the task."""
        self._running()[0].tell(KeepRequest(kind, record_id, body))

    def describe(self, task_id: bytes) -> str:
        """One sentence about where the task is, for error messages."""
        try:
            state = self.states([task_id], _DESCRIBE_S)[task_id]
        except (SubmitRejected, TimeoutError):
            return "nothing is known of it here"
        name = TaskState(state.state).name
        why = state.info.get("why")
        return f"its state is {name} ({why})" if why else f"its state is {name}"

    def story(self, task_id: bytes, timeout_s: float) -> TaskView:
        """Refused: a worker's children ask for states only.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "story() is not offered inside a task; ask the task's state here, or run "
            f"'zmqtasks story {format_task_id(task_id)}'"
        )

    def find(self, request: Request, timeout_s: float) -> list[Hello]:
        """Refused: what runs in a worker sees the mesh through its node only.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"{request.what} is not offered inside a task, which sees no nodes: run it in a script "
            "or a service of your own, or as `zmqtasks inspect` and `zmqtasks control`"
        )

    def command(self, request: Request, timeout_s: float) -> list[SeenNode]:
        """Refused, as ``find`` is.

        Raises:
            RuntimeError: always.
        """
        self.find(request, timeout_s)
        return []

    def tell_update(self, state: str, meta: bytes, number: int) -> None:
        """Publish news of the running task, see ``StateUpdate``."""
        link, task = self._running()
        link.tell(StateUpdate(task.id, task.attempt, state, meta, number))

    def wait_for_owner(self) -> None:
        """Return when the owner of the running task has got what the task has told.

        A submission of nothing goes the same way, and is answered. A refusal says that
        there is no owner any more, and nothing to wait for.
        """
        link, task = self._running()
        link.ask(partial(_request, parent=task, calls=(), facts={}))

    def _running(self) -> tuple[Link, RunTask]:
        task = running_task()
        if task is None or self._link is None:
            raise SubmitRejected(
                "no task runs here, so nobody would own the call: a worker process submits "
                "from inside tasks only, not while it imports the application, nor from a thread "
                "that outlives its task"
            )
        return self._link, task


class _Accepted:
    """Calls that their owner has."""

    def wait(self) -> None:
        """Implements ``Pending``."""

    def forget(self) -> None:
        """Implements ``Pending``."""


def _pieces(calls: Sequence[Call]) -> Iterator[Sequence[Call]]:
    """Requests of bounded size: the node must pass each on as a whole."""
    first = size = 0
    for index, call in enumerate(calls):
        size += weight(call.body, call.ext)
        full = index - first >= CHILD_SUBMIT_COUNT_MAX or size > CHILD_SUBMIT_BYTES_MAX
        if full and index > first:
            yield calls[first:index]
            first, size = index, weight(call.body, call.ext)
    if first < len(calls):
        yield calls[first:]


def _request(
    number: int, parent: RunTask, calls: Sequence[Call], facts: dict[str, Any]
) -> SubmitRequest:
    """``facts``: what goes into the ``ext`` of every call, beside its line of parents."""
    kinds: list[Kind] = []
    # By identity: the calls of one task share their Kind, and an ``ext`` need not hash.
    index_of: dict[int, int] = {}
    root = (parent.ext or {}).get("r", parent.id)
    line: dict[str, Any] = {"p": parent.id, "r": root, **facts}
    records: list[tuple[int, bytes, bytes, dict[str, Any] | None]] = []
    for call in calls:
        index = index_of.get(id(call.kind))
        if index is None:
            index = index_of[id(call.kind)] = len(kinds)
            kinds.append(call.kind)
        records.append((index, call.id, call.body, {**line, **(call.ext or {})}))
    return SubmitRequest(
        request=number, parent=parent.id, attempt=parent.attempt, kinds=kinds, calls=records
    )


def _watch(link: Link, ids: list[bytes], ticket: Ticket) -> None:
    answer = link.ask(lambda number: QueryRequest(request=number, ids=ids, wait=True))
    for state in answer.states if answer else []:
        if state.outcome is not None:
            ticket.settled(state.id, state.outcome)
        elif state.state == TaskState.UNKNOWN:
            ticket.settled(state.id, unknown_outcome(state.id))
