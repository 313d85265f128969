"""Many calls at once: batches of them on their way to the gateway."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zmqtasks.app.current import gateway, in_running_loop
from zmqtasks.app.publishing import Publication
from zmqtasks.app.resultset import ResultSet
from zmqtasks.app.submitting import blocking
from zmqtasks.errors import ConfigError, SubmitError, SubmitRejected, SubmitUnknown
from zmqtasks.node.gateway import Call, Durability, Pending

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.task import Task
    from zmqtasks.node.room import Place

#: What one batch may hold at most.
BATCH_COUNT = 1_000
BATCH_BYTES = 1024 * 1024
#: Durable batches that may be under way while the next one is made.
AHEAD_COUNT = 2

_NO_KWARGS: dict[str, Any] = {}

Set = TypeVar("Set", bound=ResultSet[Any])


class Batches(Generic[Set]):
    """Calls that are submitted batch by batch; subclasses make them, by iteration.

    Args:
        results: of all these calls, still empty.
        durability: of the first batch.
        where: the method called, such as ``shop.add.delay_many()``.
    """

    def __init__(self, app: App, results: Set, durability: Durability, where: str) -> None:
        self._app = app
        self._where = where
        #: The method's name.
        self._what = where.removesuffix("()").rpartition(".")[2]
        self.results = results
        #: Of the present batch.
        self.durability = durability
        self.gateway = gateway(app)
        self._count_max = min(BATCH_COUNT, app.settings.open_tasks_max)
        self._bytes_max = min(BATCH_BYTES, app.settings.open_bytes_max)
        #: Durable batches under way, with the number of calls in each; the oldest first.
        self._ahead: deque[tuple[Pending, int, list[Publication]]] = deque()
        #: Of the present batch, for hooks.
        self._publications: list[Publication] = []
        #: Calls of which nobody knows whether they were accepted.
        self._unsure_count = 0

    def __iter__(self) -> Iterator[list[Call]]:
        yield from ()

    @property
    def waits(self) -> str:
        """Why submitting the present batch takes its time, "" if it does not."""
        return "durability='disk'" if self.durability is Durability.DISK else ""

    @property
    def _go_ahead(self) -> bool:
        """The next batch may be made while the present one is under way."""
        return self.durability is Durability.DISK

    def submit(self, batch: list[Call], wait_s: float | Place | None) -> None:
        """Hand over one batch; durable ones before it may still be on their way.

        Raises:
            SubmitRejected: this batch was not accepted, or an earlier one and with it all
                that came later.
            SubmitUnknown: nobody knows whether it was.
        """
        results = self.results
        # Known before it is submitted: the first outcome may be faster than we are.
        self._extend(batch)
        try:
            if self._go_ahead:
                after = self._ahead[-1][0] if self._ahead else None
                pending = self.gateway.begin(batch, results, after=after, wait_s=wait_s)
            else:
                self._wait(0)  # what was accepted has to be the first so many calls
                try:
                    self._hand_over(batch, wait_s)
                except SubmitUnknown:
                    self._unsure_count = len(batch)
                    raise
                self._tell(self._publications)
                return
        except BaseException:
            results.retract(len(batch))
            raise
        self._ahead.append((pending, len(batch), self._publications))
        self._wait(AHEAD_COUNT)

    def _extend(self, batch: list[Call]) -> None:
        self.results.extend([call.id for call in batch])

    def _hand_over(self, batch: list[Call], wait_s: float | Place | None) -> None:
        self.gateway.submit(batch, self.results, wait_s=wait_s)

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
            exc.add_note(f"{self._what}: before that, {other}")
        self.results.built()
        if len(self.results):
            exc.add_note(
                f"{self._what}: the first {len(self.results):,} calls were submitted and run; "
                "their results are the exception's attribute 'accepted'"
            )
        if self._unsure_count:
            exc.add_note(f"{self._what}: the {self._unsure_count:,} calls after them may run too")
        exc.accepted = self.results  # type: ignore[attr-defined]


class CallsOfTask(Batches[ResultSet[Any]]):
    """The calls of one ``delay_many``."""

    def __init__(
        self, task: Task[Any, Any], calls: Iterable[Any], durability: Durability, where: str
    ) -> None:
        app = task.app
        super().__init__(app, ResultSet.of_submitted(app, gateway(app)), durability, where)
        self._task = task
        self._signature = task.call_signature
        self._calls = iter(calls)
        #: Whether a route looks at each call.
        self._each_differs = app.rules.is_dynamic

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


def submit_many(batches: Batches[Set], where: str) -> Set:
    """Submit all batches from synchronous code.

    Raises:
        SubmitRejected: such as MeshOverloaded, when there was no room in time;
            ``accepted`` has the results of earlier batches.
        SubmitUnknown: nobody knows whether the batch was accepted.
        RuntimeError: it would block the running asyncio loop.
    """
    in_loop = in_running_loop()
    wait_s = 0 if in_loop else None
    try:
        for batch in batches:
            if in_loop and batches.waits and not batches.gateway.inside_task:
                raise blocking(where, batches.waits)
            batches.submit(batch, wait_s)
        batches.finish()
    except Exception as exc:
        # Foreign iterables and arguments may raise anything; it goes on as it is.
        batches.failed(exc)
        raise
    batches.results.built()
    return batches.results


async def submit_many_async(app: App, batches: Batches[Set]) -> Set:
    """Submit all batches from a coroutine, giving the loop a turn after each.

    Raises:
        SubmitRejected, SubmitUnknown: see :func:`submit_many`.
    """
    import asyncio

    from zmqtasks.app.mailbox import mailbox

    try:
        for batch in batches:
            if batches.waits or batches.gateway.inside_task:
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
