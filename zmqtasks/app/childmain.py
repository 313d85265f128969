"""What a pool child runs: the application's tasks, and their way back to the mesh.

The pool knows only the names of :func:`main` and :func:`preload`; everything here is
the layer above it.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from functools import partial
from pathlib import Path
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, Final

from zmqtasks.app import context, current
from zmqtasks.app.child_gateway import ChildGateway
from zmqtasks.app.loader import load_app
from zmqtasks.errors import AppLoadError, ConfigError, ZmqTasksError
from zmqtasks.limits import ERROR_TEXT_CHARS_MAX
from zmqtasks.pools import softlimit
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.child import Link
from zmqtasks.pools.protocol import ChildOutcome, RunTask, TaskFacts
from zmqtasks.pools.running import running_task
from zmqtasks.wire.messages import Status
from zmqtasks.wire.payload import decode_arguments, encode_error, encode_value

if TYPE_CHECKING:
    import asyncio

    from zmqtasks.app.app import App

_RUN_LAYERS: Final = (__file__, f"{os.sep}asyncio{os.sep}")


def preload(config: PoolConfig) -> None:
    """Import the application in the process that children are forked from.

    Raises:
        AppLoadError: the pool ignores it; the first child tells.
    """
    # Nothing may open a client here: its sockets and thread would not survive the fork.
    current.install(ChildGateway(None))
    current.set_flags(config.flags)
    app = load_app(config.app, Path.cwd())
    if app.conf.for_nodes:
        _ = app.settings  # children find them read


def main(link: Link, config: PoolConfig) -> AppProgram:
    """Load the application in a child.

    Raises:
        AppLoadError: with the traceback of the failed import.
    """
    gateway = ChildGateway(link)
    current.install(gateway)
    current.set_flags(config.flags)
    context.set_node_name(config.node_name)
    # A process that a task forks has no way to the node; it gets a client of its own.
    os.register_at_fork(after_in_child=partial(current.install, None))
    return AppProgram(load_app(config.app, Path.cwd()), link.passes, config)


def conf_of(spec: str, flags: Mapping[str, object]) -> dict[str, Any]:
    """The settings that an application makes, loaded in this process to be looked at.

    Raises:
        AppLoadError: with the traceback of the failed import.
    """
    current.install(ChildGateway(None))
    current.set_flags(flags)
    return load_app(spec, Path.cwd()).conf.for_nodes


class AppProgram:
    """Runs the tasks of an App, one attempt at a time.

    Args:
        app: the application.
        passes: exceptions that are not the task's own and go through.
        config: what the node knew before the application was loaded.

    Raises:
        AppLoadError: the application's settings contradict others.
    """

    def __init__(
        self, app: App, passes: tuple[type[BaseException], ...], config: PoolConfig
    ) -> None:
        self._app = app
        self._runner: asyncio.Runner | None = None
        self.catalog = app.catalog()
        # Frozen from now on: a change would reach neither the node nor other children.
        rules = app.rules
        self.conf = app.conf.for_nodes
        self.facts = {
            name: facts
            for name, task in app.tasks.items()
            if (facts := rules.facts_of_task(task)) != TaskFacts()
        }
        self._bytes_max, self.log_level = _limits(app, config)
        #: Run one attempt; see ``Program.execute``.
        self.execute = self._compile(passes)

    def _compile(
        self, passes: tuple[type[BaseException], ...]
    ) -> Callable[[RunTask], ChildOutcome]:
        """The hot path with everything it needs at hand: about 2 µs for a no-op task."""
        functions: dict[str, Callable[..., Any]] = {}
        clock_ns, wall = time.perf_counter_ns, time.time
        bytes_max, success = self._bytes_max, int(Status.SUCCESS)

        def execute(task: RunTask) -> ChildOutcome:
            started_ms = int(wall() * 1000)
            begun_ns = clock_ns()
            try:
                function = functions.get(task.name)
                if function is None:
                    function = functions[task.name] = self._function(task.name)
                args, kwargs = decode_arguments(task.body)
                if task.soft_ms:
                    function = partial(softlimit.call, function, task.soft_ms)
                value = function(*args, **kwargs)
                if value.__class__ is CoroutineType:
                    value = self._run_coroutine(value, task.soft_ms)
                body = encode_value(value, bytes_max=bytes_max)
            except passes:
                self._forget_loop()
                raise
            # SystemExit and its kin would take the child along: a task may not.
            except BaseException as exc:  # noqa: BLE001 (whatever it is, the caller gets it)
                run_us = (clock_ns() - begun_ns) // 1000
                return _failure(task, started_ms, run_us, exc)
            return ChildOutcome(
                task.id,
                task.attempt,
                success,
                started_ms,
                (clock_ns() - begun_ns) // 1000,
                body,
                "",
            )

        return execute

    def _function(self, name: str) -> Callable[..., Any]:
        task = self._app.tasks.get(name)
        if task is None:
            known = ", ".join(sorted(self._app.tasks)) or "none"
            raise ZmqTasksError(
                f"app {self._app.name!r} on worker {os.uname().nodename} has no task {name!r}; "
                f"it has: {known}"
            )
        run: Callable[..., Any] = task.run
        return run if task.idempotent else _run_once(run)

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, Any], soft_ms: int) -> Any:
        runner = self._runner
        if runner is None:
            import asyncio  # slow to import, and most applications have no coroutines

            runner = self._runner = asyncio.Runner()
        if soft_ms:
            coroutine = softlimit.run(coroutine, soft_ms)
        # The runner's own context was made before this task: show it the present one.
        return runner.run(coroutine, context=copy_context())

    def _forget_loop(self) -> None:
        """An interrupted loop has a task in it that nobody waits for any more."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()

    def close(self) -> None:
        """Undo what :func:`main` did to this process."""
        self._forget_loop()
        current.install(None)
        current.set_flags({})


