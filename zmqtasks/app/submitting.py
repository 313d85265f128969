"""From checked arguments to the gateway: one call, many calls, with and without a loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqtasks.app.current import gateway, in_running_loop
from zmqtasks.app.options import CallOptions, check_call_options
from zmqtasks.app.publishing import Arguments, Publication
from zmqtasks.app.result import AsyncResult, AtMostOnceResult
from zmqtasks.app.resultset import ResultSet
from zmqtasks.core.inputs import INPUTS_KEY
from zmqtasks.errors import ConfigError, MeshOverloaded, SubmitError, SubmitRejected
from zmqtasks.ids import keyed_task_id, parse_task_id
from zmqtasks.node.gateway import Call, Durability, Gateway, Pending
from zmqtasks.wire.messages import Kind

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.task import Task
    from zmqtasks.node.room import Place

#: Calls that `delay_many` hands to the gateway at once.
BATCH_COUNT = 1_000
BATCH_BYTES = 1024 * 1024
#: Durable batches that may be under way while the next one is made.
AHEAD_COUNT = 2

_NO_KWARGS: dict[str, Any] = {}


class Prepared(NamedTuple):
    """A call that is ready to be submitted."""

    gateway: Gateway
    call: Call
    handle: AsyncResult[Any]
    options: CallOptions
    durability: Durability
    #: For hooks, where there are some.
    publication: Publication | None = None

    def submit(self, wait_s: float | Place | None) -> None:
        """Hand it over.

        Raises:
            SubmitRejected: it was not accepted.
            SubmitUnknown: nobody knows whether it was.
        """
        self.gateway.submit(
            (self.call,),
            self.handle,
            wait_s=wait_s,
            require_worker_s=self.options.get("require_worker"),
            delivery=self.options.get("delivery") or "at_least_once",
            durability=self.durability,
        )
        if self.publication is not None:
            self.publication.done()

    @property
    def waits(self) -> str:
        """The option because of which submitting takes its time, "" if none does."""
        if self.durability is Durability.DISK:
            return "durability='disk'"
        options = self.options
        if options.get("delivery") != "at_most_once":
            # Others may have the task: they are asked first.
            if options.get("idempotency_key"):
                return "idempotency_key="
            if options.get("task_id"):
                return "task_id="
        return "require_worker=" if options.get("require_worker") else ""


def durability_of(
    app: App, task_durability: str | None, options: CallOptions, where: str
) -> Durability:
    """What a call survives: its own option decides, then its task's, then the setting.

    Raises:
        ConfigError: a task that is to be on disk is called at most once.
    """
    chosen = options.get("durability") or task_durability
    if options.get("delivery") == "at_most_once":
        if chosen == "disk":
            raise ConfigError(
                f"{where}: the task has durability='disk', and delivery='at_most_once' forgets a "
                "call once it is sent; say durability='memory' too, or leave delivery out"
            )
        return Durability.MEMORY
    return Durability.DISK if (chosen or app.settings.durability) == "disk" else Durability.MEMORY


def prepare(
    app: App,
    kind: Kind,
    arguments: Arguments,
    options: CallOptions,
    durability: Durability,
    ext: dict[str, Any],
) -> Prepared:
    """Give a call its id, its payload and its handle.

    Args:
        options: checked, and complete.
        ext: the facts of the call that its options make; taken over.

    Raises:
        PayloadTypeError, PayloadTooLarge: the arguments cannot travel.
        ConfigError: hooks made headers that cannot.
    """
    through = gateway(app)
    key, text = options.get("idempotency_key"), options.get("task_id")
    if key:
        task_id = keyed_task_id(kind.app, kind.name, key)
    else:
        task_id = parse_task_id(text) if text else through.new_ids(1)[0]
    headers = options.get("headers")
    publication = None
    if app.is_hooked:
        publication = Publication(kind, task_id, arguments, ext, headers)
        headers = publication.announce()
    body = app.encode_arguments(*arguments)
    if key or text:
        from zmqtasks.wire.content import content_digest  # most processes never need it

        # Whoever has a task of this id can tell whether this call asks for the same.
        ext["c"] = content_digest(kind.app, kind.name, body)
    if headers:
        ext["h"] = dict(headers)
    after = options.get("after")
    if after:
        from zmqtasks.app.awaited import awaited_ids  # few calls need it

        ext[INPUTS_KEY] = [awaited_ids(after), None]
    cls = AtMostOnceResult if options.get("delivery") == "at_most_once" else AsyncResult
    handle = cls.of_submitted(task_id, app, through)
    call = Call(task_id, kind, body, ext or None)
    return Prepared(through, call, handle, options, durability, publication)


def submit(prepared: Prepared, where: str) -> AsyncResult[Any]:
    """Submit from synchronous code.

    Raises:
        SubmitRejected: it was not accepted.
        SubmitUnknown: nobody knows whether it was.
        RuntimeError: it would block the running asyncio loop.
    """
    if in_running_loop():
        # Inside a task every call waits, for the owner of the task.
        if prepared.waits and not prepared.gateway.inside_task:
            raise blocking(where, prepared.waits)
        prepared.submit(0)
    else:
        prepared.submit(None)
    return prepared.handle


def blocking(where: str, option: str) -> RuntimeError:
    """The error for a call that must not wait, in a running loop, and would.

    Args:
        where: the method called, such as ``shop.add.delay()``.
        option: what makes it wait.
    """
    owner, dot, method = where.removesuffix("()").rpartition(".")
    return RuntimeError(
        f"{where}: {option} waits, which would block the running asyncio loop; "
        f"use await {owner}{dot}a{method}(...)"
    )


async def submit_async(app: App, prepared: Prepared) -> AsyncResult[Any]:
    """Submit from a coroutine: waits for room without blocking the loop.

    Raises:
        SubmitRejected: it was not accepted.
        SubmitUnknown: nobody knows whether it was.
    """
    if prepared.waits or prepared.gateway.inside_task:
        import asyncio

        await asyncio.to_thread(prepared.submit, None)
        return prepared.handle
    try:
        prepared.submit(0)
    except MeshOverloaded:
        from zmqtasks.app.mailbox import mailbox

        line_up = partial(prepared.gateway.line_up, (prepared.call,))
        await mailbox().submit(line_up, prepared.submit, app.settings.submit_timeout_s)
    return prepared.handle


def checked_options(options: Mapping[str, Any], where: str) -> CallOptions:
    """The options of a call, checked.

    Raises:
        ConfigError: an unknown option or a bad value.
    """
    check_call_options(options, where)
    return options  # type: ignore[return-value]  # its keys have just been checked


def check_arguments(args: object, kwargs: object, where: str) -> None:
    """Refuse what cannot be the arguments of a call.

    Raises:
        TypeError: ``args`` is no sequence of arguments, or ``kwargs`` no mapping.
    """
    if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
        raise TypeError(f"{where}: args is a tuple or list, not {type(args).__name__}")
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"{where}: kwargs is a dict, not {type(kwargs).__name__}")


# --- many -------------------------------------------------------------------------------


class Batches:
    """The calls of one ``delay_many``, batch by batch."""

    def __init__(
        self, task: Task[Any, Any], calls: Iterable[Any], durability: Durability, where: str
    ) -> None:
        app = task.app
        self._app = app
        self._task = task
        self._where = where
        self._signature = task.call_signature
        self._calls = iter(calls)
        #: Whether a route looks at each call.
        self._each_differs = app.rules.is_dynamic
        self.durability = durability
        self.gateway = gateway(app)
        self._count_max = min(BATCH_COUNT, app.settings.open_tasks_max)
        self._bytes_max = min(BATCH_BYTES, app.settings.open_bytes_max)
        self.results: ResultSet[Any] = ResultSet.of_submitted(app, self.gateway)
        #: Durable batches under way, with the number of calls in each; the oldest first.
        self._ahead: deque[tuple[Pending, int, list[Publication]]] = deque()
        #: Of the present batch, for hooks.
        self._publications: list[Publication] = []
        #: Calls of which nobody knows whether they were accepted.
        self._unsure_count = 0

    def __iter__(self) -> Iterator[list[Call]]:
        if self._app.is_hooked:
            yield from self._hooked()
            return
        if self._each_differs:
            yield from self._different()
            return
        while True:
            bodies = self._encode(islice(self._calls, self._count_max))
            if not bodies:
                return
            ids = self.gateway.new_ids(len(bodies))
            # For each batch, since what expires does so some time after now.
            kind, ext, _ = self._task.shape((), {}, {}, self._where)
            yield [
                _new_call(Call, (task_id, kind, body, dict(ext) if ext else None))
                for task_id, body in zip(ids, bodies, strict=True)
            ]

    def _different(self) -> Iterator[list[Call]]:
        """Batches whose calls each go where a route sends them."""
        while True:
            items = list(islice(self._calls, self._count_max))
            bodies = self._encode(items)
            if not bodies:
                return
            self._calls = chain(items[len(bodies) :], self._calls)
            calls = []
            for item, body in zip(items, bodies, strict=False):
                args, kwargs = ((), item) if isinstance(item, dict) else (item, _NO_KWARGS)
                kind, ext, _ = self._task.shape(args, kwargs, {}, self._where)
                calls.append(Call(self.gateway.new_ids(1)[0], kind, body, ext or None))
            yield calls

    def _hooked(self) -> Iterator[list[Call]]:
        """Batches whose calls hooks see one by one.

        Raises:
            ConfigError: middleware changed what holds for all of them.
        """
        while True:
            calls: list[Call] = []
            self._publications = []
            left = self._bytes_max
            for item in islice(self._calls, self._count_max):
                args, kwargs = self._arguments(item, len(self.results) + len(calls))
                prepared = self._task.prepared(args, kwargs, {}, self._where)
                options = prepared.options
                if prepared.durability is not self.durability or not (
                    {"delivery", "require_worker"}.isdisjoint(options)
                ):
                    raise ConfigError(
                        f"{self._where}: middleware cannot give one of many calls a durability, "
                        "delivery or require_worker of its own; let it leave them out"
                    )
                calls.append(prepared.call)
                if prepared.publication is not None:
                    self._publications.append(prepared.publication)
                left -= len(prepared.call.body)
                if left <= 0:
                    break
            if not calls:
                return
            yield calls

    @staticmethod
    def _arguments(item: Any, index: int) -> tuple[Sequence[Any], dict[str, Any]]:
        if isinstance(item, (tuple, list)):
            return item, _NO_KWARGS
        if isinstance(item, dict):
            return (), item
        raise TypeError(
            f"call {index} of delay_many is of type {type(item).__name__}; each is a tuple of "
            "arguments or a dict of keyword arguments: task.delay_many((x,) for x in ...)"
        )

    def _encode(self, items: Iterable[Any]) -> list[bytes]:
        match = self._signature.match
        encode = self._app.encode_arguments
        names = self._signature.names
        first = len(self.results)
        left = self._bytes_max
        bodies: list[bytes] = []
        for index, item in enumerate(items):
            if isinstance(item, (tuple, list)):
                match(*item)
                bodies.append(encode(item, _NO_KWARGS, names))
            else:
                _, kwargs = self._arguments(item, first + index)
                match(**kwargs)
                bodies.append(encode((), kwargs, names))
            left -= len(bodies[-1])
            if left <= 0:
                break
        return bodies

    def submit(self, batch: list[Call], wait_s: float | Place | None) -> None:
        """Hand over one batch; durable ones before it may still be on their way.

        Raises:
            SubmitRejected: this batch was not accepted, or an earlier one and with it all
                that came later.
            SubmitUnknown: nobody knows whether it was.
        """
        results = self.results
        # Known before it is submitted: the first outcome may be faster than we are.
        results.extend([call.id for call in batch])
        try:
            if self.durability is Durability.DISK:
                after = self._ahead[-1][0] if self._ahead else None
                pending = self.gateway.begin(batch, results, after=after, wait_s=wait_s)
            else:
                self.gateway.submit(batch, results, wait_s=wait_s)
                self._tell(self._publications)
                return
        except BaseException:
            results.retract(len(batch))
            raise
        self._ahead.append((pending, len(batch), self._publications))
        self._wait(AHEAD_COUNT)

    def finish(self) -> None:
        """Wait for the durable batches that are under way.

        Raises:
            SubmitRejected, SubmitUnknown: see :meth:`submit`.
        """
        self._wait(0)

    def _wait(self, left: int) -> None:
        ahead = self._ahead
        while len(ahead) > left:
            try:
                ahead[0][0].wait()
            except SubmitError as exc:
                count = sum(size for _, size, _ in ahead)
                for pending, _, _ in ahead:
                    pending.forget()
                ahead.clear()
                self.results.retract(count)
                if not isinstance(exc, SubmitRejected):
                    self._unsure_count = count
                raise
            self._tell(ahead.popleft()[2])

    @staticmethod
    def _tell(publications: list[Publication]) -> None:
        for publication in publications:
            publication.done()

    @property
    def are_under_way(self) -> bool:
        """``finish`` and ``failed`` have to wait."""
        return bool(self._ahead)

    def failed(self, exc: Exception) -> None:
        """Say with an error which calls were accepted, and which may have been."""
        try:
            self.finish()
        except SubmitError as other:
            exc.add_note(f"delay_many: before that, {other}")
        self.results.built()
        if len(self.results):
            exc.add_note(
                f"delay_many: the first {len(self.results):,} calls were submitted and run; "
                "their results are the exception's attribute 'accepted'"
            )
        if self._unsure_count:
            exc.add_note(f"delay_many: the {self._unsure_count:,} calls after them may run too")
        exc.accepted = self.results  # type: ignore[attr-defined]


def submit_many(batches: Batches, where: str) -> ResultSet[Any]:
    """Submit all batches from synchronous code.

    Raises:
        SubmitRejected: such as MeshOverloaded, when there was no room in time;
            ``accepted`` has the results of earlier batches.
        SubmitUnknown: nobody knows whether the batch was accepted.
        RuntimeError: it would block the running asyncio loop.
    """
    in_loop = in_running_loop()
    is_durable = batches.durability is Durability.DISK
    if in_loop and is_durable and not batches.gateway.inside_task:
        raise blocking(where, "durability='disk'")
    wait_s = 0 if in_loop else None
    try:
        for batch in batches:
            batches.submit(batch, wait_s)
        batches.finish()
    except Exception as exc:
        # Foreign iterables and arguments may raise anything; it goes on as it is.
        batches.failed(exc)
        raise
    batches.results.built()
    return batches.results


async def submit_many_async(app: App, batches: Batches) -> ResultSet[Any]:
    """Submit all batches from a coroutine, giving the loop a turn after each.

    Raises:
        SubmitRejected, SubmitUnknown: see :func:`submit_many`.
    """
    import asyncio

    from zmqtasks.app.mailbox import mailbox

    try:
        for batch in batches:
            if batches.durability is Durability.DISK or batches.gateway.inside_task:
                await asyncio.to_thread(batches.submit, batch, None)
            else:
                await mailbox().submit(
                    partial(batches.gateway.line_up, batch), partial(batches.submit, batch),
                    app.settings.submit_timeout_s,
                )  # fmt: skip
            await asyncio.sleep(0)
        if batches.are_under_way:
            await asyncio.to_thread(batches.finish)
    except Exception as exc:
        if batches.are_under_way:
            await asyncio.to_thread(batches.failed, exc)
        else:
            batches.failed(exc)
        raise
    batches.results.built()
    return batches.results


_new_call = tuple.__new__
