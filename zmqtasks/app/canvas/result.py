"""The results of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from zmqtasks.app.result import AsyncResult, AtMostOnceResult
from zmqtasks.app.resultset import ResultSet
from zmqtasks.ids import format_task_id, parse_task_id

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.node.gateway import Gateway

R = TypeVar("R")
#: How Celery writes a result as a tuple: ``((id, its parent), results)``.
ResultTuple = tuple[tuple[str, None], Any]


#: The result of a part of a workflow: of a task, or of a group.
PartResult: TypeAlias = "AsyncResult[Any] | GroupResult[Any]"


class StepResult(AsyncResult[R]):
    """The result of one call of a workflow."""

    __slots__ = ("_parent_of",)

    _parent_of: Callable[[bytes], PartResult | None]

    @property
    def parent(self) -> PartResult | None:
        """The result that it waited for; of a chord's body those of its header."""
        return self._parent_of(self._task_id)


class GroupResult(ResultSet[R]):
    """The results of the calls of a group, in their order.

    Args:
        id: of the group; the members have it as ``self.request.group``.
        results: handles of the members.
        app: the App to ask through; by default that of the handles.
    """

    def __init__(
        self, id: str, results: Iterable[AsyncResult[R]] = (), app: App | None = None
    ) -> None:
        #: Of the group, as on the wire.
        self.group_id = parse_task_id(id)
        #: Positions of calls with ``delivery="at_most_once"``.
        self._loose: set[int] = set()
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
        self._loose = set()
        ResultSet.__init__(self, (), app)
        return self

    def extend_loosely(self, task_ids: Sequence[bytes]) -> None:
        """More calls, about to be submitted at most once: their results may never come."""
        self._loose.update(range(len(self), len(self) + len(task_ids)))
        self.extend(task_ids)

    @property
    def id(self) -> str:
        """Id of the group."""
        return format_task_id(self.group_id)

    @property
    def parent(self) -> None:
        """None: nothing ran before the group as a part of it."""
        return

    @property
    def children(self) -> list[AsyncResult[R]]:
        """Same as ``results``."""
        return self.results

    def as_tuple(self) -> tuple[tuple[str, None], list[ResultTuple]]:
        """Celery's way to write it down: ``((id, None), [((id of a call, None), None), …])``."""
        return (self.id, None), [((task_id, None), None) for task_id in self.ids]

    def _handle_class(self, position: int) -> type[AsyncResult[Any]]:
        return AtMostOnceResult if position in self._loose else AsyncResult

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
            return self.group_id == other.group_id and self.ids == other.ids
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.group_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return GroupResult, (self.id, self.results)

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id}, {self.completed_count():,} of {len(self):,} finished>"


class WorkflowResult(GroupResult[R]):
    """The results of all calls of a workflow."""

    def handle_of(
        self, task_id: bytes, parent_of: Callable[[bytes], PartResult | None]
    ) -> StepResult[Any]:
        """The handle of one of them.

        Args:
            parent_of: gives the result that a call waited for.
        """
        found = self[self._positions[task_id]]
        assert isinstance(found, StepResult), "all handles of a workflow are"
        found._parent_of = parent_of
        return found

    def _handle_class(self, position: int) -> type[AsyncResult[Any]]:
        return StepResult
