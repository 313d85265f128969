"""The calls of a workflow: each may wait for the results of others.

All of them are submitted at once. One that comes after others names them in its facts, and
whoever owns it lets it wait and gives it their results (``core/inputs.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias
from uuid import uuid4

from zmqtasks.app.batches import submit_many, submit_many_async
from zmqtasks.app.callbacks import listed
from zmqtasks.app.canvas.group import Member, group
from zmqtasks.app.canvas.result import GroupResult, WorkflowResult
from zmqtasks.app.canvas.signature import Signature, linked_signature, merged_options
from zmqtasks.app.canvas.submitting import GROUP_KEY, GroupCalls, How
from zmqtasks.app.errbacks import packed_errbacks
from zmqtasks.app.fact_keys import CHORD_KEY, IGNORED_KEY
from zmqtasks.app.options import check_call_options
from zmqtasks.app.publishing import Publication
from zmqtasks.app.submitting import Prepared, check_arguments
from zmqtasks.core.calls import INPUTS_KEY
from zmqtasks.core.offspring import ERRBACKS_KEY, derived_id
from zmqtasks.errors import ConfigError
from zmqtasks.ids import format_task_id
from zmqtasks.limits import INPUTS_COUNT_MAX
from zmqtasks.node.gateway import Call

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.eager import EagerResult
    from zmqtasks.app.result import AsyncResult


#: Options of a workflow that each of its calls has.
_OF_ALL = ("durability", "link_error", "stamps")


class Split(NamedTuple):
    """Where the options of a workflow go."""

    #: What comes after the whole.
    links: object
    first: dict[str, Any]
    #: Those in between.
    others: dict[str, Any]
    last: dict[str, Any]


class GroupSource(list[Any]):
    """The sources of the members of a group.

    Args:
        group_id: as on the wire.
        sources: of each of them.
    """

    def __init__(self, group_id: bytes, sources: Iterable[Source]) -> None:
        super().__init__(sources)
        self.group_id = group_id


#: What whatever comes after a part of a workflow waits for.
Source: TypeAlias = bytes | GroupSource


class WorkflowCalls(GroupCalls):
    """The calls of a workflow, each after those that it waits for.

    Args:
        app: of its first call.
        where: the method called.
    """

    def __init__(self, app: App, where: str) -> None:
        super().__init__(iter(()), app, uuid4().bytes, where, WorkflowResult)
        self._facts = {}
        #: All that are planned, in order.
        self.prepared: list[Prepared] = []
        #: {which errback: what the ids of its calls are made of}; one that several calls have is
        #: called once when they fail for the same reason.
        self._seeds: dict[int, bytes] = {}
        #: Of what the ids of calls are made, where the caller chose that of what they are
        #: linked to: called again it is the same task, and so are they.
        self._chosen_by: tuple[bytes, Iterator[int]] | None = None
        #: {task id: its facts}, of calls whose results are not kept.
        self._ignored: dict[bytes, dict[str, Any]] = {}
        #: {id of a task or a group: what it comes after}
        self._before: dict[bytes, Source] = {}
        #: {task id: those that come after it}, once somebody has asked.
        self._followers: dict[bytes, list[bytes]] | None = None

    def plan(self, member: Member, before: Source | None) -> Source:
        """Add the calls of a signature.

        Args:
            member: the signature, and what is added to its first calls.
            before: what it comes after, None for nothing.

        Returns:
            What whatever comes after it waits for.
        """
        found, args, kwargs, options = member
        if isinstance(found, Workflow):
            return found.planned(self, args, kwargs, options, before)
        if isinstance(found, group):
            return self.plan_group(found, args, kwargs, options, before)
        app = found.app
        self._check_app(app)
        facts: dict[str, Any] = dict(self._facts)
        if before is not None:
            facts[INPUTS_KEY] = _inputs(before, self._where, wanted=not found.immutable)
            if self._ignored and not found.immutable:
                self._keep_results(before)
        complete = merged_options(found.options, options)
        links, errbacks = listed(complete.get("link")), listed(complete.get("link_error"))
        if errbacks:
            seeds = [self._seeds.setdefault(id(each), uuid4().bytes) for each in errbacks]
            is_body = isinstance(before, GroupSource) or bool(complete.get("after"))
            facts[ERRBACKS_KEY] = packed_errbacks(
                app, errbacks, self._where, seeds=seeds, is_for_inputs=is_body
            )
        if self._chosen_by is not None and not _is_chosen(complete):
            complete["task_id"] = self._next_id()
        own = {**complete, "link": (), "link_error": ()}
        prepared = found.prepared(args, kwargs, own, self._where, facts)
        self._check_owned(prepared)
        self.prepared.append(prepared)
        task_id = prepared.call.id
        if prepared.call.ext is not None and IGNORED_KEY in prepared.call.ext:
            self._ignored[task_id] = prepared.call.ext
        if before is not None:
            self._before[task_id] = before
        self._plan_links(links, task_id, is_chosen=_is_chosen(complete))
        return task_id

    def _keep_results(self, source: Source) -> None:
        """Somebody wants them after all."""
        for leaf in _leaves(source):
            ext = self._ignored.pop(leaf, None)
            if ext is not None:
                del ext[IGNORED_KEY]

    def plan_links(self, links: object, source: Source) -> None:
        """Add calls that come after a part of the workflow, and have no part in its result."""
        self._plan_links(listed(links), source, is_chosen=False)

    def _plan_links(
        self, links: list[Mapping[str, Any]], source: Source, *, is_chosen: bool
    ) -> None:
        if not links:
            return
        before = self._facts, self._chosen_by
        self._facts = {}
        if is_chosen and isinstance(source, bytes) and self._chosen_by is None:
            self._chosen_by = source, count(1)
        for each in links:
            self.plan(Member(linked_signature(each, self.app), (), {}, {}), source)
        self._facts, self._chosen_by = before

    def _next_id(self) -> str:
        assert self._chosen_by is not None
        first, numbers = self._chosen_by
        return format_task_id(derived_id(first, b"link" + next(numbers).to_bytes(4, "big")))

    def plan_header(
        self, found: group[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any],
        options: Mapping[str, Any], before: Source | None,
    ) -> Source:  # fmt: skip
        """Add the calls of a group that something comes after; see ``plan``."""
        first = len(self.prepared)
        source = self.plan_group(found, args, kwargs, options, before)
        members = set(_leaves(source))
        for each in self.prepared[first:]:
            if each.call.id in members:
                assert each.call.ext is not None, "its group is there"
                each.call.ext[CHORD_KEY] = 1
        return source

    def plan_group(
        self, found: group[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any],
        options: Mapping[str, Any], before: Source | None,
    ) -> Source:  # fmt: skip
        """Add the calls of a group; see ``plan``."""
        links = merged_options(found.options, options).get("link")
        group_id, members = found.opened(args, kwargs, options, self._where)
        if before is not None:
            self._before[group_id] = before
        outer, self._facts = self._facts, {GROUP_KEY: group_id}
        try:
            source = GroupSource(group_id, [self.plan(member, before) for member in members])
        finally:
            self._facts = outer
        self.plan_links(links, source)
        return source

    def _check_owned(self, prepared: Prepared) -> None:
        found = prepared.options
        if found.get("delivery") == "at_most_once":
            raise ConfigError(
                f"{self._where}: delivery='at_most_once' of {prepared.call.kind.name} forgets the "
                "call once it is sent, so nothing could come after it; leave it out"
            )
        if found.get("idempotency_key") or found.get("task_id"):
            self._check_new(prepared)

    def __iter__(self) -> Iterator[list[Call]]:
        self._members = iter(self.prepared)  # see ``_call``
        self._chosen.clear()  # they have been compared, and are once more
        return super().__iter__()

    def _call(self, member: Any) -> tuple[Call, How, Publication | None]:
        return self._found(member)

    def result(self, source: Source) -> AsyncResult[Any] | GroupResult[Any]:
        """The result of a part of the workflow, which has been submitted."""
        if isinstance(source, bytes):
            return self.handle_of(source)
        handles = [self.handle_of(leaf) for leaf in _leaves(source)]
        found = GroupResult(format_task_id(source.group_id), handles, self.app)
        found.find_parent = partial(self._parent_of, source.group_id)
        return found

    def handle_of(self, task_id: bytes) -> AsyncResult[Any]:
        """The result of one of them."""
        assert isinstance(self.results, WorkflowResult), "made by us"
        return self.results.handle_of(task_id, self._parent_of, self._followers_of)

    def _parent_of(self, part_id: bytes) -> AsyncResult[Any] | GroupResult[Any] | None:
        before = self._before.get(part_id)
        return None if before is None else self.result(before)

    def _followers_of(self, task_id: bytes) -> list[AsyncResult[Any] | GroupResult[Any]]:
        if self._followers is None:
            self._followers = {}
            for part_id, before in self._before.items():
                if self.results.has(part_id):  # a group comes after what its calls come after
                    for leaf in _leaves(before):
                        self._followers.setdefault(leaf, []).append(part_id)
        return [self.handle_of(part_id) for part_id in self._followers.get(task_id, ())]


def _is_chosen(options: Mapping[str, Any]) -> bool:
    return bool(options.get("task_id") or options.get("idempotency_key"))


def _leaves(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
    else:
        for part in source:
            yield from _leaves(part)


def _inputs(before: Source, where: str, *, wanted: bool) -> list[Any]:
    """The fact of a call that it waits for these; ``wanted``: their results are its first
    argument."""
    positions: dict[bytes, int] = {}

    def shape(source: Source) -> Any:
        if isinstance(source, bytes):
            return positions.setdefault(source, len(positions))
        return [shape(part) for part in source]

    found = shape(before)
    if len(positions) > INPUTS_COUNT_MAX:
        raise ConfigError(
            f"{where}: a call waits for {INPUTS_COUNT_MAX:,} others at most, and one comes "
            f"after {len(positions):,}; put calls in between that each collect a part"
        )
    return [list(positions), found if wanted else None]


def submit_linked(
    found: Signature[Any], args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any], where: str,
) -> AsyncResult[Any]:  # fmt: skip
    """Submit a call with those that are linked to it; returns its result."""
    calls, task_id = _linked(found, args, kwargs, options, where)
    submit_many(calls, where)
    return calls.handle_of(task_id)


async def submit_linked_async(
    found: Signature[Any], args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any], where: str,
) -> AsyncResult[Any]:  # fmt: skip
    """Same as ``submit_linked``, waiting without blocking the loop."""
    calls, task_id = _linked(found, args, kwargs, options, where)
    await submit_many_async(calls.app, calls)
    return calls.handle_of(task_id)


def _linked(
    found: Signature[Any], args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any], where: str,
) -> tuple[WorkflowCalls, bytes]:  # fmt: skip
    args, kwargs = args or (), kwargs or {}
    check_arguments(args, kwargs, where)
    check_call_options({**found.options, **options}, where)
    calls = WorkflowCalls(found.app, where)
    task_id = calls.plan(Member(found, tuple(args), kwargs, options), None)
    assert isinstance(task_id, bytes), "of a signature that is no workflow and no group"
    return calls, task_id


class GroupOfWorkflows(WorkflowCalls):
    """The calls of a group some of which come after others."""

    def __init__(
        self, found: group[Any], args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any], where: str,
    ) -> None:  # fmt: skip
        super().__init__(found.app, where)
        args, kwargs = args or (), kwargs or {}
        check_arguments(args, kwargs, where)
        self._source = self.plan_group(found, tuple(args), kwargs, options, None)

    def group_result(self) -> GroupResult[Any]:
        """See ``GroupCalls``."""
        found = self.result(self._source)
        assert isinstance(found, GroupResult), "the source of a group"
        return found


class Workflow(Signature[Any]):
    """The part that chains and chords have in common. What is given to ``apply_async`` beside
    the arguments goes to its first calls, ``task_id`` to the last one."""

    # --- for whoever makes one ------------------------------------------------------------

    def planned(
        self, calls: WorkflowCalls, args: tuple[Any, ...], kwargs: Mapping[str, Any],
        options: Mapping[str, Any], before: Source | None,
    ) -> Source:  # fmt: skip
        """Add its calls; see ``WorkflowCalls.plan``."""
        raise AssertionError("each kind of workflow does that in its own way")

    def firsts(self) -> Iterator[Signature[Any]]:
        """What is called first."""
        raise AssertionError("each kind of workflow does that in its own way")

    def parts(self) -> list[Signature[Any]]:
        """What it is made of, in order."""
        raise AssertionError("each kind of workflow does that in its own way")

    def _split(self, options: Mapping[str, Any]) -> Split:
        merged = merged_options(self.options, options)
        check_call_options(merged, f"signature of {self.task}")
        of_last = {key: merged.pop(key) for key in ("task_id",) if key in merged}
        of_all = {key: merged.pop(key) for key in _OF_ALL if key in merged}
        return Split(merged.pop("link", None), {**of_all, **merged}, of_all, {**of_all, **of_last})

    # --- calling it -----------------------------------------------------------------------

    @property
    def app(self) -> App:
        """The App that it is called through: its own, else that of its first call."""
        if self._app is None and "app" not in self:
            first = next(self.firsts(), None)
            if first is not None:
                self._app = first.app
        return super().app

    def __call__(self, *partial_args: Any, **options: Any) -> Any:
        """Same as ``apply_async(partial_args, **options)``."""
        return self.apply_async(partial_args, **options)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Let workers run all of it.

        Args:
            args: positional arguments that come before those of its first calls.
            kwargs: keyword arguments that come over those of its first calls.
            options: of its first calls; ``task_id`` of the last one.

        Returns:
            The result of the last call, or those of the last group. Those before it are
            ``result.parent``.

        Raises:
            ConfigError: an unknown option or a bad value, or a call that nobody would own.
            TypeError: arguments do not fit a function.
            SubmitRejected: a call was not accepted. Calls are submitted in batches of 1,000, in
                an order in which none comes before those that it waits for; the results of
                those accepted before are the exception's ``accepted``.
            SubmitUnknown: nobody knows whether it was.
            RuntimeError: it would block the running asyncio loop.
        """
        if self.app.is_eager:
            return self.apply(args, kwargs, **options)
        where = f"{self.subtask_type}.apply_async()"
        calls, source = self._calls(args, kwargs, options, where)
        submit_many(calls, where)
        return calls.result(source)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Same as ``apply_async``, waiting for room and disk without blocking the loop."""
        if self.app.is_eager:
            return await self.aapply(args, kwargs, **options)
        calls, source = self._calls(args, kwargs, options, f"{self.subtask_type}.aapply_async()")
        await submit_many_async(calls.app, calls)
        return calls.result(source)

    def _calls(
        self,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        where: str,
    ) -> tuple[WorkflowCalls, Source]:
        args, kwargs = args or (), kwargs or {}
        check_arguments(args, kwargs, where)
        calls = WorkflowCalls(self.app, where)
        return calls, self.planned(calls, tuple(args), kwargs, options, None)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> EagerResult[Any]:
        """Run all of it here and now, one after the other; see ``Task.apply``."""
        args, kwargs = args or (), kwargs or {}
        check_arguments(args, kwargs, f"{self.subtask_type}.apply()")
        result = self.applied(args, kwargs, options, {})
        if throw is None:
            throw = bool(self.app.conf.of_tasks("task_eager_propagates"))
        if throw:
            result.get()
        return result

    def prepared(
        self,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        where: str,
        facts: Mapping[str, Any] | None = None,
    ) -> NoReturn:
        """Refused: it is many calls.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"{where}: a {self.subtask_type} is many calls; in a group of a generator there can be "
            "none: make the group of a list"
        )

    def freeze(self, _id: str | None = None) -> Any:
        """Give each of its calls a task id, unless it has one: however often it is called, they
        are these tasks.

        Args:
            _id: that of the last one; by default a new one.

        Returns:
            What ``apply_async`` would return, of calls that are not submitted.
        """
        *others, last = self.parts()
        for each in others:
            each.freeze()
        return last.freeze(_id or self.options.get("task_id"))

    @property
    def type(self) -> NoReturn:
        """Refused: it is many tasks.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"a {self.subtask_type} is no task, those that it is made of are")
