"""What a pool child runs: the application's tasks, and their way back to the mesh.

The pool knows only the names of :func:`main` and :func:`preload`; everything here is
the layer above it.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from functools import partial
from pathlib import Path
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from zmqtasks import signals
from zmqtasks.amounts import GPUS_KEY
from zmqtasks.app import context, current, timing
from zmqtasks.app.around import function_of
from zmqtasks.app.child_gateway import ChildGateway
from zmqtasks.app.depends import aclose_kept, close_kept
from zmqtasks.app.endings import Endings, MayHaveRun, wanted
from zmqtasks.app.hooks import begun
from zmqtasks.app.loader import load_app
from zmqtasks.app.replaced import added
from zmqtasks.app.retrying import asked, lost_attempts_of
from zmqtasks.app.streaming import counted
from zmqtasks.app.trail import submitted
from zmqtasks.core.offspring import FAILED_KEY
from zmqtasks.errors import AppLoadError, ConfigError, ZmqTasksError
from zmqtasks.ids import ID_TEXT_KEY, learn_text
from zmqtasks.pools import softlimit
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.child import Link
from zmqtasks.pools.protocol import ChildOutcome, LogRecord, RunTask, TaskFacts
from zmqtasks.pools.running import running_task
from zmqtasks.wire.messages import Status
from zmqtasks.wire.payload import decode_arguments, encode_value

if TYPE_CHECKING:
    import asyncio

    from zmqtasks.app.app import App
    from zmqtasks.app.nodehooks import OwnHooks


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
    # Made once here instead of in each child, where it would take most of the start.
    app.catalog()
    _facts_of(app)


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
    program = AppProgram(load_app(config.app, Path.cwd()), link.passes, config, link.tell)
    program.begin_process()
    return program


def conf_of(spec: str, flags: Mapping[str, object]) -> dict[str, Any]:
    """The settings that an application makes, loaded in this process to be looked at.

    Raises:
        AppLoadError: with the traceback of the failed import.
    """
    current.install(ChildGateway(None))
    current.set_flags(flags)
    return load_app(spec, Path.cwd()).conf.for_nodes


class _Loops(threading.local):
    runner: asyncio.Runner | None = None


class AppProgram:
    """Runs the tasks of an App, one attempt at a time.

    Args:
        app: the application.
        passes: exceptions that are not the task's own and go through.
        config: what the node knew before the application was loaded.
        tell: sends a line for the node's log.

    Raises:
        AppLoadError: the application's settings contradict others.
    """

    def __init__(
        self,
        app: App,
        passes: tuple[type[BaseException], ...],
        config: PoolConfig,
        tell: Callable[[LogRecord], None],
    ) -> None:
        self._app = app
        self._pid = os.getpid()
        #: {task: its function with all that stands around it}, made at its first attempt.
        self._functions: dict[str, Callable[..., Any]] = {}
        #: Calls receivers of the node's signals, if that is done in this process.
        self._node_hooks: OwnHooks | None = None
        #: Each thread has a loop of its own, once it needs one.
        self._loops = _Loops()
        self.catalog = app.catalog()
        self.facts = _facts_of(app)
        self.conf = {**app.conf.for_nodes, **app.conf.for_people}
        self._bytes_max, self.log_level = limits_of_app(app, config)
        _check_hooks(app)
        self.has_hooks = any(signal.has_listeners(config.node_name) for signal in signals.OF_NODES)
        self._config = config
        signals.watch(self)
        self._endings = Endings(app, tell, self.log_level, passes)
        #: Run one attempt; see ``Program.execute``.
        self.execute = self._compile(passes)

    def _compile(
        self, passes: tuple[type[BaseException], ...]
    ) -> Callable[[RunTask], ChildOutcome]:
        """The hot path with everything it needs at hand: about 2 µs for a no-op task."""
        functions = self._functions
        clock_ns, wall_ms = time.perf_counter_ns, timing.clock().wall_ms
        bytes_max, success, endings = self._bytes_max, int(Status.SUCCESS), self._endings

        def execute(task: RunTask) -> ChildOutcome:
            started_ms = wall_ms()
            begun_ns = clock_ns()
            try:
                function = functions.get(task.name)
                if function is None:
                    function = functions[task.name] = self._function(task.name)
                if task.ext is not None and ID_TEXT_KEY in task.ext:
                    learn_text(task.ext)
                if task.ext is not None and GPUS_KEY in task.ext:
                    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(task.ext[GPUS_KEY])
                args, kwargs = decode_arguments(task.body)
                if task.ext is not None and FAILED_KEY in task.ext:
                    args = self._of_errback(task, args, kwargs)
                if task.soft_ms:
                    function = partial(softlimit.call, function, task.soft_ms)
                value = function(*args, **kwargs)
                if value.__class__ is CoroutineType:
                    value = self._run_coroutine(value, task.soft_ms)
                told = value if task.ext is None else wanted(value, task.ext)
                body = encode_value(told, bytes_max=bytes_max)
            except passes:
                self._forget_loop()
                endings.forget(task)
                raise
            # SystemExit and its kin would take the child along: a task may not.
            except BaseException as exc:  # noqa: BLE001 (whatever it is, the caller gets it)
                run_us = (clock_ns() - begun_ns) // 1000
                return endings.raised(task, started_ms, run_us, exc)
            if asked or begun or counted or added or submitted:
                run_us = (clock_ns() - begun_ns) // 1000
                return endings.returned(task, started_ms, run_us, value, body)
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
        run = function_of(task)
        return run if task.idempotent else _run_once(run)

    def _of_errback(self, run: RunTask, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        """What it is called with: facts about the task that failed come first."""
        from zmqtasks.app.errbacks import errback_arguments  # few processes need it

        match = self._app.tasks[run.name].call_signature.match
        return errback_arguments(run, match, args, kwargs)

    def hooks_changed(self) -> None:
        """Something else is to stand around attempts."""
        self._functions.clear()

    def is_native(self, name: str) -> bool:
        """Whether that task is a coroutine function; see ``Program``."""
        task = self._app.tasks.get(name)
        return task is not None and task.is_async

    async def execute_native(
        self, task: RunTask, is_ended: Callable[[], bool]
    ) -> ChildOutcome | None:
        """Run an attempt of a coroutine function in the running loop; see ``Program``."""
        started_ms = timing.now_ms()
        begun_ns = time.perf_counter_ns()
        try:
            function = self._functions.get(task.name)
            if function is None:
                function = self._functions[task.name] = self._function(task.name)
            args, kwargs = decode_arguments(task.body)
            if task.ext is not None and ID_TEXT_KEY in task.ext:
                learn_text(task.ext)
            if task.ext is not None and FAILED_KEY in task.ext:
                args = self._of_errback(task, args, kwargs)
            coroutine = function(*args, **kwargs)
            if task.soft_ms:
                coroutine = softlimit.run(coroutine, task.soft_ms)
            value = await coroutine
            body = encode_value(wanted(value, task.ext or {}), bytes_max=self._bytes_max)
        except BaseException as exc:  # noqa: BLE001 (as in ``execute``)
            if is_ended():
                self._endings.forget(task)
                return None
            run_us = (time.perf_counter_ns() - begun_ns) // 1000
            return self._endings.raised(task, started_ms, run_us, exc)
        run_us = (time.perf_counter_ns() - begun_ns) // 1000
        return self._endings.returned(task, started_ms, run_us, value, body)

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, Any], soft_ms: int) -> Any:
        runner = self._loops.runner
        if runner is None:
            import asyncio  # slow to import, and most applications have no coroutines

            runner = self._loops.runner = asyncio.Runner()
        if soft_ms:
            coroutine = softlimit.run(coroutine, soft_ms)
        # The runner's own context was made before this task: show it the present one.
        return runner.run(coroutine, context=copy_context())

    def _forget_loop(self) -> None:
        """An interrupted loop has a task in it that nobody waits for any more."""
        runner, self._loops.runner = self._loops.runner, None
        if runner is not None:
            runner.close()

    async def end_loop(self) -> None:
        """End what tasks keep in the running loop, which ends."""
        await aclose_kept()

    def end_thread(self) -> None:
        """End this thread's loop, if it has one, and what tasks keep in it."""
        runner = self._loops.runner
        if runner is not None:
            runner.run(self.end_loop())
            self._forget_loop()

    def begin_process(self) -> None:
        """The application is loaded in a process that is to run its tasks."""
        signals.worker_process_init.send(sender=None)
        atexit.register(self.end_process)

    def end_process(self) -> None:
        """That process ends; a copy of it, which a task forked, does not count."""
        atexit.unregister(self.end_process)
        if os.getpid() != self._pid:
            return
        signals.worker_process_shutdown.send(sender=None, pid=self._pid, exitcode=0)
        self.end_thread()
        close_kept()

    def fire(self, signal: str, args: Mapping[str, Any]) -> None:
        """Call the receivers of a signal of the node here; see ``Program``."""
        if self._node_hooks is None:
            from zmqtasks.app.nodehooks import OwnHooks  # only the solo pool needs it

            self._node_hooks = OwnHooks(self._app, self._config.node_name, self.log_level)
        self._node_hooks.fire(signal, args)

    def close(self) -> None:
        """Undo what :func:`main` did to this process."""
        self.end_process()
        if self._node_hooks is not None:
            self._node_hooks.end()
        current.install(None)
        current.set_flags({})


