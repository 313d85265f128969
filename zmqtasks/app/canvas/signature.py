"""Calls as values: what to call, with which arguments and options.

A signature is a dict of plain values, so it travels as an argument, through JSON and
MessagePack, and is a signature again by ``signature(d)``. Names and meanings are Celery's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from zmqtasks.app.callbacks import listed
from zmqtasks.app.current import all_apps, current_app, gateway
from zmqtasks.app.naming import check_task_name
from zmqtasks.app.options import CallOptions, check_call_options
from zmqtasks.app.result import AsyncResult
from zmqtasks.app.submitting import Prepared, check_arguments, submit, submit_async
from zmqtasks.errors import ConfigError
from zmqtasks.ids import format_task_id

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.canvas.stamping import StampingVisitor
    from zmqtasks.app.canvas.workflow import Workflow
    from zmqtasks.app.eager import EagerResult
    from zmqtasks.app.task import Task

R = TypeVar("R")
S = TypeVar("S", bound=Mapping[str, Any])
#: Characters of each argument that ``repr`` shows.
_REPR_CHARS_MAX = 100


class Signature(dict[str, Any], Generic[R]):
    """One call of a task that is yet to be made.

    Made by ``task.s(...)``, ``task.si(...)`` and ``signature(...)``. What is given later, to
    ``delay`` and its kin, comes before the positional arguments that it has, and over its
    keyword arguments and options; an immutable one takes options only.

    Args:
        task: the task, its name, or a dict that was a signature.
        args: positional arguments.
        kwargs: keyword arguments.
        options: of the call, as ``apply_async`` has them.
        subtask_type: which kind of signature it is, None for a plain one.
        immutable: it does not take more arguments.
        app: the App of the task; by default the task's own, else the current one when it is
            called.
        more: further options.

    Raises:
        ConfigError: no name of a task, an unknown option or a bad value.
        TypeError: arguments that are none.
    """

    #: {subtask_type: class}
    types: ClassVar[dict[str, type[Signature[Any]]]] = {}

    def __init__(
        self,
        task: Task[Any, R] | str | Mapping[str, Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: App | None = None,
        **more: Any,
    ) -> None:
        app_name: object = None
        if isinstance(task, Mapping):
            parts = task
            name, args, kwargs = parts.get("task"), parts.get("args"), parts.get("kwargs")
            options, subtask_type = parts.get("options"), parts.get("subtask_type")
            immutable, app_name = bool(parts.get("immutable")), parts.get("app")
        else:
            name = task if isinstance(task, str) else task.name
            app = app or getattr(task, "app", None)
        check_task_name(name, "signature()")
        where = f"signature of {name}"
        args, kwargs = args or (), kwargs or {}
        check_arguments(args, kwargs, where)
        options = {**(options or {}), **more}
        if options:
            check_call_options(options, where)
            for key in ("link", "link_error"):
                if options.get(key):
                    options[key] = [maybe_signature(each) for each in listed(options[key])]
        super().__init__(
            task=name,
            args=tuple(args),
            kwargs=dict(kwargs),
            options=options,
            subtask_type=subtask_type,
            immutable=immutable,
        )
        #: The App, once that is known.
        self._app = app
        if app is not None:
            app_name = app.name
        if app_name is not None:
            self["app"] = app_name

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: App | None = None) -> Signature[Any]:
        """The signature that this dict was.

        Raises:
            ConfigError: it was none, or has an unknown option or a bad value.
        """
        kind = d.get("subtask_type")
        if kind is None:
            return Signature(d, app=app)
        found = cls.types.get(kind) or _builtin_types().get(kind)
        if found is None:
            raise ConfigError(
                f"signature of {d.get('task')!r:.75}: there are no signatures of type {kind!r:.75};"
                f" there are {', '.join(sorted(cls.types))}"
            )
        return found._from_dict(d, app)

    @classmethod
    def _from_dict(cls, d: Mapping[str, Any], app: App | None) -> Signature[Any]:
        return cls(d, app=app)

    # --- its parts ----------------------------------------------------------------------

    @property
    def task(self) -> str:
        """Name of the task."""
        found: str = self["task"]
        return found

    #: The same.
    name = task

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments."""
        found: tuple[Any, ...] = self["args"]
        return found

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments."""
        found: dict[str, Any] = self["kwargs"]
        return found

    @property
    def options(self) -> dict[str, Any]:
        """Options of the call."""
        found: dict[str, Any] = self["options"]
        return found

    @property
    def subtask_type(self) -> str | None:
        """Which kind of signature it is, None for a plain one."""
        found: str | None = self["subtask_type"]
        return found

    @property
    def immutable(self) -> bool:
        """It does not take more arguments."""
        found: bool = self["immutable"]
        return found

    @property
    def id(self) -> str | None:
        """The task id, if ``freeze`` or the option ``task_id`` has given it one."""
        return self.options.get("task_id")

    @property
    def app(self) -> App:
        """The App that it is called through.

        Raises:
            ConfigError: this process has none of that name, or none at all.
        """
        if self._app is None:
            self._app = _app_named(self.get("app"))
        return self._app

    @property
    def type(self) -> Task[Any, R]:
        """The task.

        Raises:
            ConfigError: the App does not have it here.
        """
        found = self.app.tasks.get(self.task)
        if found is None:
            raise ConfigError(
                f"signature of {self.task}: app {self.app.name!r} has no such task in this "
                "process, which can only submit it; import the module that defines it"
            )
        return found

    # --- others like it -----------------------------------------------------------------

    def clone(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Signature[R]:
        """A copy of it with more arguments and options."""
        args, kwargs, merged = self._merged(args, kwargs, options)
        copy = Signature.from_dict({**self, "args": args, "kwargs": kwargs, "options": {}})
        copy["options"] = deepcopy(merged)
        copy._app = self._app
        return copy

    #: The same.
    partial = clone

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Signature[R]:
        """A copy of it with other arguments or options in place of those that it has."""
        parts = {"args": args, "kwargs": kwargs, "options": options}
        given = {key: value for key, value in parts.items() if value is not None}
        copy = Signature.from_dict({**self, **given})
        copy._app = self._app
        return copy

    def set(self, immutable: bool | None = None, **options: Any) -> Signature[R]:
        """Give it options, in place of those of the same names; returns itself.

        Raises:
            ConfigError: an unknown option, a bad value, or options that contradict each other.
        """
        if options:
            merged = {**self.options, **options}
            check_call_options(merged, f"signature of {self.task}: set()")
            self.options.update(options)
        if immutable is not None:
            self.set_immutable(immutable)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Whether it takes no more arguments."""
        self["immutable"] = bool(immutable)

    def link(self, callback: S) -> S:
        """Call this with its result once it has succeeded; returns the callback."""
        return self._add("link", callback)

    def link_error(self, errback: S) -> S:
        """Call this once it has failed; returns the errback.

        It is called as ``errback(request, exc, traceback)``, where ``request`` is about the
        call that failed, or as ``errback(task_id)`` if its function takes no more.
        """
        return self._add("link_error", errback)

    def on_error(self, errback: Mapping[str, Any]) -> Self:
        """Same as ``link_error``; returns itself."""
        self.link_error(errback)
        return self

    def _add(self, option: str, linked: S) -> S:
        found = listed(self.options.get(option))
        if linked not in found:
            more: dict[str, Any] = {option: [*found, linked]}
            self.set(**more)
        return linked

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **stamps: Any
    ) -> Self:
        """Let the call, or all calls of a workflow and what they are linked to, carry stamps:
        ``self.request.stamps``, and ``app.control.revoke_by_stamped_headers`` finds them.

        Args:
            visitor: says for each part of a workflow what is added.
            append_stamps: values of a stamp that is there already stay; else the new ones
                replace them.
            stamps: names, and one value or a list of several, as headers have them.

        Returns:
            Itself.
        """
        from zmqtasks.app.canvas.stamping import stamp

        stamp(self, visitor, append_stamps, stamps)
        return self

    def freeze(self, _id: str | None = None) -> AsyncResult[R]:
        """Give it a task id, unless it has one: however often it is called, it is this task.

        Args:
            _id: the id; by default a new one.

        Returns:
            The handle of that task, which is not submitted.
        """
        if self.id is None:
            self.options["task_id"] = _id or format_task_id(gateway(self.app).new_ids(1)[0])
        return AsyncResult(self.options["task_id"], self.app)

    # --- calling it ---------------------------------------------------------------------

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Run the function here and now."""
        args, kwargs, _ = self._merged(partial_args, partial_kwargs, None)
        return self.type(*args, **kwargs)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> AsyncResult[R]:
        """Same as ``apply_async(partial_args, partial_kwargs)``."""
        return self.apply_async(partial_args, partial_kwargs)

    async def adelay(self, *partial_args: Any, **partial_kwargs: Any) -> AsyncResult[R]:
        """Same as ``delay``, waiting without blocking the running loop."""
        return await self.aapply_async(partial_args, partial_kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Let a worker run it.

        Args:
            args: positional arguments that come before its own.
            kwargs: keyword arguments that come over its own.
            options: as of ``Task.apply_async``; they come over its own.

        Raises:
            ConfigError: an unknown option or a bad value.
            TypeError: the arguments do not fit the function.
            SubmitRejected: the task was not accepted.
            SubmitUnknown: with durability "disk", when nobody knows whether it was.
            RuntimeError: it would block the running asyncio loop.
        """
        if self.app.is_eager:
            return self.apply(args, kwargs, **options)
        where = f"signature of {self.task}.apply_async()"
        if self.options.get("link") or options.get("link"):
            from zmqtasks.app.canvas.workflow import submit_linked

            return submit_linked(self, args, kwargs, options, where)
        return submit(self.prepared(args, kwargs, options, where), where)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Same as ``apply_async``, waiting without blocking the running loop."""
        if self.app.is_eager:
            return await self.aapply(args, kwargs, **options)
        where = f"signature of {self.task}.aapply_async()"
        if self.options.get("link") or options.get("link"):
            from zmqtasks.app.canvas.workflow import submit_linked_async

            return await submit_linked_async(self, args, kwargs, options, where)
        return await submit_async(self.app, self.prepared(args, kwargs, options, where))

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run it here and now, as a worker would; see ``Task.apply``."""
        args, kwargs, merged = self._merged(args, kwargs, options)
        return self.type.apply(args, kwargs, throw=throw, **merged)

    async def aapply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Same as ``apply`` in a thread, so that the running loop is not blocked."""
        import asyncio

        return await asyncio.to_thread(self.apply, args, kwargs, throw=throw, **options)

    def applied(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        facts: Mapping[str, Any],
    ) -> EagerResult[R]:
        """Same as ``apply``, as a part of something larger."""
        from zmqtasks.app.eager import apply

        args, kwargs, merged = self._merged(args, kwargs, options)
        return apply(self.type, args, kwargs, merged, f"signature of {self.task}.apply()", facts)

    def __invert__(self) -> R:
        """``~sig``: let a worker run it, and wait for the result."""
        return self.apply_async().get()

    def prepared(
        self,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        where: str,
        facts: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """The call, ready to be submitted; see ``Task.prepared``."""
        args, kwargs, complete = self._merged(args, kwargs, options)
        return self.app.prepared(self.task, args, kwargs, complete, where, facts)

    def _merged(
        self,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any] | None,
    ) -> tuple[tuple[Any, ...], dict[str, Any], CallOptions]:
        args, kwargs = args or (), kwargs or {}
        check_arguments(args, kwargs, f"signature of {self.task}")
        merged: Any = self.options
        if options:
            merged = merged_options(self.options, options)
            check_call_options(merged, f"signature of {self.task}")
        if self.immutable:
            return self.args, self.kwargs, merged
        return (*args, *self.args), {**self.kwargs, **kwargs}, merged

    # --- as a value ---------------------------------------------------------------------

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """It as Python would call it, with these arguments, too: ``shop.add(2, 3)``."""
        args, kwargs, _ = self._merged(args, kwargs, None)
        parts = [*map(_shown, args), *(f"{key}={_shown(value)}" for key, value in kwargs.items())]
        return f"{self.task}({', '.join(parts)})"

    def __repr__(self) -> str:
        return self.reprcall()

    def __or__(self, other: Any) -> Workflow:  # type: ignore[override]  # dicts make dicts
        """``first | second``: the second one gets the result of the first."""
        from zmqtasks.app.canvas.chains import joined

        return joined(self, other)

    __ior__ = __or__

    def __ror__(self, other: Any) -> Workflow:  # type: ignore[override]
        from zmqtasks.app.canvas.chains import joined

        return joined(Signature.from_dict(other), self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature[R]:
        copy = Signature.from_dict(deepcopy(dict(self), memo))
        copy._app = self._app
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)


def signature(
    varies: Task[Any, R] | str | Mapping[str, Any],
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    immutable: bool = False,
    app: App | None = None,
    **more: Any,
) -> Signature[R]:
    """A signature of a task, its name, or a dict that was one; of a signature a copy.

    Raises:
        ConfigError: an unknown option, a bad value, or a dict that was none.
    """
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app)
    return Signature(varies, args, kwargs, options, None, immutable, app, **more)


#: Celery's older name of it.
subtask = signature


def maybe_signature(
    d: Mapping[str, Any] | None, app: App | None = None, clone: bool = False
) -> Signature[Any] | None:
    """A dict as the signature that it was; a signature as it is; None as None.

    Args:
        d: a signature, a dict that was one, or None.
        app: the App that it is called through.
        clone: give a copy of a signature.
    """
    if d is None:
        return None
    found = d if isinstance(d, Signature) else Signature.from_dict(d, app)
    if clone and found is d:
        found = found.clone()
    if app is not None:
        found._app = app
        found["app"] = app.name
    return found


def linked_signature(linked: Mapping[str, Any], app: App | None) -> Signature[Any]:
    """What a call is linked to, as a signature; of this App if it says nothing else."""
    found: Signature[Any] = signature(linked)
    if found._app is None and "app" not in found and app is not None:
        found._app = app
    return found


def merged_options(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a call: those given now come over its own, callbacks come to them."""
    found = {**own, **{key: value for key, value in given.items() if value is not None}}
    for key in ("link", "link_error"):
        if own.get(key) and given.get(key):
            before = listed(own[key])
            found[key] = before + [each for each in listed(given[key]) if each not in before]
    return found


def _builtin_types() -> Mapping[str, type[Signature[Any]]]:
    # Only for dicts that come from elsewhere. They register them, that of groups included.
    import_module("zmqtasks.app.canvas.maps")
    import_module("zmqtasks.app.canvas.chains")
    return Signature.types


def _app_named(name: object) -> App:
    if name is None:
        return current_app()
    found = next((app for app in all_apps() if app.name == name), None)
    if found is None:
        raise ConfigError(
            f"a signature of App({name!r:.75}), which this process does not have; import the "
            "module that makes it, or say which one: signature(d, app=...)"
        )
    return found


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _REPR_CHARS_MAX else f"{text[: _REPR_CHARS_MAX - 1]}…"
