"""The attempt that runs here: ``current()``, and ``self.request`` of bound tasks."""

from __future__ import annotations

from typing import Any

from zmqtasks.ids import format_task_id
from zmqtasks.pools.protocol import RunTask
from zmqtasks.pools.running import running_task
from zmqtasks.wire.payload import decode_arguments

#: Name of the node that this process works for, set when its program starts.
_node_name = ""
#: The context made last: most tasks that ask once ask again.
_latest: TaskContext | None = None


class TaskContext:
    """What a running task may know about itself.

    Outside of a running task (a task called as a plain function) ``called_directly`` is
    true, ``id`` is None and the rest is empty.
    """

    __slots__ = ("_arguments", "_run")

    def __init__(self, run: RunTask | None) -> None:
        self._run = run
        self._arguments: tuple[list[Any], dict[str, Any]] | None = None

    def __repr__(self) -> str:
        return f"<TaskContext {self.name or 'outside of a task'} {self.id or ''}>"

    def belongs_to(self, run: RunTask) -> bool:
        """Whether this describes exactly that attempt."""
        return self._run is run

    @property
    def called_directly(self) -> bool:
        """True outside of a running task."""
        return self._run is None

    @property
    def id(self) -> str | None:
        """The task's id, as ``AsyncResult.id`` has it."""
        return format_task_id(self._run.id) if self._run else None

    @property
    def name(self) -> str:
        """The task's name."""
        return self._run.name if self._run else ""

    #: Celery's word for the name.
    task = name

    @property
    def app_name(self) -> str:
        """Name of the App it belongs to."""
        return self._run.app if self._run else ""

    @property
    def queue(self) -> str:
        """The queue it came through."""
        return self._run.queue if self._run else ""

    @property
    def hostname(self) -> str:
        """Name of the worker node."""
        return _node_name if self._run else ""

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1; above 1 it was delivered before."""
        return self._run.attempt if self._run else 1

    @property
    def redelivered(self) -> bool:
        """Whether an earlier attempt may have run in part."""
        return self.attempt > 1

    @property
    def retries(self) -> int:
        """How often the task was retried because it raised."""
        return 0

    @property
    def ext(self) -> dict[str, Any]:
        """What travels beside the arguments, as on the wire; not to be changed."""
        return (self._run.ext if self._run else None) or {}

    @property
    def headers(self) -> dict[str, Any]:
        """What the caller gave as ``headers=``."""
        found = self.ext.get("h")
        return found if isinstance(found, dict) else {}

    @property
    def parent_id(self) -> str | None:
        """Id of the task that submitted this one, None for other callers."""
        return _id_text(self.ext.get("p"))

    @property
    def root_id(self) -> str | None:
        """Id of the first task in the line of parents: this one's when it has none."""
        return _id_text(self.ext.get("r")) or self.parent_id or self.id

    @property
    def args(self) -> list[Any]:
        """The positional arguments, decoded anew for who asks."""
        return self._decoded()[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments, decoded anew for who asks."""
        return self._decoded()[1]

    def _decoded(self) -> tuple[list[Any], dict[str, Any]]:
        if self._arguments is None:
            self._arguments = decode_arguments(self._run.body) if self._run else ([], {})
        return self._arguments


#: The context of code that runs outside of any task.
DIRECT = TaskContext(None)


def current() -> TaskContext | None:
    """The context of the task that runs here, None outside of tasks."""
    global _latest
    run = running_task()
    if run is None:
        return None
    found = _latest
    if found is None or not found.belongs_to(run):
        found = _latest = TaskContext(run)
    return found


def request() -> TaskContext:
    """The same for ``self.request``, which always gives something."""
    return current() or DIRECT


def set_node_name(name: str) -> None:
    """What ``hostname`` is from now on."""
    global _node_name
    _node_name = name


def _id_text(value: object) -> str | None:
    return format_task_id(value) if isinstance(value, bytes) and len(value) == 16 else None