def _facts_of(app: App) -> dict[str, TaskFacts]:
    """What nodes are to know of its tasks, by name, where there is something."""
    # Its settings are frozen from now on: a change would reach neither the node nor others.
    rules = app.rules
    return {
        name: facts
        for name, task in app.tasks.items()
        if (facts := rules.facts_of_task(task)) != TaskFacts()
    }


def _check_hooks(app: App) -> None:
    """Refuse what could not be called when its time has come.

    Raises:
        AppLoadError: names the task and the reason.
    """
    try:
        for task in app.tasks.values():
            function_of(task)
    except ConfigError as exc:
        raise AppLoadError(f"App({app.name!r}): {exc}") from exc


def limits_of_app(app: App, config: PoolConfig) -> tuple[int, str]:
    """Largest result and log level, with what the application says about them."""
    if not app.conf.for_nodes:  # the node has read the rest already, and reading takes long
        return config.payload_bytes_max, config.log_level
    try:
        settings = app.settings
    except ConfigError as exc:
        raise AppLoadError(f"App({app.name!r}): {exc}") from exc
    return settings.payload_bytes_max, settings.log_level


def _run_once(run: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a task that is not idempotent.

    Owners see to it that its attempts do not follow each other. But one that had it from a
    caller that knew its name alone may not know whether an earlier one was given away, and
    one of an earlier version does not ask workers whether this is such a task.
    """

    def run_once(*args: Any, **kwargs: Any) -> Any:
        task = running_task()
        if task is not None and not task.is_guarded and lost_attempts_of(task):
            raise MayHaveRun(
                f"the worker of attempt {task.attempt - 1} was lost, and {task.name} is not "
                "idempotent, so it is not started again"
            )
        return run(*args, **kwargs)

    return run_once
