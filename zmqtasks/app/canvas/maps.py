"""Signatures of one task that calls another one many times; see ``builtin.py`` for the tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from zmqtasks.app.builtin import MAP, STARMAP
from zmqtasks.app.canvas.group import group
from zmqtasks.app.canvas.signature import Signature, signature
from zmqtasks.app.options import ROUTE_OPTIONS
from zmqtasks.app.submitting import Prepared
from zmqtasks.errors import ConfigError
from zmqtasks.wire.messages import Kind

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.canvas.result import GroupResult
    from zmqtasks.app.task import Task

R = TypeVar("R")
#: Characters of the items that ``repr`` shows.
_REPR_CHARS_MAX = 100


class _Mapping(Signature[list[R]]):
    """A call of one of these tasks; immutable.

    Args:
        task: what is called with each item: a task or a signature of it, whose own arguments
            do not count.
        it: the items.
        options: of the call. What a worker must have, its queue and limits are those of
            ``task`` where they say nothing.
    """

    #: Name of the task that does it, and how ``repr`` writes the call.
    _name = ""
    _call = ""

    def __init__(
        self, task: Task[Any, R] | Mapping[str, Any], it: Iterable[Any], *, app: App | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        inner = signature(task, app=app)
        kwargs = {"task": inner, "it": list(it)}
        kind = type(self).__name__
        super().__init__(self._name, (), kwargs, None, kind, True, inner._app, **options)
        if "app" in inner:
            self["app"] = inner["app"]

    @classmethod
    def _from_dict(cls, d: Mapping[str, Any], app: App | None) -> _Mapping[Any]:
        task, it = _items_of(d)
        return cls(_with_app(task, d), it, app=app, **(d.get("options") or {}))

    def prepared(
        self,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        where: str,
        facts: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """The call; it goes where calls of the task go that it calls."""
        name = self.kwargs["task"]["task"]
        task = self.app.tasks.get(name)
        rules = self.app.rules
        routed: Mapping[str, Any] = rules.complete(name, task, (), {}, {}, where)
        own = {key: routed[key] for key in ROUTE_OPTIONS & routed.keys()}
        if task is not None:
            for key in ("durability", "time_limit", "soft_time_limit"):
                value = getattr(task, key)
                if value is not None:
                    own.setdefault(key, value)
        own.update((key, value) for key, value in self.options.items() if value is not None)
        own.update((key, value) for key, value in options.items() if value is not None)
        found = self.app.prepared(self.task, (), self.kwargs, own, where, facts)  # type: ignore[arg-type]
        if task is None or task.idempotent:
            return found
        call = found.call
        kind = call.kind
        facts_of_kind = (*kind.ext, ("idem", 0))
        once = Kind(kind.app, kind.name, kind.digest, kind.queue, facts_of_kind)
        return found._replace(call=call._replace(kind=once))

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Do it here and now."""
        return self.type(**self.kwargs)

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """It as Python would write it."""
        shown = repr(self.kwargs["it"])
        if len(shown) > _REPR_CHARS_MAX:
            shown = f"{shown[: _REPR_CHARS_MAX - 1]}…"
        return f"[{self.kwargs['task']['task']}({self._call}) for x in {shown}]"


class xmap(_Mapping[R]):  # noqa: N801 - Celery's name
    """``task.map(it)``: one task that calls it with each item."""

    _name, _call = MAP, "x"


class xstarmap(_Mapping[R]):  # noqa: N801 - Celery's name
    """``task.starmap(it)``: one task that calls it with the arguments in each item."""

    _name, _call = STARMAP, "*x"


class chunks(Signature[list[R]]):  # noqa: N801 - Celery's name
    """``task.chunks(it, n)``: tasks that each call it with the arguments in ``n`` items.

    Args:
        task: what is called, as of ``xstarmap``.
        it: the items; those of a generator are used up by ``group()``.
        n: how many items each task has.

    Raises:
        ConfigError: ``n`` is no positive number.
    """

    def __init__(
        self, task: Task[Any, R] | Mapping[str, Any], it: Iterable[Any], n: int, *,
        app: App | None = None, **options: Any,
    ) -> None:  # fmt: skip
        if type(n) is not int or n < 1:
            raise ConfigError(f"chunks(): n is a number of items, 1 or more, not {n!r:.75}")
        inner = signature(task, app=app)
        kwargs = {"task": inner, "it": it if isinstance(it, Iterator) else list(it), "n": n}
        super().__init__("zmqtasks.chunks", (), kwargs, None, "chunks", True, inner._app, **options)
        if "app" in inner:
            self["app"] = inner["app"]

    @classmethod
    def _from_dict(cls, d: Mapping[str, Any], app: App | None) -> chunks[Any]:
        task, it = _items_of(d)
        return cls(_with_app(task, d), it, d["kwargs"].get("n"), app=app, **(d["options"] or {}))

    def group(self) -> group[list[R]]:
        """The tasks, as a group."""
        task, it, n = self.kwargs["task"], self.kwargs["it"], self.kwargs["n"]
        parts = _parts(iter(it), n)
        tasks: Iterable[Any] = (xstarmap(task, part, app=self._app) for part in parts)
        return group(tasks if isinstance(it, Iterator) else list(tasks), **self.options)

    def __call__(self, *partial_args: Any, **options: Any) -> GroupResult[list[R]]:
        """Same as ``apply_async(**options)``, as Celery has it."""
        return self.apply_async(**options)

    def apply_async(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> GroupResult[list[R]]:
        """Let workers run all of it: ``group().apply_async(**options)``."""
        return self.group().apply_async(**options)

    async def aapply_async(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> GroupResult[list[R]]:
        """Same as ``apply_async``, waiting without blocking the running loop."""
        return await self.group().aapply_async(**options)

    def apply(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> GroupResult[list[R]]:
        """Run all of it here and now: ``group().apply(**options)``."""
        return self.group().apply(throw=throw, **options)

    def freeze(self, _id: str | None = None) -> Any:
        """Refused: it is many tasks.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("chunks cannot be frozen, the group of them can: task.chunks(…).group()")

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """It as Python would write it."""
        return (
            f"{self.kwargs['task']['task']}.chunks({_shown(self.kwargs['it'])}, {self.kwargs['n']})"
        )


def _shown(it: object) -> str:
    text = "<generator>" if isinstance(it, Iterator) else repr(it)
    return text if len(text) <= _REPR_CHARS_MAX else f"{text[: _REPR_CHARS_MAX - 1]}…"


def _items_of(d: Mapping[str, Any]) -> tuple[Mapping[str, Any], Iterable[Any]]:
    kwargs = d.get("kwargs") or {}
    task, it = kwargs.get("task"), kwargs.get("it")
    if not isinstance(task, Mapping) or not isinstance(it, Iterable):
        raise ConfigError(
            f"no {d.get('subtask_type')}: it has a signature 'task' and items 'it', not "
            f"{task!r:.75} and {it!r:.75}"
        )
    return task, it


def _with_app(task: Mapping[str, Any], d: Mapping[str, Any]) -> Mapping[str, Any]:
    return task if "app" in task or d.get("app") is None else {**task, "app": d["app"]}


def _parts(items: Iterator[Any], n: int) -> Iterator[list[Any]]:
    while part := list(islice(items, n)):
        yield part


Signature.types.update(xmap=xmap, xstarmap=xstarmap, chunks=chunks)
