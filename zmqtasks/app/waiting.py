"""When waiting for results is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zmqtasks.app.current import gateway

if TYPE_CHECKING:
    from zmqtasks.app.app import App


def check_wait(app: App, method: str, timeout: float | None) -> None:
    """Refuse a wait that cannot end well.

    Args:
        app: whose gateway is used.
        method: what was called, for the message.
        timeout: seconds, or None for ever.

    Raises:
        ValueError: ``timeout`` is negative or no number.
        RuntimeError: called inside a task.
    """
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"{method}(timeout={timeout}): seconds to wait must be 0 or more")
    if gateway(app).inside_task:
        raise RuntimeError(
            f"{method}() inside a task would hold its worker slot while it waits, and all "
            "slots could end up waiting for each other; let the caller collect the results, "
            "or submit a follow-up task that does"
        )
