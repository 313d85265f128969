"""When waiting for results is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from zmqtasks.app.current import gateway

if TYPE_CHECKING:
    from zmqtasks.app.app import App

_is_allowed: ContextVar[bool] = ContextVar("zmqtasks_join_allowed", default=False)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Within this block a task may wait for the results of others.

    It holds its slot meanwhile. When all slots hold tasks that wait for others, which would
    need a slot, nothing goes on: see docs/howto/inside.md.
    """
    token = _is_allowed.set(True)
    try:
        yield
    finally:
        _is_allowed.reset(token)


def check_wait(
    app: App,
    method: str,
    timeout: float | None,
    *,
    disable_sync_subtasks: bool = True,
    refusal: str = "",
) -> None:
    """Refuse a wait that cannot end well.

    Args:
        app: whose gateway is used.
        method: what was called, for the message.
        timeout: seconds, or None for ever.
        disable_sync_subtasks: False: a task may wait for others.
        refusal: why a task cannot do this at all, "" if it may be allowed to.

    Raises:
        ValueError: ``timeout`` is negative or no number.
        RuntimeError: called inside a task, which was not allowed to.
    """
    given: object = timeout
    if given is not None and not (isinstance(given, int | float) and given >= 0):
        raise ValueError(f"{method}(timeout={timeout!r}): seconds to wait must be 0 or more")
    if not gateway(app).inside_task:
        return
    if refusal:
        raise RuntimeError(f"{method}() is not offered inside a task: {refusal}")
    if disable_sync_subtasks and not _is_allowed.get():
        raise RuntimeError(
            f"{method}() inside a task would hold its worker slot while it waits, and all "
            "slots could end up waiting for each other; let the caller collect the results, or "
            "submit a follow-up task that does. If there are always slots left, say so: "
            f"{method}(disable_sync_subtasks=False), or 'with zmqtasks.allow_join_result():'"
        )
