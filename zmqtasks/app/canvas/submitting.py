"""The calls of a group on their way to the gateway: batches of what can go together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqtasks.app.batches import Batches
from zmqtasks.app.canvas.group import Member
from zmqtasks.app.canvas.result import GroupResult
from zmqtasks.app.canvas.signature import Signature
from zmqtasks.app.current import gateway
from zmqtasks.app.publishing import Publication
from zmqtasks.app.submitting import Prepared, durability_of
from zmqtasks.core.calls import weight
from zmqtasks.errors import ConfigError
from zmqtasks.ids import format_task_id
from zmqtasks.node.gateway import Call, Durability
from zmqtasks.wire.messages import Kind

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.task import Task
    from zmqtasks.node.room import Place

#: The fact of a call that it belongs to a group.
GROUP_KEY = "g"
#: In place of an id that is yet to be made.
_NO_ID = b""


class How(NamedTuple):
    """What calls that are submitted together have in common."""

    durability: Durability
    require_worker_s: float | None = None
    delivery: str = "at_least_once"
    #: Why submitting them takes its time, "" if it does not.
    waits: str = ""
    #: Their callers chose their ids.
    is_chosen: bool = False


class Shape(NamedTuple):
    """What calls of a task without options of their own have in common."""

    task: Task[Any, Any]
    kind: Kind
    ext: dict[str, Any]
    how: How


class GroupCalls(Batches[GroupResult[Any]]):
    """The calls of a group.

    Args:
        members: all of them, at least one.
        app: of the first of them.
        group_id: of the group, as on the wire.
        where: the method called.
        cls: of the results.
    """

    def __init__(
        self, members: Iterator[Member], app: App, group_id: bytes, where: str,
        cls: type[GroupResult[Any]] = GroupResult,
    ) -> None:  # fmt: skip
        results = cls.of_group(group_id, app, gateway(app))
        super().__init__(app, results, Durability.MEMORY, where)
        self.app = app
        self._members: Iterator[Any] = members
        self._facts = {GROUP_KEY: group_id}
        self._how = How(Durability.MEMORY)
        #: {(app, task): how it is called without options}, for this batch: what expires does
        #: so some time after now.
        self._shapes: dict[tuple[App, str], Shape | None] = {}
        #: Apps whose calls go the same way as those of the first one.
        self._apps = {app}
        #: Ids that callers chose.
        self._chosen: set[bytes] = set()

    def group_result(self) -> GroupResult[Any]:
        """The results of the group, when all calls have been submitted."""
        return self.results

    @property
    def waits(self) -> str:
        """See ``Batches``."""
        return self._how.waits

    @property
    def _go_ahead(self) -> bool:
        return self.durability is Durability.DISK and not self._how.is_chosen

    def __iter__(self) -> Iterator[list[Call]]:
        batch: list[Call] = []
        told: list[Publication] = []
        how = self._how
        left = self._bytes_max
        for member in self._members:
            call, its_how, publication = self._call(member)
            is_full = len(batch) >= self._count_max or left <= 0
            if batch and (is_full or its_how != how):
                yield self._complete(batch, how, told)
                batch, told, left = [], [], self._bytes_max
            how = its_how
            batch.append(call)
            left -= weight(call.body, call.ext)
            if publication is not None:
                told.append(publication)
        if batch:
            yield self._complete(batch, how, told)

    def _complete(self, batch: list[Call], how: How, told: list[Publication]) -> list[Call]:
        """Make this the present batch."""
        self._how = how
        self.durability = how.durability
        self._publications = told
        self._shapes = {}
        ids = iter(self.gateway.new_ids(sum(not call[0] for call in batch)))
        return [call if call[0] else _new_call(Call, (next(ids), *call[1:])) for call in batch]

    def _call(self, member: Member) -> tuple[Call, How, Publication | None]:
        signature = member.signature
        if member.options or signature["options"] or type(signature) is not Signature:
            return self._prepared(member)
        app = signature.app
        key = app, signature["task"]
        shape = self._shapes.get(key)
        if shape is None:
            if key not in self._shapes:
                shape = self._shapes[key] = self._shape(app, signature)
            if shape is None:
                return self._prepared(member)
        task, kind, ext, how = shape
        args, kwargs = signature["args"], signature["kwargs"]
        if not signature["immutable"]:
            args = (*member.args, *args)
            kwargs = {**kwargs, **member.kwargs} if member.kwargs else kwargs
        known = task.call_signature
        known.match(*args, **kwargs)
        body = app.encode_arguments(args, kwargs, known.names)
        return _new_call(Call, (_NO_ID, kind, body, {**ext, **self._facts})), how, None

    def _shape(self, app: App, signature: Signature[Any]) -> Shape | None:
        """None: each call of it differs, or somebody wants to see it."""
        self._check_app(app)
        task = app.tasks.get(signature["task"])
        if task is None or app.is_hooked or app.rules.is_dynamic:
            return None
        kind, ext, complete = task.shape((), {}, {}, self._where)
        durability = durability_of(app, task.durability, complete, self._where)
        waits = "durability='disk'" if durability is Durability.DISK else ""
        return Shape(task, kind, ext, How(durability, waits=waits))

    def _prepared(self, member: Member) -> tuple[Call, How, Publication | None]:
        signature, args, kwargs, options = member
        self._check_app(signature.app)
        return self._found(signature.prepared(args, kwargs, options, self._where, self._facts))

    def _found(self, prepared: Prepared) -> tuple[Call, How, Publication | None]:
        """A call that has all, and how it is submitted."""
        found = prepared.options
        is_chosen = bool(found.get("idempotency_key") or found.get("task_id"))
        if is_chosen:
            self._check_new(prepared)
        how = How(
            prepared.durability,
            found.get("require_worker"),
            found.get("delivery") or "at_least_once",
            prepared.waits,
            is_chosen,
        )
        return prepared.call, how, prepared.publication

    def _check_app(self, app: App) -> None:
        if app in self._apps:
            return
        if gateway(app) is not self.gateway:
            raise ConfigError(
                f"{self._where}: App({app.name!r}) and App({self.app.name!r}) have different "
                "settings, so their calls go different ways; make a group of each"
            )
        self._apps.add(app)

    def _check_new(self, prepared: Prepared) -> None:
        task_id = prepared.call.id
        if task_id in self._chosen:
            raise ConfigError(
                f"{self._where}: two calls of the group are the same task "
                f"{format_task_id(task_id)}, by task_id or idempotency_key; leave one of them out"
            )
        self._chosen.add(task_id)

    def _extend(self, batch: list[Call]) -> None:
        ids = [call.id for call in batch]
        if self._how.delivery == "at_most_once":
            self.results.extend_loosely(ids)
        else:
            self.results.extend(ids)

    def _hand_over(self, batch: list[Call], wait_s: float | Place | None) -> None:
        how = self._how
        self.gateway.submit(
            batch,
            self.results,
            wait_s=wait_s,
            require_worker_s=how.require_worker_s,
            delivery=how.delivery,
            durability=how.durability,
        )


_new_call = tuple.__new__