def _limits(app: App, config: PoolConfig) -> tuple[int, str]:
    """Largest result and log level, with what the application says about them."""
    if not app.conf.for_nodes:  # the node has read the rest already, and reading takes long
        return config.payload_bytes_max, config.log_level
    try:
        settings = app.settings
    except ConfigError as exc:
        raise AppLoadError(f"App({app.name!r}): {exc}") from exc
    return settings.payload_bytes_max, settings.log_level


class _MayHaveRun(Exception):
    """An attempt of a task that must not run twice, and that an earlier one may have run."""


def _run_once(run: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a task that is not idempotent.

    Owners see to it that its attempts do not follow each other. But whoever called it by
    name alone could not tell its owner that this is such a task.
    """

    def run_once(*args: Any, **kwargs: Any) -> Any:
        task = running_task()
        if task is not None and task.attempt > 1 and not task.is_guarded:
            raise _MayHaveRun(
                f"the worker of attempt {task.attempt - 1} was lost, and {task.name} is not "
                "idempotent, so it is not started again"
            )
        return run(*args, **kwargs)

    return run_once


def _failure(task: RunTask, started_ms: int, run_us: int, exc: BaseException) -> ChildOutcome:
    if isinstance(exc, _MayHaveRun):
        lost = int(Status.WORKER_LOST)
        return ChildOutcome(task.id, task.attempt, lost, started_ms, run_us, b"", str(exc))
    trace = "".join(traceback.format_exception(type(exc), exc, _own_frames_cut(exc.__traceback__)))
    return ChildOutcome(
        task.id,
        task.attempt,
        int(Status.FAILURE),
        started_ms,
        run_us,
        encode_error(exc, _encodable(trace)),
        _encodable(_short_text(exc)),
    )


def _own_frames_cut(trace: TracebackType | None) -> TracebackType | None:
    """Begin at the application's first frame."""
    found = trace
    while found is not None and any(
        layer in found.tb_frame.f_code.co_filename for layer in _RUN_LAYERS
    ):
        found = found.tb_next
    return found or trace


def _short_text(exc: BaseException) -> str:
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 (a foreign __str__)
        text = "<its text cannot be made>"
    whole = f"{type(exc).__name__}: {text}" if text else type(exc).__name__
    if len(whole) > ERROR_TEXT_CHARS_MAX:
        whole = whole[: ERROR_TEXT_CHARS_MAX - 1] + "…"
    return whole


def _encodable(text: str) -> str:
    """Lone surrogates (from file names) cannot travel."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
