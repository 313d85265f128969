"""Chains: one call after the other. Chords: one call after all of a group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from zmqtasks.app.canvas.group import Member, group
from zmqtasks.app.canvas.signature import Signature, maybe_signature
from zmqtasks.app.canvas.workflow import Source, Split, Workflow, WorkflowCalls
from zmqtasks.errors import ConfigError

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.eager import EagerResult

W = TypeVar("W", bound=Workflow)


class chain(Workflow):  # noqa: N801 - Celery's name
    """Calls that follow each other: each gets the result of the one before as its first
    argument, unless it is immutable. A group among them gives it to all of its calls, and
    what follows a group gets the list of their results.

    Args:
        tasks: signatures, or one iterable of them. Chains among them are taken apart.
        app: the App; by default that of the first signature.
        options: of the first call; ``task_id`` of the last one.

    Raises:
        TypeError: something else than signatures.
        ConfigError: none at all, an unknown option or a bad value.
    """

    def __init__(
        self, *tasks: Signature[Any] | Iterable[Signature[Any]], app: App | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__("zmqtasks.chain", (), {}, None, "chain", False, app, **options)
        given: Any = tasks[0] if len(tasks) == 1 else tasks
        if isinstance(given, Mapping):
            given = [given]
        elif isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
            raise TypeError(
                f"a chain is made of signatures, such as task.s(2), not of {given!r:.75}"
            )
        self["kwargs"]["tasks"] = [part for each in given for part in _links(each)]
        if not self.tasks:
            raise ConfigError("an empty chain has no result; give it signatures")

    @classmethod
    def _from_dict(cls, d: Mapping[str, Any], app: App | None) -> chain:
        found = cls(_part(d, "tasks"), app=app, **(d.get("options") or {}))
        return _as_it_was(found, d)

    @property
    def tasks(self) -> list[Signature[Any]]:
        """Its signatures."""
        found: list[Signature[Any]] = self.kwargs["tasks"]
        return found

    def firsts(self) -> Iterator[Signature[Any]]:
        """See ``Workflow``."""
        yield self.tasks[0]

    def parts(self) -> list[Signature[Any]]:
        """See ``Workflow``."""
        return self.tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def clone(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> chain:
        """A copy of it with more arguments for its first call, and options."""
        if self.immutable:
            args, kwargs = None, None
        first, *others = self.tasks
        tasks = [first.clone(args, kwargs), *(each.clone() for each in others)]
        found = chain(tasks, app=self._app, **{**self.options, **options})
        found["immutable"] = self.immutable
        return found

    partial = clone

    def planned(
        self, calls: WorkflowCalls, args: tuple[Any, ...], kwargs: Mapping[str, Any],
        options: Mapping[str, Any], before: Source | None,
    ) -> Source:  # fmt: skip
        """See ``Workflow``."""
        split = self._split(options)
        if self.immutable:
            args, kwargs = (), {}
        source = before
        for position, each in enumerate(self.tasks):
            given = self._given(split, position)
            if isinstance(each, group) and each is not self.tasks[-1]:
                source = calls.plan_header(each, args, kwargs, given, source)
            else:
                source = calls.plan(Member(each, args, kwargs, given), source)
            args, kwargs = (), {}
        assert source is not None, "there is a first one"
        calls.plan_links(split.links, source)
        return source

    def _given(self, split: Split, position: int) -> dict[str, Any]:
        """Options of the call at this position."""
        given = split.first if position == 0 else split.others
        return {**given, **split.last} if position == len(self.tasks) - 1 else given

    def applied(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        facts: Mapping[str, Any],
    ) -> EagerResult[Any]:
        """See ``Signature.applied``; ends with the first call that does not succeed."""
        from zmqtasks.app.eager import call_links, not_run, run_header

        split = self._split(options)
        if self.immutable:
            args, kwargs = (), {}
        before: Any = None
        for position, each in enumerate(self.tasks):
            given = self._given(split, position)
            if isinstance(each, group) and each is not self.tasks[-1]:
                failed, values, results = run_header(each, args, kwargs, given)
                results.came_after(before)
                before = results
                if failed is not None:
                    after = self._given(split, position + 1)
                    ended = not_run(self.tasks[position + 1], after, failed)
                    ended.came_after(before)
                    return ended
                args, kwargs = (values,), {}
                continue
            result: Any = each.applied(args, kwargs, given, facts)
            result.came_after(before)
            before = result
            if not result.successful():
                break
            args, kwargs = (result.get(),), {}
        call_links(split.links, result, self._app)
        return result  # type: ignore[no-any-return]

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """It as one writes it: ``shop.add(2, 2) | shop.mul(4)``."""
        first, *others = self.tasks
        return " | ".join([first.reprcall(*args, **kwargs), *(each.reprcall() for each in others)])


class chord(Workflow):  # noqa: N801 - Celery's name
    """A call, the body, that comes when all calls of a group, the header, have succeeded, and
    gets the list of their results as its first argument, unless it is immutable.

    If one of them fails the body ends in the same way, without having run.

    Args:
        header: a group, or signatures of one.
        body: a signature; it may also be given to ``chord(header)(body)``.
        app: the App; by default that of the first signature.
        options: of the header's calls; ``task_id`` of the body.

    Raises:
        TypeError: something else than signatures.
        ConfigError: an unknown option or a bad value.
    """

    def __init__(
        self, header: group[Any] | Iterable[Signature[Any]], body: Signature[Any] | None = None,
        app: App | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__("zmqtasks.chord", (), {}, None, "chord", False, app, **options)
        found = header if isinstance(header, group) else group(header)
        found.tasks  # noqa: B018 - those of a generator are made now: it has to travel
        self["kwargs"].update(header=found, body=maybe_signature(body))

    @classmethod
    def _from_dict(cls, d: Mapping[str, Any], app: App | None) -> chord:
        header = maybe_signature(_part(d, "header"))
        if not isinstance(header, group):
            raise ConfigError(f"no chord: its header is a group, not {header!r:.75}")
        body = (d.get("kwargs") or {}).get("body")
        found = cls(header, body, app=app, **(d.get("options") or {}))
        return _as_it_was(found, d)

    @property
    def header(self) -> group[Any]:
        """The group that comes first."""
        found: group[Any] = self.kwargs["header"]
        return found

    @property
    def tasks(self) -> list[Signature[Any]]:
        """Signatures of its header."""
        return self.header.tasks

    @property
    def body(self) -> Signature[Any]:
        """The signature that comes after them.

        Raises:
            ConfigError: there is none.
        """
        found: Signature[Any] | None = self.kwargs["body"]
        if found is None:
            raise ConfigError(
                "this chord has no body, so nothing would come of its header; write chord(header, "
                "body) or chord(header)(body), or call a group"
            )
        return found

    def firsts(self) -> Iterator[Signature[Any]]:
        """See ``Workflow``."""
        yield from self.tasks
        yield self.body

    def parts(self) -> list[Signature[Any]]:
        """See ``Workflow``."""
        return [self.header, self.body]

    def __len__(self) -> int:
        return len(self.tasks)

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Let workers run it, with this body.

        Args:
            body: in place of the one that it has, if there is one.
            options: as of ``apply_async``.
        """
        if body is None:
            return self.apply_async(**options)
        return chord(self.header, body, app=self._app, **self.options).apply_async(**options)

    def clone(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> chord:
        """A copy of it with more arguments for the calls of its header, and options."""
        if self.immutable:
            args, kwargs = None, None
        body = self.kwargs["body"]
        found = chord(
            self.header.clone(args, kwargs), body and body.clone(), app=self._app,
            **{**self.options, **options},
        )  # fmt: skip
        found["immutable"] = self.immutable
        return found

    partial = clone

    def planned(
        self, calls: WorkflowCalls, args: tuple[Any, ...], kwargs: Mapping[str, Any],
        options: Mapping[str, Any], before: Source | None,
    ) -> Source:  # fmt: skip
        """See ``Workflow``."""
        split = self._split(options)
        body = self.body
        if self.immutable:
            args, kwargs = (), {}
        header = calls.plan_header(self.header, args, kwargs, self._of_header(split), before)
        source = calls.plan(Member(body, (), {}, split.last), header)
        calls.plan_links(split.links, source)
        return source

    def applied(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        facts: Mapping[str, Any],
    ) -> EagerResult[Any]:
        """See ``Signature.applied``; ends with the first call that does not succeed."""
        from zmqtasks.app.eager import call_links, not_run, run_header

        split = self._split(options)
        body = self.body
        if self.immutable:
            args, kwargs = (), {}
        failed, values, results = run_header(self.header, args, kwargs, self._of_header(split))
        if failed is not None:
            result = not_run(body, split.last, failed)
            result.came_after(results)
            return result
        result = body.applied((values,), {}, split.last, facts)
        result.came_after(results)
        call_links(split.links, result, self._app)
        return result

    @staticmethod
    def _of_header(split: Split) -> dict[str, Any]:
        """Options of its calls; what is to be done about a failure concerns the body."""
        return {key: value for key, value in split.first.items() if key != "link_error"}

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """It as one writes it: ``group([shop.add(2, 2)]) | shop.total()``."""
        body = self.kwargs["body"]
        after = f" | {body.reprcall()}" if body is not None else ""
        return f"{self.header.reprcall(*args, **kwargs)}{after}"


def joined(left: Signature[Any], right: Any) -> Workflow:
    """``left | right``: a chord where one call follows a group, else a chain.

    Raises:
        TypeError: not two signatures.
    """
    other = maybe_signature(right) if isinstance(right, Mapping) else None
    if other is None:
        raise TypeError(f"only signatures can follow each other by |, not {right!r:.75}")
    if isinstance(left, group) and not isinstance(other, (group, chain)):
        return chord(left, other, app=left._app)
    return chain(left, other, app=left._app)


def _links(each: Any) -> Iterator[Signature[Any]]:
    if not isinstance(each, Mapping):
        raise TypeError(f"a chain is made of signatures, such as task.s(2), not of {each!r:.75}")
    found = maybe_signature(each)
    if isinstance(found, chain) and not found.options and not found.immutable:
        yield from found.tasks
    elif found is not None:
        yield found


def _part(d: Mapping[str, Any], name: str) -> Any:
    found = (d.get("kwargs") or {}).get(name)
    if not isinstance(found, (list, tuple, Mapping)):
        raise ConfigError(f"no {d.get('subtask_type')}: it has no {name}, but {found!r:.75}")
    return found


def _as_it_was(found: W, d: Mapping[str, Any]) -> W:
    found["immutable"] = bool(d.get("immutable"))
    if "app" not in found and d.get("app") is not None:
        found["app"] = d["app"]
    return found


Signature.types["chain"] = chain
Signature.types["chord"] = chord
