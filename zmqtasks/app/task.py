"""Task functions that can be called elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from inspect import isasyncgenfunction, iscoroutinefunction
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack

from zmqtasks.app.batches import CallsOfTask, submit_many, submit_many_async
from zmqtasks.app.callbacks import match_call
from zmqtasks.app.canvas.of_tasks import WithSignatures
from zmqtasks.app.current import gateway, in_running_loop
from zmqtasks.app.depends import Injection, resolved
from zmqtasks.app.facts import needs_text
from zmqtasks.app.hooks import WithHandlers
from zmqtasks.app.middleware import OutgoingCall
from zmqtasks.app.on_commit import WithOnCommit
from zmqtasks.app.options import CallOptions
from zmqtasks.app.publishing import Arguments, passed_through
from zmqtasks.app.result import AsyncResult
from zmqtasks.app.resultset import ResultSet
from zmqtasks.app.signature import TaskSignature, signature_of
from zmqtasks.app.streaming import tell_state
from zmqtasks.app.submitting import (
    Prepared,
    check_arguments,
    checked_options,
    durability_of,
    prepare,
    submit,
    submit_async,
)
from zmqtasks.app.task_options import WithOptions
from zmqtasks.errors import ConfigError, Retry
from zmqtasks.node.gateway import Call, Durability
from zmqtasks.pools.running import is_cancelled
from zmqtasks.wire.messages import CatalogEntry, Kind

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.broadcasting import BroadcastResult
    from zmqtasks.app.context import TaskContext
    from zmqtasks.app.eager import EagerResult

P = ParamSpec("P")
R = TypeVar("R")

#: Kinds that a task keeps for its next calls.
_KINDS_MAX = 1_000
#: What one `delay_many` call may look like.
CallArguments = tuple[Any, ...] | list[Any] | dict[str, Any]


class Task(WithOptions, WithHandlers, WithSignatures[P, R], WithOnCommit[P, R], Generic[P, R]):
    """A task function, made by ``@app.task``.

    Calling it runs the function here and now; ``delay`` and ``apply_async`` let a
    worker run it. Subclasses (``@app.task(base=...)``) may add attributes and methods
    of their own, and handlers; what they keep in ``self`` stays for the process.
    """

    #: The App that it belongs to.
    app: App
    #: Whether the function takes this object as its first argument.
    bind: bool
    #: The function itself, with this object bound when ``bind`` is set.
    run: Callable[P, R]

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]
    _signature: TaskSignature | None
    #: ``run`` with all that it depends on, once that is known.
    _complete_run: Callable[..., Any] | None
    _kinds: dict[tuple[str | None, str], Kind]
    #: For ``delay``, once it is known that it has nothing more to do than to submit.
    _plain_kind: Kind | None

    def __init__(
        self,
        app: App,
        function: Callable[..., Any],
        name: str,
        options: Mapping[str, Any],
    ) -> None:
        self.app = app
        self.name = name
        self.bind = bool(options.get("bind", False))
        self.run = MethodType(function, self) if self.bind else function
        self._signature = None
        self._complete_run = None
        self._kinds = {}
        self._plain_kind = None
        self._call_defaults = None
        self.set_options(options)
        self.__wrapped__ = function
        for attribute in ("__name__", "__qualname__", "__doc__", "__module__"):
            if hasattr(function, attribute):
                setattr(self, attribute, getattr(function, attribute))

    # --- calling ------------------------------------------------------------------------

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now; what it depends on is provided, unless given by name."""
        found: R = self.complete_run(*args, **kwargs)
        return found

    @property
    def complete_run(self) -> Callable[..., Any]:
        """The function that takes what callers give, and gets what it depends on.

        Raises:
            ConfigError: something that it depends on cannot be made.
        """
        if self._complete_run is None:
            injected = self.call_signature.injected
            where = f"task {self.name}"
            nodes = {
                name: (position, resolved(mark, where, is_async=self.is_async))
                for name, (position, mark) in injected.items()
            }
            self._complete_run = Injection(self.run, nodes).wrapped() if nodes else self.run
        return self._complete_run

    @property
    def is_async(self) -> bool:
        """Whether its function is ``async def``."""
        function = self.__wrapped__
        return iscoroutinefunction(function) or isasyncgenfunction(function)

    def hooks_changed(self) -> None:
        """A hook came or went: ``delay`` must look again whether anybody wants to see it."""
        self._plain_kind = None

    def delay(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Let a worker run it with these arguments.

        In a running asyncio loop it never blocks; see ``adelay``.

        Raises:
            TypeError: the arguments do not fit the function.
            SubmitRejected: MeshOverloaded, PayloadTooLarge or PayloadTypeError; the task
                was not accepted.
            SubmitUnknown: with durability "disk", when nobody knows whether it was.
            RuntimeError: with durability "disk", in a running asyncio loop.
        """
        signature = self._signature or self._sign()
        signature.match(*args, **kwargs)
        app = self.app
        kind = self._plain_kind
        if kind is None:
            return self._delay_otherwise(*args, **kwargs)
        body = app.encode_arguments(args, kwargs, signature.names)
        through = app.cached_gateway or gateway(app)
        task_id = through.new_ids(1)[0]
        handle = AsyncResult.of_submitted(task_id, app, through)
        # Written out instead of going through submitting.py: this is the hot path.
        through.submit(
            (_new_call(Call, (task_id, kind, body, None)),),
            handle,
            wait_s=0 if in_running_loop() else None,
        )
        return handle

    def _delay_otherwise(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """The first call, or one that has to be on disk or has options."""
        where = f"{self.name}.delay()"
        if self.app.is_eager:
            return self.apply(args, kwargs)
        if self.app.is_hooked:
            return submit(self.prepared(args, kwargs, {}, where), where)
        # Before anything is encoded: it loads the settings, which limit sizes.
        kind, ext, _ = self.shape(args, kwargs, {}, where)
        durability = durability_of(self.app, self.durability, {}, where)
        if durability is Durability.MEMORY and not ext and not self.app.rules.is_dynamic:
            self._plain_kind = kind
            return self.delay(*args, **kwargs)
        arguments = Arguments(args, kwargs, self.call_signature.names)
        return submit(prepare(self.app, kind, arguments, {}, durability, ext), where)

    async def adelay(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Same as ``delay``, waiting for room and disk without blocking the running loop."""
        return await self.aapply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Let a worker run it, with options.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            options: when (``countdown``, ``eta``, ``expires``), where (``queue``,
                ``resources``, ``tags``, ``priority``), how long (``time_limit``,
                ``soft_time_limit``), how safely (``durability``, ``delivery``,
                ``require_worker``), which (``task_id``, ``idempotency_key``), what is
                shown (``headers``, ``argsrepr``, ``kwargsrepr``); see
                :class:`zmqtasks.app.options.CallOptions`.

        Raises:
            ConfigError: an unknown option or a bad value.
            TypeError: the arguments do not fit the function.
            SubmitRejected: the task was not accepted; NoWorkers if ``require_worker``
                seconds passed without one.
            SubmitUnknown: with durability "disk", when nobody knows whether it was.
            RuntimeError: it would block the running asyncio loop.
        """
        where = f"{self.name}.apply_async()"
        if self.app.is_eager:
            return self.apply(args, kwargs, **options)
        if options.get("link"):
            return self.signature(args, kwargs).apply_async(**options)
        return submit(self.prepared(args, kwargs, options, where), where)

    async def aapply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Same as ``apply_async``, waiting without blocking the running loop."""
        where = f"{self.name}.aapply_async()"
        if self.app.is_eager:
            return await self.aapply(args, kwargs, **options)
        if options.get("link"):
            return await self.signature(args, kwargs).aapply_async(**options)
        return await submit_async(self.app, self.prepared(args, kwargs, options, where))

    def apply(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> EagerResult[R]:
        """Run it here and now, as a worker would: see docs/howto/canvas.md, "Eagerly".

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            throw: raise what ``get()`` of the result would raise; by default the setting
                ``task_eager_propagates``.
            options: as of ``apply_async``. Those about when and where it runs, what it
                survives and how long it may take have nothing to act on; but one that has
                expired does not run.

        Raises:
            ConfigError: an unknown option or a bad value.
            TypeError: the arguments do not fit the function.
            SubmitRejected: PayloadTooLarge or PayloadTypeError: they could not travel.
        """
        from zmqtasks.app.eager import apply  # few processes need it

        result = apply(self, args, kwargs, options, f"{self.name}.apply()")
        if self.app.conf.of_tasks("task_eager_propagates") if throw is None else throw:
            result.get()
        return result

    async def aapply(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Unpack[CallOptions],
    ) -> EagerResult[R]:
        """Same as ``apply`` in a thread, so that the running loop is not blocked."""
        import asyncio

        return await asyncio.to_thread(self.apply, args, kwargs, throw=throw, **options)

    def delay_many(self, calls: Iterable[CallArguments]) -> ResultSet[R]:
        """Let workers run it many times; far cheaper than as many ``delay``.

        Args:
            calls: a tuple of positional or a dict of keyword arguments for each call.

        Raises:
            TypeError: arguments do not fit the function.
            SubmitRejected: as with ``delay``. Calls are submitted in batches of 1,000;
                the results of batches accepted before are the exception's ``accepted``.
        """
        where = f"{self.name}.delay_many()"
        if self.app.is_eager:
            from zmqtasks.app.eager import apply_many

            return apply_many(self, calls)
        return submit_many(self._batches(calls, where), where)

    async def adelay_many(self, calls: Iterable[CallArguments]) -> ResultSet[R]:
        """Same as ``delay_many``, waiting for room and disk without blocking the loop."""
        if self.app.is_eager:
            import asyncio

            return await asyncio.to_thread(self.delay_many, calls)
        batches = self._batches(calls, f"{self.name}.adelay_many()")
        return await submit_many_async(self.app, batches)

    def broadcast(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        destination: str | Collection[str] | None = None,
        timeout: float = 1.0,
        **options: Unpack[CallOptions],
    ) -> BroadcastResult[R]:
        """Let every worker that has the task run it once, whatever queues it serves.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            destination: names of workers, or patterns such as ``"gpu-*"``; None: all.
            timeout: seconds to find workers of other hosts.
            options: as for ``apply_async``, but for those that name one task.

        Returns:
            The results; ``by_worker()`` has them by worker. Where a worker goes, its own ends
            as WorkerLostError.

        Raises:
            ConfigError: an unknown option or a bad value.
            TypeError: the arguments do not fit the function.
            NoWorkers: no worker in sight has the task.
            SubmitRejected: it was not accepted.
            RuntimeError: called in a running asyncio loop (``abroadcast``) or inside a task.
        """
        from zmqtasks.app.broadcasting import broadcast  # few need it

        where = f"{self.name}.broadcast"
        prepared = self.prepared(args, kwargs, options, f"{where}()")
        return broadcast(self.app, prepared, where, destination, timeout)

    async def abroadcast(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        destination: str | Collection[str] | None = None,
        timeout: float = 1.0,
        **options: Unpack[CallOptions],
    ) -> BroadcastResult[R]:
        """Same as ``broadcast`` without blocking the running loop."""
        import asyncio

        return await asyncio.to_thread(
            self.broadcast, args, kwargs, destination, timeout, **options
        )

    def _batches(self, calls: Iterable[CallArguments], where: str) -> CallsOfTask:
        # It loads the settings, which limit sizes.
        durability = durability_of(self.app, self.durability, {}, where)
        return CallsOfTask(self, calls, durability, where)

    def prepared(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        where: str,
        facts: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """A call that is ready to be submitted.

        Args:
            args, kwargs, options: of the call.
            where: the method called, for error messages.
            facts: more facts of the call, for the wire.

        Raises:
            ConfigError: an unknown option or a bad value.
            TypeError: the arguments do not fit the function.
            SubmitRejected: they cannot travel.
        """
        checked = checked_options(options, where)
        kwargs = kwargs or {}
        check_arguments(args, kwargs, self.name)
        if self.app.is_hooked:
            call = OutgoingCall(self.name, tuple(args), dict(kwargs), dict(checked))
            args, kwargs, checked = passed_through(self.app, call, where)
        signature = self.call_signature
        match_call(signature.match, args, kwargs, facts)
        kind, ext, complete = self.shape(args, kwargs, checked, where)
        if facts:
            ext.update(facts)
        durability = durability_of(self.app, self.durability, complete, where)
        arguments = Arguments(args, kwargs, signature.names)
        return prepare(self.app, kind, arguments, complete, durability, ext)

    def shape(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions, where: str
    ) -> tuple[Kind, dict[str, Any], CallOptions]:
        """Where a call goes: its kind, its facts for the wire, and all of its options.

        Raises:
            ConfigError: options contradict each other.
        """
        rules = self.app.rules
        complete = rules.complete(self.name, self, args, kwargs, options, where)
        if complete.get("delivery") == "at_most_once" and self.autoretry_for:
            raise ConfigError(
                f"{where}: delivery='at_most_once' forgets a call once it is sent, so nobody "
                "would retry it, and the task has autoretry_for; leave delivery out"
            )
        kind = self._kind(complete.get("queue"), needs_text(complete))
        return kind, rules.facts_of_call(complete, self, where), complete

    # --- facts --------------------------------------------------------------------------

    @property
    def signature_digest(self) -> str:
        """Same parameters, same digest; workers with another one are not asked."""
        return self.call_signature.digest

    @property
    def signature_text(self) -> str:
        """The signature for people."""
        return self.call_signature.text

    @property
    def catalog_entry(self) -> CatalogEntry:
        """What a worker announces about it."""
        ext = {} if self.idempotent else {"idem": 0}
        return CatalogEntry(
            self.app.name, self.name, self.signature_digest, self.signature_text, ext
        )

    @property
    def request(self) -> TaskContext:
        """Facts about the attempt of it that runs here; see ``zmqtasks.app.context``."""
        from zmqtasks.app.context import request_of

        return request_of(self.app.name, self.name)

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Ask for another attempt after this one, which ends here.

        Args:
            args: positional arguments, if others than now.
            kwargs: keyword arguments, if others than now.
            exc: why; raised when the retries are used up.
            throw: False: return the Retry. The other attempt follows when this one ends,
                whatever it returns or raises.
            eta: no sooner than at this moment.
            countdown: no sooner than in so many seconds, ``default_retry_delay`` by default.
            max_retries: how many there may be, in place of the task's own number.
            options: ``expires``, ``headers``, ``priority``, ``time_limit``,
                ``soft_time_limit``, ``argsrepr`` and ``kwargsrepr``, as of a call.

        Raises:
            Retry: always, but for ``throw=False``; ``exc`` instead if there is one and the
                function was called without a worker.
            BaseException: ``exc``, or MaxRetriesExceededError when there is none: the
                retries are used up.
            ConfigError: an option that a retry cannot change, or a bad value.
        """
        run = self.request.run
        if run is None:
            raise exc or Retry("Task can be retried", None)
        from zmqtasks.app.retrying import Wish, asked, planned_retry

        wish = Wish(args, kwargs, exc, eta, countdown, max_retries, options)
        found = planned_retry(self, run, wish)
        if throw:
            raise found
        asked[run.id, run.attempt] = found
        return found

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None
    ) -> None:
        """Tell who watches how the attempt that runs here stands; see ``AsyncResult.updates``.

        Of states that follow each other quickly only the last one may be seen. Nothing
        happens where nobody can watch: outside of a worker.

        Args:
            task_id: of the running task, as Celery has it; None for that.
            state: a name of your own, such as "PROGRESS".
            meta: any value that can travel.

        Raises:
            ValueError: another task's id, no state, or one that only the owner decides on.
            PayloadTypeError, PayloadTooLarge: ``meta`` cannot travel.
        """
        own = self.request.id
        if task_id is not None and task_id != own:
            raise ValueError(
                f"{self.name}.update_state(task_id={task_id!r:.75}): a task tells of itself only, "
                f"and the one that runs here is {own}; leave task_id out"
            )
        tell_state(self.app, state, meta)

    def progress(self, current: float, total: float | None = None, message: str = "") -> None:
        """Tell who watches how far the attempt that runs here is.

        The same as ``update_state(state="PROGRESS", meta={"current": …, "total": …,
        "message": …})``.
        """
        meta = {"current": current, "total": total, "message": message}
        self.update_state(state="PROGRESS", meta=meta)

    def is_aborted(self) -> bool:
        """Whether the attempt that runs here was cancelled, so that it may end early.

        Cheap enough to be asked in a loop; False outside of a worker.
        """
        return is_cancelled()

    def AsyncResult(self, task_id: str) -> AsyncResult[R]:  # noqa: N802 - Celery's name
        """The handle of a call of this task that was submitted elsewhere."""
        return AsyncResult(task_id, self.app)

    @property
    def call_signature(self) -> TaskSignature:
        """What is known of its parameters."""
        return self._signature or self._sign()

    def _sign(self) -> TaskSignature:
        # At the first use and not when decorated, which keeps imports fast.
        self._signature = signature_of(self.__wrapped__, bound=self.bind)
        return self._signature

    def _kind(self, queue: str | None, needs: str) -> Kind:
        """What calls to this queue, with these needs, have in common; None: the default."""
        kind = self._kinds.get((queue, needs))
        if kind is None:
            name = self.app.queue_name(queue)
            facts: tuple[tuple[str, Any], ...] = (("sig", self.signature_text),)
            if not self.idempotent:
                facts += (("idem", 0),)
            if needs:
                facts += (("req", needs),)
            facts += self.app.rules.of_kinds
            kind = Kind(self.app.name, self.name, self.signature_digest, name, facts)
            if len(self._kinds) >= _KINDS_MAX:
                self._kinds.clear()  # calls that each need another amount
            self._kinds[queue, needs] = kind
        return kind

    def __repr__(self) -> str:
        return f"<Task: {self.name} of {self.app.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _task_by_name, (self.app.name, self.name)


class CoroutineTask(Task[P, R]):
    """A task whose function is ``async def``: plain calls are awaited, results are not."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        """Make the coroutine; await it to run the function here."""
        return self.complete_run(*args, **kwargs)  # type: ignore[no-any-return]


def _task_by_name(app_name: str, name: str) -> Task[Any, Any]:
    from zmqtasks.app.current import all_apps

    for app in all_apps():
        if app.name == app_name and name in app.tasks:
            return app.tasks[name]
    raise ConfigError(f"this process has no task {name} of an App {app_name!r}")


_new_call = tuple.__new__
