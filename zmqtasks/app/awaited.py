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


def _ids(after: object) -> Iterator[bytes]:
    from zmqtasks.app.result import AsyncResult

    if isinstance(after, AsyncResult):
        yield parse_task_id(after.id)
    elif isinstance(after, str):
        yield parse_task_id(after)
    elif isinstance(after, Iterable) and not isinstance(after, (bytes, dict)):
        for each in after:
            yield from _ids(each)
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
