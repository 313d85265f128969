"""The application: tasks under a name, and the settings that go with them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from zmqtasks import limits, signals
from zmqtasks.app.app_settings import annotations_for
from zmqtasks.app.builtin import BUILT_IN
from zmqtasks.app.conf import Conf
from zmqtasks.app.current import add_app, command_line_flags, working_directory
from zmqtasks.app.facts import CallRules, needs_text
from zmqtasks.app.middleware import OutgoingCall, check_middleware
from zmqtasks.app.naming import check_app_name, check_task_name
from zmqtasks.app.option_checks import check_queue
from zmqtasks.app.options import CallOptions, TaskOptions, check_task_options
from zmqtasks.app.publishing import Arguments, is_hooked, passed_through
from zmqtasks.app.registering import WithTaskClasses, class_of_task, origin, set_attributes
from zmqtasks.app.result import AsyncResult
from zmqtasks.app.setup import WithSetup
from zmqtasks.app.shared import share, shared_specs
from zmqtasks.app.startup import WithStartup
from zmqtasks.app.submitting import (
    Prepared,
    check_arguments,
    checked_options,
    durability_of,
    prepare,
    submit,
    submit_async,
)
from zmqtasks.app.task import CoroutineTask, Task
from zmqtasks.errors import ConfigError
from zmqtasks.node.gateway import Gateway
from zmqtasks.wire import payload
from zmqtasks.wire.messages import CatalogEntry, Kind

if TYPE_CHECKING:
    from zmqtasks.app.canvas.signature import Signature
    from zmqtasks.app.childmain import AppProgram
    from zmqtasks.app.control import Control
    from zmqtasks.settings import NodeSettings

P = ParamSpec("P")
R = TypeVar("R")


class TaskDecorator(Protocol):
    """What ``app.task(...)`` returns: makes a task of a function."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BoundTaskDecorator(Protocol):
    """What ``app.task(bind=True, ...)`` returns: the function gets the task first."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class App(WithStartup, WithSetup, WithTaskClasses):
    """An application: its name keeps its tasks apart from those of other applications.

    Args:
        name: 1 to 63 letters, digits, ``_``, ``.`` or ``-``.
        middleware: for ``add_middleware``, the outermost first.
        task_cls: class of its tasks that say nothing of ``base``, a subclass of
            :class:`zmqtasks.Task` or its import path (``"shop.base:ShopTask"``).
        set_as_current: it is the current one from now on.
        conf: settings, as in ``app.conf``.

    Raises:
        ConfigError: a bad name, no middleware, no class of tasks, or an unknown or bad setting.
    """

    def __init__(
        self,
        name: str,
        *,
        middleware: Sequence[object] = (),
        task_cls: type[Task[Any, Any]] | str | None = None,
        set_as_current: bool = True,
        **conf: Any,
    ) -> None:
        check_app_name(name)
        super().__init__()
        self.name = name
        #: What stands around its calls and attempts, the outermost first.
        self.middleware: list[object] = []
        #: Whether anybody wants to see its calls before they are submitted; None: not known.
        self._is_hooked: bool | None = None
        #: What the application says about settings; see :class:`zmqtasks.app.conf.Conf`.
        self.conf = Conf(f"App({name!r})", conf)
        #: {name: task}
        self.tasks: dict[str, Task[Any, Any]] = {}
        #: The gateway in use; managed by ``current.py``.
        self.cached_gateway: Gateway | None = None
        self._control: Control | None = None
        self._settings: NodeSettings | None = None
        self.task_cls = task_cls
        self._rules: CallRules | None = None
        #: What runs its tasks eagerly, and those tasks; managed by ``eager.py``.
        self.eager_program: tuple[AppProgram, dict[str, Task[Any, Any]]] | None = None
        self._payload_bytes_max = limits.PAYLOAD_BYTES_MAX
        for each in middleware:
            self.add_middleware(each)
        add_app(self)
        if set_as_current:
            self.set_current()
        signals.watch(self)
        for built_in, function in BUILT_IN.items():
            self.add_task(function, name=built_in, bind=True, base=Task)
        for spec in shared_specs():
            self.add_task(spec.function, **spec.options)

    # --- tasks --------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self, /, *, bind: Literal[True], **options: Unpack[TaskOptions]
    ) -> BoundTaskDecorator: ...
    @overload
    def task(
        self, /, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]
    ) -> TaskDecorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Make a task of a function: ``@app.task`` or ``@app.task(queue="...", ...)``.

        Args:
            function: a function or ``async def`` function.
            options: ``bind``, ``name``, ``queue``, limits, retries and others; see
                :class:`zmqtasks.app.options.TaskOptions`.

        Raises:
            ConfigError: an unknown option or a bad value, or the name is taken.
        """
        if function is not None:
            return self.add_task(function, **options)
        check_task_options(options, f"App({self.name!r}).task()")
        return lambda function: self.add_task(function, **options)

    def add_task(self, function: Callable[..., Any], **options: Any) -> Task[Any, Any]:
        """Same as ``task``, for use without decorator syntax.

        Raises:
            ConfigError: an unknown option or a bad value, or the name is taken.
        """
        if isinstance(function, Task) or not callable(function):
            raise ConfigError(
                f"App({self.name!r}).task(): {function!r:.75} is no function; put @app.task "
                "directly above def, below all other decorators"
            )
        name = options.get("name") or self.name_of(function)
        where = f"task {name}"
        check_task_options(options, where)
        check_task_name(name, where)
        base = options.get("base") or self.own_base
        task = class_of_task(function, base, where)(self, function, name, options)
        set_attributes(task, options.get("attributes"), where)
        self._register(task)
        task.on_bound(self)
        return task

    def register_task(self, cls: object, **options: Any) -> Task[Any, Any]:
        """Make a task of a subclass of :class:`zmqtasks.Task` that has a method ``run``.

        Args:
            cls: the class; its attributes are options, ``name`` among them.
            options: others, as of ``task``.

        Raises:
            ConfigError: it is no such class, an unknown option or a bad value, or the name is
                taken.
        """
        function = getattr(cls, "run", None)
        if not isinstance(cls, type) or not issubclass(cls, Task) or not callable(function):
            raise ConfigError(
                f"App({self.name!r}).register_task(): {cls!r:.75} is no subclass of zmqtasks.Task "
                "with a method run(self, ...); give the class, not an object of it"
            )
        name = getattr(cls, "name", None) or self.gen_task_name(cls.__name__, cls.__module__)
        return self.add_task(function, **{"name": name, **options, "base": cls, "bind": True})

    def add_middleware(self, middleware: object) -> None:
        """Put this around all calls and attempts, within what was added before.

        Args:
            middleware: an object with one or more of the methods ``submit(call)``,
                ``run(call_next, context)`` and ``async arun(call_next, context)``.

        Raises:
            ConfigError: it has none of them.
        """
        check_middleware(middleware, f"App({self.name!r}).add_middleware()")
        self.middleware.append(middleware)
        signals.changed()

    @property
    def is_eager(self) -> bool:
        """Whether its tasks are run where they are called (``task_always_eager``)."""
        return self.conf.of_tasks("task_always_eager") is True

    @property
    def is_hooked(self) -> bool:
        """Whether anybody wants to see its calls before they are submitted."""
        if self._is_hooked is None:
            self._is_hooked = is_hooked(self)
        return self._is_hooked

    def hooks_changed(self) -> None:
        """A hook came or went."""
        self._is_hooked = None
        for task in self.tasks.values():
            task.hooks_changed()

    def _register(self, task: Task[Any, Any]) -> None:
        there = self.tasks.get(task.name)
        # Running a notebook cell or reloading a module again replaces the task.
        if there is not None and origin(there) != origin(task):
            raise ConfigError(
                f"task name {task.name!r} of App({self.name!r}) is taken by "
                f"{'.'.join(origin(there))}; give one of the two another name=..."
            )
        self.tasks[task.name] = task
        if self._rules is not None:
            self._annotate(task)

    def _annotate(self, task: Task[Any, Any]) -> None:
        """Give a task the options that the setting ``task_annotations`` has for it."""
        annotations = self.conf.of_tasks("task_annotations")
        for key, value in annotations_for(annotations, task.name).items():
            setattr(task, key, value)

    def catalog(self) -> list[CatalogEntry]:
        """What a worker with this App announces, sorted by name."""
        return [self.tasks[name].catalog_entry for name in sorted(self.tasks)]

    # --- calls by name ------------------------------------------------------------------

    def send_task(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """Call a task by name, which this process need not have.

        A task that it does have is called as ``apply_async`` does, signature check and
        queue included.

        Args:
            name: the task's name.
            args: positional arguments.
            kwargs: keyword arguments.
            options: as in ``Task.apply_async``.

        Raises:
            ConfigError: an unknown option or a bad value.
            SubmitRejected: the task was not accepted.
            SubmitUnknown: with durability "disk", when nobody knows whether it was.
            RuntimeError: it would block the running asyncio loop.
        """
        there = self.tasks.get(name)
        if there is not None:
            return there.apply_async(args, kwargs, **options)
        if options.get("link"):
            return self.signature(name, args, kwargs).apply_async(**options)
        return submit(self._prepare_by_name(name, args, kwargs, options), "send_task()")

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """Same as ``send_task``, waiting without blocking the running loop."""
        there = self.tasks.get(name)
        if there is not None:
            return await there.aapply_async(args, kwargs, **options)
        if options.get("link"):
            return await self.signature(name, args, kwargs).aapply_async(**options)
        return await submit_async(self, self._prepare_by_name(name, args, kwargs, options))

    def prepared(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: CallOptions,
        where: str,
        facts: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """A call that is ready to be submitted, of a task that may be here or not; see
        ``Task.prepared``."""
        there = self.tasks.get(name)
        if there is not None:
            return there.prepared(args, kwargs, options, where, facts)
        return self._prepare_by_name(name, args, kwargs, options, facts)

    def signature(self, varies: Any, *args: Any, **options: Any) -> Signature[Any]:
        """Same as ``zmqtasks.signature``, called through this App."""
        from zmqtasks.app.canvas.signature import signature  # many processes never need it

        return signature(varies, *args, app=self, **options)

    def _prepare_by_name(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: CallOptions,
        facts: Mapping[str, Any] | None = None,
    ) -> Prepared:
        check_task_name(name, "send_task()")
        where = f"send_task({name!r})"
        if self.is_eager:
            raise ConfigError(
                f"{where}: task_always_eager is on, and this process does not have the task; "
                "import the module that defines it"
            )
        checked = checked_options(options, where)
        kwargs = kwargs or {}
        check_arguments(args, kwargs, where)
        if self.is_hooked:
            call = OutgoingCall(name, tuple(args), dict(kwargs), dict(checked))
            args, kwargs, checked = passed_through(self, call, where)
        complete = self.rules.complete(name, None, args, kwargs, checked, where)
        ext = {**self.rules.facts_of_call(complete, None, where), **(facts or {})}
        needs = needs_text(complete)
        of_kind = ((("req", needs),) if needs else ()) + self.rules.of_kinds
        kind = Kind(self.name, name, "", self.queue_name(complete.get("queue")), of_kind)
        durability = durability_of(self, None, complete, where)
        return prepare(self, kind, Arguments(args, kwargs, ()), complete, durability, ext)

    def AsyncResult(self, task_id: str) -> AsyncResult[Any]:  # noqa: N802 - Celery's name
        """The handle of a task that was submitted elsewhere."""
        return AsyncResult(task_id, self)

    @property
    def control(self) -> Control:
        """Ask nodes, tell them what to do, end tasks: ``app.control.inspect().active()``,
        ``app.control.revoke(id)``."""
        if self._control is None:
            from zmqtasks.app.control import Control  # most processes never need it

            self._control = Control(self)
        return self._control

    def control_command(
        self, function: Callable[..., Any] | None = None, /, *, name: str | None = None
    ) -> Any:
        """Make a command of a function: every worker runs it when ``app.control.broadcast(name,
        {...})`` or ``zmqtasks control NAME ARGUMENT=VALUE`` says so.

        It runs like a task, in a process of the pool, before all that waits there.

        Args:
            function: takes the arguments by name.
            name: of the command, by default that of the function.

        Raises:
            ConfigError: the name is taken.
        """
        return self._add_command("control", function, name)

    def inspect_command(
        self, function: Callable[..., Any] | None = None, /, *, name: str | None = None
    ) -> Any:
        """The same for ``app.control.inspect().command(name, ...)`` and ``zmqtasks inspect
        NAME``."""
        return self._add_command("inspect", function, name)

    def _add_command(
        self, group: str, function: Callable[..., Any] | None, name: str | None
    ) -> Any:
        from zmqtasks.app.commands import command_name

        def add(function: Callable[..., Any]) -> Task[Any, Any]:
            return self.add_task(function, name=command_name(group, name or function.__name__))

        return add if function is None else add(function)

    # --- settings -----------------------------------------------------------------------

    @property
    def settings(self) -> NodeSettings:
        """The settings of this process for this App, read at their first use.

        Raises:
            ConfigError: an unknown key or a bad value somewhere.
        """
        if self._settings is None:
            from zmqtasks.settings import load_settings

            self.set_up()
            loaded = load_settings(
                command_line_flags(), self.conf.for_nodes, cwd=working_directory()
            )
            self._settings = loaded.settings
            self._payload_bytes_max = loaded.settings.payload_bytes_max
        return self._settings

    @property
    def rules(self) -> CallRules:
        """What the configuration says about tasks; it does not change from now on.

        Raises:
            ConfigError: the configuration is wrong.
        """
        if self._rules is None:
            self.set_up()
            self._rules = CallRules(self.conf)
            for task in self.tasks.values():
                self._annotate(task)
        return self._rules

    def reconfigure(self, conf: Conf) -> None:
        """Go by these settings from now on, though others are in use: for tests."""
        self.set_up()
        conf.freeze()
        self.conf = conf
        self._settings = self._rules = self.cached_gateway = self.eager_program = None
        for task in self.tasks.values():
            task.forget_calls()

    def queue_name(self, queue: str | None) -> str:
        """The queue that a call goes to, when it or its task asks for this one.

        Raises:
            ConfigError: not the name of a queue.
        """
        settings = self.settings
        if queue is None:
            return settings.default_queue
        check_queue("queue", queue, "")
        return queue

    def encode_arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]
    ) -> bytes:
        """The payload of a call, with this App's limit on sizes.

        Raises:
            PayloadTypeError: an argument cannot travel.
            PayloadTooLarge: they are too large.
        """
        return payload.encode_arguments(
            args, kwargs, names=names, bytes_max=self._payload_bytes_max
        )

    def __repr__(self) -> str:
        return f"<App: {self.name}>"


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundTaskDecorator: ...
@overload
def shared_task(
    *, bind: Literal[False] = False, **options: Unpack[TaskOptions]
) -> TaskDecorator: ...
def shared_task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a task that belongs to every App of the process, present and to come.

    For libraries. It is called through the current App (the one made last); plain calls
    need none. Options are those of ``App.task``.

    Raises:
        ConfigError: an unknown option or a bad value.
    """
    check_task_options(options, "shared_task()")
    if function is not None:
        return cast("Task[Any, Any]", share(function, options))
    return lambda function: share(function, options)
