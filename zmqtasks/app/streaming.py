"""What a running task tells of itself: states of its own making, and items that it yields.

This is the side of the task; ``news.py`` is that of the caller.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from zmqtasks.app import states
from zmqtasks.app.context import EagerRun
from zmqtasks.app.current import gateway
from zmqtasks.limits import STREAM_AHEAD_BYTES, STREAM_AHEAD_COUNT, UPDATE_BYTES_MAX
from zmqtasks.pools.running import running_task
from zmqtasks.wire.payload import encode_value

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.child_gateway import ChildGateway

#: States that others decide on; STARTED is no secret.
_TAKEN = states.ALL_STATES - {states.STARTED}
_STATE_CHARS_MAX = 100
#: {(id, attempt): how many items it yielded}, of generator tasks that end.
counted: dict[tuple[bytes, int], int] = {}


def tell_state(app: App, state: object, meta: object) -> None:
    """Publish a state of the attempt that runs here.

    Raises:
        ValueError: no text, or a state that is not the task's to choose.
        PayloadTypeError: ``meta`` cannot travel.
        PayloadTooLarge: it is too large.
    """
    if not isinstance(state, str) or not state or len(state) > _STATE_CHARS_MAX:
        raise ValueError(
            f"update_state(state={state!r:.75}): must be a text of 1 to {_STATE_CHARS_MAX} "
            "characters, such as 'PROGRESS'"
        )
    if state in _TAKEN:
        raise ValueError(
            f"update_state(state={state!r}): this state says how a task stands with its owner, "
            "which alone decides on it; return, raise or retry, or choose another name"
        )
    body = encode_value(meta, bytes_max=UPDATE_BYTES_MAX)
    through = _way_out(app)
    if through is not None:
        through.tell_update(state, body, -1)


def _way_out(app: App) -> ChildGateway | None:
    """The way to who watches the attempt that runs here; None: nobody can."""
    run = running_task()
    if run is None or isinstance(run, EagerRun):
        return None
    through = gateway(app)
    # Whatever is inside a task is one.
    return cast("ChildGateway", through) if through.inside_task else None


class _Items:
    """Tells the items of one attempt, and not faster than its owner takes them.

    Args:
        app: whose task it is.
    """

    def __init__(self, app: App) -> None:
        self._through = _way_out(app)
        self._count = self._bytes = 0

    def tell(self, number: int, item: Any) -> bool:
        """One more; True when it is time to ``wait``."""
        if self._through is None:
            return False
        body = encode_value(item, bytes_max=UPDATE_BYTES_MAX)
        self._through.tell_update("", body, number)
        self._count += 1
        self._bytes += len(body)
        return self._count >= STREAM_AHEAD_COUNT or self._bytes >= STREAM_AHEAD_BYTES

    def wait(self) -> None:
        """Until the owner has all that was told."""
        self._count = self._bytes = 0
        assert self._through is not None, "it was told that there is something to wait for"
        self._through.wait_for_owner()


def is_generator(function: Callable[..., Any]) -> bool:
    """Whether calling it gives items one after the other."""
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def streamed(app: App, run: Callable[..., Any]) -> Callable[..., Any]:
    """A function that tells the items of this generator function, and returns what it returns."""

    def ended(number: int) -> None:
        attempt = running_task()
        if attempt is not None:
            counted[attempt.id, attempt.attempt] = number

    def stream(*args: Any, **kwargs: Any) -> Any:
        generator = run(*args, **kwargs)
        items = _Items(app)
        number = 0
        try:
            while True:
                item = next(generator)
                if items.tell(number, item):
                    items.wait()
                number += 1
        except StopIteration as stop:
            return stop.value
        finally:
            ended(number)
            generator.close()

    async def astream(*args: Any, **kwargs: Any) -> None:
        import asyncio  # slow to import, and most applications have no coroutines

        generator = run(*args, **kwargs)
        items = _Items(app)
        number = 0
        try:
            async for item in generator:
                if items.tell(number, item):
                    await asyncio.to_thread(items.wait)
                number += 1
        finally:
            ended(number)
            await generator.aclose()

    return astream if inspect.isasyncgenfunction(run) else stream
