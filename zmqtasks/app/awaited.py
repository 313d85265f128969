"""Tasks that a call waits for: its option ``after``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from zmqtasks.errors import ConfigError
from zmqtasks.ids import parse_task_id
from zmqtasks.limits import INPUTS_COUNT_MAX

if TYPE_CHECKING:
    from zmqtasks.app.result import AsyncResult
    from zmqtasks.app.resultset import ResultSet

    #: A result or the id of a task, or several; in sets of results each of them.
    After: TypeAlias = (
        AsyncResult[Any] | ResultSet[Any] | str | Iterable[AsyncResult[Any] | ResultSet[Any] | str]
    )
else:
    After = Any


def awaited_ids(after: object) -> list[bytes]:
    """The ids of these tasks, each once.

    Raises:
        TypeError: something among them is no task.
    """
    return list(dict.fromkeys(_ids(after)))


def first_failed(after: object, where: str) -> str | None:
    """For a call that runs eagerly: the id of the first of these that has not succeeded.

    Raises:
        ConfigError: one of them does not run in this process, so nobody can wait for it.
    """
    from zmqtasks.app.eager import EagerResult

    for each in _each(after):
        if not isinstance(each, EagerResult):
            raise ConfigError(
                f"{where}: after names task {each!s:.75}, and a call that runs eagerly can wait "
                "only for results of calls that did; let a worker run it"
            )
        if not each.successful():
            return each.id
    return None


def _ids(after: object) -> Iterator[bytes]:
    return (parse_task_id(str(each)) for each in _each(after))


def _each(after: object) -> Iterator[AsyncResult[Any] | str]:
    from zmqtasks.app.result import AsyncResult

    if isinstance(after, (AsyncResult, str)):
        yield after
    elif isinstance(after, Iterable) and not isinstance(after, (bytes, dict)):
        for each in after:
            yield from _each(each)
    else:
        raise TypeError(f"{after!r:.75} is no task")


def check_after(key: str, value: object, where: str) -> None:
    """Results or ids of tasks.

    Raises:
        ConfigError: something else, too many, or an iterator, which could be read only once.
    """
    if isinstance(value, Iterator):
        raise ConfigError(f"{where}: {key} is a list of results, not {type(value).__name__}")
    try:
        count = len(awaited_ids(value))
    except (TypeError, ValueError) as exc:
        raise ConfigError(
            f"{where}: {key} is a result, the id of a task, or a list of such: {exc}"
        ) from None
    if count > INPUTS_COUNT_MAX:
        raise ConfigError(
            f"{where}: {key} names {count:,} tasks, and a task waits for {INPUTS_COUNT_MAX:,} at "
            "most; let one task wait for each part of them, and this one for those"
        )
