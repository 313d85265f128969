"""Middleware: objects that stand around every call and every attempt of an application.

An object has one or more of these methods::

    def submit(self, call): ...              # in the process that calls; may change the call
    def run(self, call_next, context): ...   # around an attempt of a plain function
    async def arun(self, call_next, context): ...  # around one of an ``async def`` function

The first one that was added is the outermost. Source: docs/howto/hooks.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from zmqtasks.app.context import DIRECT, current
from zmqtasks.errors import ConfigError

if TYPE_CHECKING:
    from zmqtasks.app.task import Task

_METHODS = ("submit", "run", "arun")


class OutgoingCall:
    """A call on its way to be submitted, as ``submit`` of middleware gets it.

    What it holds may be replaced; it is checked afterwards as if the caller had said it.
    """

    __slots__ = ("args", "kwargs", "options", "task")

    def __init__(
        self, task: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> None:
        #: Name of the task; it stays.
        self.task = task
        #: Positional arguments.
        self.args = args
        #: Keyword arguments.
        self.kwargs = kwargs
        #: Options of the call: ``queue``, ``headers`` and so on.
        self.options = options

    @property
    def headers(self) -> dict[str, Any]:
        """The headers among the options, to be added to."""
        found = self.options.get("headers")
        # A copy: the caller's own dict is not to be changed.
        self.options["headers"] = headers = dict(found or {})
        return headers

    def __repr__(self) -> str:
        return f"<OutgoingCall: {self.task}>"


def check_middleware(middleware: object, where: str) -> None:
    """Refuse what would never be called.

    Raises:
        ConfigError: it has none of the methods, or one that cannot be called so.
    """
    methods = {name: getattr(middleware, name, None) for name in _METHODS}
    there = [name for name, method in methods.items() if method is not None]
    if not there or isinstance(middleware, type):
        what = "a class" if isinstance(middleware, type) else "no middleware"
        raise ConfigError(
            f"{where}: {middleware!r:.75} is {what}; it must be an object with one or more of the "
            "methods submit(call), run(call_next, context) and async arun(call_next, context)"
        )
    for name in there:
        if not callable(methods[name]):
            raise ConfigError(f"{where}: {name} of {middleware!r:.75} is no method")
    if inspect.iscoroutinefunction(methods["submit"]) or inspect.iscoroutinefunction(
        methods["run"]
    ):
        raise ConfigError(
            f"{where}: submit and run of {middleware!r:.75} must be plain functions; around "
            "async def tasks there is async def arun"
        )


def check_fits(middleware: Sequence[object], task: Task[Any, Any]) -> None:
    """Refuse middleware that stands around attempts, but not around those of this task.

    Raises:
        ConfigError: names both, and the method that is missing.
    """
    wanted, other = ("arun", "run") if task.is_async else ("run", "arun")
    for each in middleware:
        if hasattr(each, other) and not hasattr(each, wanted):
            kind = "an async def" if task.is_async else "a plain"
            define = (
                "async def arun(self, call_next, context), which may be 'return await call_next()'"
                if task.is_async
                else "def run(self, call_next, context), which may be 'return call_next()'"
            )
            raise ConfigError(
                f"middleware {each!r:.75} has {other}() only, and task {task.name} is {kind} "
                f"function; give it {define}"
            )


def around(
    run: Callable[..., Any], middleware: Sequence[Any], *, is_async: bool
) -> Callable[..., Any]:
    """The function with all middleware around it, the first one outermost."""
    for each in reversed(middleware):
        if hasattr(each, "arun" if is_async else "run"):
            run = _around_coroutine(run, each) if is_async else _around_function(run, each)
    return run


def _around_function(run: Callable[..., Any], middleware: Any) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return middleware.run(lambda: run(*args, **kwargs), current() or DIRECT)

    return call


def _around_coroutine(run: Callable[..., Any], middleware: Any) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await middleware.arun(lambda: run(*args, **kwargs), current() or DIRECT)

    return call
