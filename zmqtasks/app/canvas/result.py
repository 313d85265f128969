"""The results of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from zmqtasks.app.lineage import AnyResult, Lineage, ResultTuple
from zmqtasks.app.result import AsyncResult, AtMostOnceResult
from zmqtasks.app.resultset import ResultSet
from zmqtasks.ids import format_task_id, parse_task_id

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.node.gateway import Gateway

R = TypeVar("R")

#: The result of a part of a workflow: of a task, or of a group.
PartResult = AnyResult
#: Seconds that a store has to confirm that it has a group, or nodes to say that they have one.
SAVE_TIMEOUT_S = 5.0


class StepResult(AsyncResult[R]):
    """The result of one call of a workflow."""

    __slots__ = ("_followers_of", "_parent_of")

    _parent_of: Callable[[bytes], PartResult | None]
    _followers_of: Callable[[bytes], list[AnyResult]]

    @classmethod
    def after(cls, task_id: str, app: App | None, before: PartResult) -> StepResult[Any]:
        """That of a call which waited for this result."""
        self: StepResult[Any] = cls(task_id, app)
        self._parent_of = lambda _: before
        self._followers_of = lambda _: []
        return self

    @property
    def parent(self) -> PartResult | None:
        """The result that it waited for; of a chord's body those of its header."""
        return self._parent_of(self._task_id)

    @property
    def children(self) -> list[AnyResult]:
        """The results of what waited for it, and of the tasks that it submitted."""
        return [*self._followers_of(self._task_id), *super().children]


class GroupResult(ResultSet[R], Lineage[list[R]]):
    """The results of the calls of a group, in their order.

    Args:
        id: of the group; the members have it as ``self.request.group``.
        results: handles of the members.
        app: the App to ask through; by default that of the handles.
        parent: the result that all of them waited for, if there is one.
    """

    def __init__(
        self,
        id: str,
        results: Iterable[AsyncResult[R] | ResultSet[R]] = (),
        app: App | None = None,
        parent: PartResult | None = None,
    ) -> None:
        #: Of the group, as on the wire.
        self.group_id = parse_task_id(id)
        self._parent = parent
        #: Finds the parent when it is asked for; it may have parents of its own.
        self.find_parent: Callable[[], PartResult | None] | None = None
        #: Ids of calls with ``delivery="at_most_once"``.
        self._loose: set[bytes] = set()
        super().__init__(results, app)
        if not len(self):
            self.built()

    @classmethod
    def of_group(cls, group_id: bytes, app: App, through: Gateway) -> GroupResult[Any]:
        """An empty one for calls that are about to be submitted; see ``ResultSet``."""
        self: GroupResult[Any] = cls.of_submitted(app, through)  # type: ignore[assignment]
        self.group_id = group_id
        return self

    @classmethod
    def _empty(cls, app: App) -> GroupResult[Any]:
        self: GroupResult[Any] = cls.__new__(cls)
        self.group_id = bytes(16)
        self._parent = self.find_parent = None
        self._loose = set()
        ResultSet.__init__(self, (), app)
        return self

    def extend_loosely(self, task_ids: Sequence[bytes]) -> None:
        """More calls, about to be submitted at most once: their results may never come."""
        self._loose.update(task_ids)
        self.extend(task_ids)

    @property
    def id(self) -> str:
        """Id of the group."""
        return format_task_id(self.group_id)

    @property
    def parent(self) -> PartResult | None:
        """The result that the group waited for, where it is part of a workflow; else None."""
        if self.find_parent is not None:
            self._parent, self.find_parent = self.find_parent(), None
        return self._parent

    @property
    def children(self) -> list[AsyncResult[R]]:
        """Same as ``results``."""
        return self.results

    def as_tuple(self) -> ResultTuple:
        """It as plain values, as Celery writes it: ``((id, parent), [member, …])``."""
        before = self.parent
        whose = (self.id, None if before is None else before.as_tuple())
        return whose, [each.as_tuple() for each in self]

    def save(self, timeout: float = SAVE_TIMEOUT_S) -> None:
        """Let a store keep which tasks are members, for ``GroupResult.restore(id)``.

        It is kept for as long as a result that came now. A second time only what was saved
        first counts, so save a group when it is complete.

        Args:
            timeout: seconds to find a store, and again for it to have written it.

        Raises:
            StoreError: no store is in sight, or none has confirmed it in time.
            PayloadTooLarge: it has too many members, or parents.
            RuntimeError: called in a running asyncio loop (``asave``).
        """
        from zmqtasks.app.canvas.saved import save

        save(self, timeout)

    async def asave(self, timeout: float = SAVE_TIMEOUT_S) -> None:
        """Same as ``save()`` without blocking the running loop."""
        import asyncio

        await asyncio.to_thread(self.save, timeout)

    @staticmethod
    def restore(
        id: str, app: App | None = None, timeout: float = SAVE_TIMEOUT_S
    ) -> GroupResult[Any] | None:
        """A group that was saved, by any process.

        Args:
            id: of the group.
            app: the App to ask through; by default the current one.
            timeout: seconds that nodes have to answer.

        Returns:
            None when nobody knows it: it was not saved, or is no longer kept.

        Raises:
            TimeoutError: not all who may know it answered.
            RuntimeError: called in a running asyncio loop (``arestore``).
        """
        from zmqtasks.app.canvas.saved import restore

        return restore(id, app, timeout)

    @staticmethod
    async def arestore(
        id: str, app: App | None = None, timeout: float = SAVE_TIMEOUT_S
    ) -> GroupResult[Any] | None:
        """Same as ``restore()`` without blocking the running loop."""
        import asyncio

        return await asyncio.to_thread(GroupResult.restore, id, app, timeout)

    def delete(self) -> None:
        """Undo ``save``: it cannot be restored any more. The results are not touched."""
        from zmqtasks.app.canvas.saved import delete

        delete(self)

    async def adelete(self) -> None:
        """Same as ``delete()`` without blocking the running loop."""
        import asyncio

        await asyncio.to_thread(self.delete)

    def _handle_class(self, position: int) -> type[AsyncResult[Any]]:
        return AtMostOnceResult if self._ids[position] in self._loose else AsyncResult

    def _check_wait(
        self, method: str, timeout: float | None, disable_sync_subtasks: bool = True
    ) -> None:
        super()._check_wait(method, timeout, disable_sync_subtasks)
        if timeout is None and self._loose:
            raise ValueError(
                f"{method}() of a group with calls of delivery='at_most_once' needs a timeout: "
                f"they or their results may be lost, and nobody would know; use {method}"
                "(timeout=...)"
            )

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return self.group_id == other.group_id and self._ids == other._ids
        return NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]  # its id does not change
        return hash(self.group_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return GroupResult, (self.id, self.results)

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id}, {self.arrived_count:,} of {len(self):,} finished>"


class WorkflowResult(GroupResult[R]):
    """The results of all calls of a workflow."""

    def handle_of(
        self,
        task_id: bytes,
        parent_of: Callable[[bytes], PartResult | None],
        followers_of: Callable[[bytes], list[AnyResult]],
    ) -> StepResult[Any]:
        """The handle of one of them.

        Args:
            parent_of: gives the result that a call waited for.
            followers_of: gives the results of the calls that waited for one.
        """
        found = self[self._positions[task_id]]
        assert isinstance(found, StepResult), "all handles of a workflow are"
        found._parent_of = parent_of
        found._followers_of = followers_of
        return found

    def _handle_class(self, position: int) -> type[AsyncResult[Any]]:
        return StepResult
