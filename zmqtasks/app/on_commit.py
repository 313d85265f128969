"""Calls that are made when the transaction around them is committed. Needs Django."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, cast
from uuid import uuid4

from zmqtasks.app.frameworks import django
from zmqtasks.app.options import CallOptions
from zmqtasks.app.submitting import check_arguments, checked_options, submit

if TYPE_CHECKING:
    from zmqtasks.app.task import Task

P = ParamSpec("P")
R = TypeVar("R")


class WithOnCommit(Generic[P, R]):
    """The part of a task that is about this."""

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Same as ``delay``, once the transaction that is open here is committed.

        See :meth:`apply_async_on_commit`.
        """
        return self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        using: str | None = None,
        **options: Unpack[CallOptions],
    ) -> str:
        """Same as ``apply_async``, once the transaction that is open here is committed.

        Nothing happens when it is rolled back. Without a transaction it is called at once.
        Arguments and options are checked, and the arguments taken as they are, now.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            using: alias of the database whose transaction is meant; None: the default one.
            options: as of ``apply_async``.

        Returns:
            The id of the task, which nobody knows before the commit.

        Raises:
            ConfigError: Django is not installed, an unknown option or a bad value.
            TypeError: the arguments do not fit the function.
            SubmitRejected: the arguments cannot travel. Other reasons show at the commit.
        """
        task = cast("Task[P, R]", self)  # nothing else is of this class
        where = f"{task.name}.apply_async_on_commit()"
        on_commit = django("django.db.transaction", where).on_commit
        submit_it: Callable[[], object]
        if task.app.is_eager:
            task_id, submit_it = _eager(task, args, kwargs or {}, options, where)
        elif options.get("link"):
            task.call_signature.match(*args, **(kwargs or {}))
            found = task.signature(args, kwargs, options)
            task_id, submit_it = found.freeze().id, found.apply_async
        else:
            prepared = task.prepared(args, kwargs, options, where)
            task_id, submit_it = prepared.handle.id, partial(submit, prepared, where)
        on_commit(submit_it, using=using)
        return task_id


def _eager(
    task: Task[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any],
    options: Mapping[str, Any], where: str,
) -> tuple[str, Callable[[], object]]:  # fmt: skip
    checked = checked_options(options, where)
    check_arguments(args, kwargs, where)
    task.call_signature.match(*args, **kwargs)
    task_id = str(checked.get("task_id") or uuid4())
    named: dict[str, Any] = {**checked, "task_id": task_id, "idempotency_key": None}
    return task_id, partial(task.apply, tuple(args), dict(kwargs), **named)
