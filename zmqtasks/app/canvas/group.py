"""Many calls that go out together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import uuid4

from zmqtasks.app.batches import submit_many, submit_many_async
from zmqtasks.app.canvas.result import GroupResult
from zmqtasks.app.canvas.signature import Signature, maybe_signature, merged_options
from zmqtasks.app.current import all_apps
from zmqtasks.app.options import check_call_options
from zmqtasks.app.resultset import ResultSet
from zmqtasks.app.submitting import check_arguments
from zmqtasks.errors import ConfigError
from zmqtasks.ids import format_task_id, parse_task_id

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.canvas.submitting import GroupCalls
    from zmqtasks.app.result import AsyncResult
    from zmqtasks.app.task import Task

R = TypeVar("R")
#: Members that ``repr`` shows.
_REPR_COUNT = 5


#: Options of a group that its members do not have.
_OF_THE_GROUP = frozenset({"task_id", "link"})


class Member(NamedTuple):
    """One call of a group, and what the group adds to it."""

    signature: Signature[Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    #: Of the group; they come over those of the signature.
    options: Mapping[str, Any]


class SignatureGenerator:
    """Signatures that are made while they are submitted, which can be done once.

    Args:
        signatures: an iterator.
    """

    def __init__(self, signatures: Iterator[Any]) -> None:
        self._signatures: Iterator[Any] | None = signatures

    def take(self) -> Iterator[Any]:
        """All of them.

        Raises:
            ConfigError: they have been taken.
        """
        found, self._signatures = self._signatures, None
        if found is None:
            raise ConfigError(
                "this group was made of a generator, which has been used up: it can be submitted "
                "once; to do it again make it of a list: group(list(...))"
            )
        return found

    def __repr__(self) -> str:
        return "<generator>"


class group(Signature[R]):  # noqa: N801 - Celery's name
    """Signatures whose calls go out together, and have their results together.

    Args:
        tasks: signatures, or one iterable of them. Those of a generator are made while they
            are submitted: that can be done once, and such a group cannot travel.
        app: the App; by default that of the first signature.
        options: of the call, for each of them; ``task_id`` is the id of the group.

    Raises:
        TypeError: something else than signatures.
        ConfigError: an unknown option or a bad value.
    """

    def __init__(
        self, *tasks: Signature[R] | Iterable[Signature[R]], app: App | None = None, **options: Any
    ) -> None:
        super().__init__("zmqtasks.group", (), {}, None, "group", False, app, **options)
        given: Any = tasks[0] if len(tasks) == 1 else tasks
        if isinstance(given, group):
            self["kwargs"]["tasks"] = given.kwargs["tasks"]
        elif isinstance(given, Mapping):
            self["kwargs"]["tasks"] = [_member(given)]
        elif isinstance(given, Iterator):
            self["kwargs"]["tasks"] = SignatureGenerator(given)
        elif isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
            self["kwargs"]["tasks"] = [_member(each) for each in given]
        else:
            _member(given)

    @classmethod
    def _from_dict(cls, d: Mapping[str, Any], app: App | None) -> group[Any]:
        tasks = (d.get("kwargs") or {}).get("tasks")
        if isinstance(tasks, SignatureGenerator):
            tasks = tasks.take()
        elif not isinstance(tasks, (list, tuple)):
            raise ConfigError(f"no group: its tasks are a list of signatures, not {tasks!r:.75}")
        found: group[Any] = cls(tasks, app=app, **(d.get("options") or {}))
        found["immutable"] = bool(d.get("immutable"))
        if app is None and d.get("app") is not None:
            found["app"] = d["app"]
        return found

    # --- its members --------------------------------------------------------------------

    @property
    def tasks(self) -> list[Signature[R]]:
        """Its signatures; those of a generator are made now, and kept."""
        found = self.kwargs["tasks"]
        if isinstance(found, SignatureGenerator):
            found = self.kwargs["tasks"] = [_member(each) for each in found.take()]
        return found  # type: ignore[no-any-return]  # made in this very class

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Signature[R]]:  # type: ignore[override]
        return iter(self.tasks)

    def __bool__(self) -> bool:
        return True  # as a signature; an empty one can be called, too

    def signatures(self) -> Iterator[Signature[R]]:
        """The same, one after the other; those of a generator are used up by this."""
        found = self.kwargs["tasks"]
        return map(_member, found.take()) if isinstance(found, SignatureGenerator) else iter(found)

    def members(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Iterator[Member]:
        """All calls, those of groups within it, too.

        Args:
            args, kwargs: for each of them.
            options: for each of them; they come over the group's own.
        """
        own = {key: value for key, value in self.options.items() if key not in _OF_THE_GROUP}
        merged = merged_options(own, options)
        if self.immutable:
            args, kwargs = (), {}
        for each in self.signatures():
            if isinstance(each, group):
                yield from each.members(args, kwargs, merged)
            else:
                yield Member(each, args, kwargs, merged)

    @property
    def app(self) -> App:
        """The App that it is called through: its own, else that of its first signature."""
        if self._app is None and "app" not in self:
            found = self.kwargs["tasks"]
            first = next(iter(found), None) if isinstance(found, list) else None
            if first is not None:
                self._app = first.app
        return super().app

    @property
    def type(self) -> Task[Any, R]:
        """Refused: a group is many tasks.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a group is no task, its members are: see group.tasks")

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> group[R]:
        """Let its calls start one after the other: give each a ``countdown``; returns itself.

        Args:
            start: seconds, of the first one.
            stop: the most seconds; from there on all have the same.
            step: seconds between two.
        """
        skewed = []
        countdown = start
        for each in self.tasks:
            skewed.append(each.clone().set(countdown=countdown))
            if not stop or countdown + step <= stop:
                countdown += step
        self.kwargs["tasks"] = skewed
        return self

    def clone(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> group[R]:
        """A copy of it with more arguments for each signature, and options."""
        if self.immutable:
            args, kwargs = None, None
        tasks = [each.clone(args, kwargs) for each in self.tasks]
        found: group[R] = group(tasks, app=self._app, **{**self.options, **options})
        found["immutable"] = self.immutable
        return found

    partial = clone

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> group[R]:
        """A copy of it with other arguments of each signature, or other options of its own."""
        tasks = [each.replace(args, kwargs) for each in self.tasks]
        kept = self.options if options is None else options
        found: group[R] = group(tasks, app=self._app, **kept)
        found["immutable"] = self.immutable
        return found

    def freeze(self, _id: str | None = None) -> GroupResult[R]:  # type: ignore[override]
        """Give it and each call an id, unless they have one.

        Args:
            _id: of the group; by default a new one.

        Returns:
            The results of these calls, which are not submitted.
        """
        self.options.setdefault("task_id", _id or str(uuid4()))
        handles: list[AsyncResult[R]] = []
        for each in self.tasks:
            frozen: Any = each.freeze()
            handles.extend(frozen if isinstance(frozen, ResultSet) else [frozen])
        return GroupResult(self.options["task_id"], handles, self._app)

    # --- calling it ---------------------------------------------------------------------

    def __call__(self, *partial_args: Any, **options: Any) -> GroupResult[R]:
        """Same as ``apply_async(partial_args, **options)``."""
        return self.apply_async(partial_args, **options)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> GroupResult[R]:  # type: ignore[override]
        """Same as ``apply_async(partial_args, partial_kwargs)``."""
        return self.apply_async(partial_args, partial_kwargs)

    async def adelay(self, *partial_args: Any, **partial_kwargs: Any) -> GroupResult[R]:  # type: ignore[override]
        """Same as ``delay``, waiting without blocking the running loop."""
        return await self.aapply_async(partial_args, partial_kwargs)

    def apply_async(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> GroupResult[R]:
        """Let workers run all of it; far cheaper than as many calls one by one.

        Args:
            args: positional arguments that come before those of each signature.
            kwargs: keyword arguments that come over those of each.
            options: as of ``Task.apply_async``, for each; they come over its own. ``task_id``
                is the id of the group.

        Raises:
            ConfigError: an unknown option or a bad value.
            TypeError: arguments do not fit a function.
            SubmitRejected: a call was not accepted. Calls are submitted in batches of 1,000;
                the results of those accepted before are the exception's ``accepted``.
            SubmitUnknown: nobody knows whether it was.
            RuntimeError: it would block the running asyncio loop.
        """
        where = "group.apply_async()"
        if self._is_eager:
            return self.apply(args, kwargs, **options)
        calls = self._calls(args, kwargs, options, where)
        if isinstance(calls, GroupResult):
            return calls
        submit_many(calls, where)
        return calls.group_result()

    async def aapply_async(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> GroupResult[R]:
        """Same as ``apply_async``, waiting for room and disk without blocking the loop."""
        if self._is_eager:
            return await self.aapply(args, kwargs, **options)
        calls = self._calls(args, kwargs, options, "group.aapply_async()")
        if isinstance(calls, GroupResult):
            return calls
        await submit_many_async(calls.app, calls)
        return calls.group_result()

    def _calls(
        self,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        where: str,
    ) -> GroupCalls | GroupResult[R]:
        """The calls, ready to be submitted; an empty group has its results at once."""
        from zmqtasks.app.canvas.submitting import GroupCalls

        if self._has_workflows or self.options.get("link") or options.get("link"):
            from zmqtasks.app.canvas.workflow import GroupOfWorkflows

            return GroupOfWorkflows(self, args, kwargs, options, where)
        group_id, members = self.opened(args, kwargs, options, where)
        first = next(members, None)
        if first is None:
            return GroupResult(format_task_id(group_id), (), self._app)
        return GroupCalls(chain((first,), members), first.signature.app, group_id, where)

    @property
    def _has_workflows(self) -> bool:
        """Some of its calls come after others."""
        found = self.kwargs["tasks"]
        return isinstance(found, list) and any(
            each["subtask_type"] in ("chain", "chord")
            or each["options"].get("link")
            or (isinstance(each, group) and each._has_workflows)
            for each in found
        )

    def opened(
        self,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        where: str,
    ) -> tuple[bytes, Iterator[Member]]:
        """The group's id and its calls."""
        args, kwargs = args or (), kwargs or {}
        check_arguments(args, kwargs, where)
        given = {key: value for key, value in options.items() if value is not None}
        check_call_options({**self.options, **given}, where)
        given.pop("link", None)
        group_id = parse_task_id(given.pop("task_id", None) or self.id or str(uuid4()))
        return group_id, self.members(tuple(args), kwargs, given)

    @property
    def _is_eager(self) -> bool:
        if self._app is not None:
            return self._app.is_eager
        # The App of a generator's first signature is not known before that is made.
        is_generated = isinstance(self.kwargs["tasks"], SignatureGenerator)
        if is_generated and not any(app.is_eager for app in all_apps()):
            return False
        return bool(self.tasks) and self.app.is_eager

    def apply(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> GroupResult[R]:
        """Run all of it here and now, one after the other; see ``Task.apply``."""
        result = self.applied(args or (), kwargs or {}, options, {})
        if throw is None:
            throw = bool(len(result)) and result[0].app.conf.of_tasks("task_eager_propagates")
        if throw:
            result.maybe_throw()
        return result

    def applied(  # type: ignore[override]
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        facts: Mapping[str, Any],
    ) -> GroupResult[R]:
        """See ``Signature.applied``."""
        from zmqtasks.app.canvas.submitting import GROUP_KEY
        from zmqtasks.app.eager import EagerGroupResult, call_links

        group_id, members = self.opened(args, kwargs, options, "group.apply()")
        facts = {**facts, GROUP_KEY: group_id}
        handles: list[AsyncResult[R]] = [
            each.signature.applied(each.args, each.kwargs, each.options, facts) for each in members
        ]
        result = EagerGroupResult(format_task_id(group_id), handles, self._app)
        call_links(merged_options(self.options, options).get("link"), result, self._app)
        return result

    async def aapply(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> GroupResult[R]:
        """Same as ``apply`` in a thread, so that the running loop is not blocked."""
        import asyncio

        return await asyncio.to_thread(self.apply, args, kwargs, throw=throw, **options)

    def __invert__(self) -> list[R]:  # type: ignore[override]
        """``~group``: let workers run it, and wait for the results."""
        return self.apply_async().get()

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """It as Python would call it."""
        found = self.kwargs["tasks"]
        if isinstance(found, SignatureGenerator):
            return f"group({found!r})"
        shown = [each.reprcall(*args, **kwargs) for each in islice(found, _REPR_COUNT)]
        more = f", … ({len(found):,} in all)" if len(found) > _REPR_COUNT else ""
        return f"group([{', '.join(shown)}{more}])"


def _member(each: Any) -> Signature[Any]:
    if not isinstance(each, Mapping):
        raise TypeError(f"a group is made of signatures, such as task.s(2, 3), not of {each!r:.75}")
    found = maybe_signature(each)
    assert found is not None, "it is a mapping"
    return found


Signature.types["group"] = group
