"""``Depends``: what a task function needs beside its arguments.

::

    def get_session():
        session = Session()
        yield session
        session.close()

    @app.task
    def report(month: str, session: Annotated[Session, Depends(get_session)]) -> str:
        ...

The callers of ``report`` give ``month`` only. Source: docs/howto/hooks.md.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from zmqtasks.errors import ConfigError

Scope = Literal["attempt", "process"]
_SCOPES = ("attempt", "process")


class Dependency(NamedTuple):
    """What ``Depends`` makes."""

    make: Callable[..., Any]
    scope: Scope


def Depends(dependency: Callable[..., Any], *, scope: Scope = "attempt") -> Any:  # noqa: N802
    """Mark a parameter of a task as something that the worker provides.

    Either ``name: Annotated[Type, Depends(function)]`` or ``name: Type = Depends(function)``.
    The function is called once for an attempt, however many ask for it; what a generator
    yields is the value, and the rest of it runs when the attempt has ended. It may have
    parameters that depend on others in turn.

    Args:
        dependency: a function, generator function, or the ``async def`` form of either.
        scope: "attempt", or "process": once for each process that runs tasks, and ended
            when that ends.

    Raises:
        ConfigError: no function, or another scope.
    """
    if not callable(dependency):
        raise ConfigError(f"Depends({dependency!r:.75}): must be a function")
    if scope not in _SCOPES:
        raise ConfigError(f"Depends(): scope must be {' or '.join(_SCOPES)}, not {scope!r:.75}")
    return Dependency(dependency, scope)


def dependency_of(
    parameter: inspect.Parameter, namespace: Mapping[str, Any], where: str
) -> Dependency | None:
    """What the parameter depends on, if it does.

    Args:
        parameter: of a function.
        namespace: where the texts of its annotations mean something.
        where: names the function, for the message.

    Raises:
        ConfigError: it cannot be given.
    """
    found = _marked(parameter, namespace)
    if found is None:
        return None
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise ConfigError(
            f"{where}: parameter {parameter.name!r} depends on {_name(found)}, which is given by "
            "name; it cannot be positional-only or starred"
        )
    return found


def _marked(parameter: inspect.Parameter, namespace: Mapping[str, Any]) -> Dependency | None:
    if isinstance(parameter.default, Dependency):
        return parameter.default
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            # The text of the application's own source, as typing.get_type_hints does it.
            annotation = eval(annotation, dict(namespace))  # noqa: S307
        except Exception:  # noqa: BLE001 (names that exist for type checkers only)
            return None
    if get_origin(annotation) is Annotated:
        for mark in get_args(annotation)[1:]:
            if isinstance(mark, Dependency):
                return mark
    return None


def _name(dependency: Dependency) -> str:
    return str(getattr(dependency.make, "__qualname__", dependency.make))


class Node(NamedTuple):
    """A dependency with those that it has itself."""

    dependency: Dependency
    needs: Mapping[str, Node]

    @property
    def is_async(self) -> bool:
        """It is made by a coroutine or an async generator."""
        make = self.dependency.make
        return inspect.iscoroutinefunction(make) or inspect.isasyncgenfunction(make)


def resolved(dependency: Dependency, where: str, *, is_async: bool) -> Node:
    """A dependency with all that it needs.

    Args:
        where: names who depends on it, for the message.
        is_async: that is ``async def`` itself.

    Raises:
        ConfigError: it cannot be made: it needs something that nobody gives, it needs
            itself, is async where nothing can wait for it, or lives longer than its needs.
    """
    return _resolved(dependency, where, is_async, ())


def _resolved(
    dependency: Dependency, where: str, is_async: bool, above: tuple[Dependency, ...]
) -> Node:
    name = _name(dependency)
    if dependency in above:
        raise ConfigError(f"{where}: dependency {name}() needs itself")
    if above and above[-1].scope == "process" and dependency.scope != "process":
        raise ConfigError(
            f"{where}: dependency {_name(above[-1])}() is kept for the process, and needs "
            f"{name}(), which is made for each attempt; give both the same scope"
        )
    needs: dict[str, Node] = {}
    for parameter in _parameters(dependency.make):
        mark = dependency_of(
            parameter, getattr(dependency.make, "__globals__", {}), f"{where}: {name}"
        )
        if mark is not None:
            needs[parameter.name] = _resolved(mark, where, is_async, (*above, dependency))
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise ConfigError(
                f"{where}: dependency {name}() has a parameter {parameter.name!r} that nobody "
                "gives; give it a default, or let it depend on something, too"
            )
    node = Node(dependency, needs)
    if node.is_async and not is_async:
        raise ConfigError(
            f"{where}: {name}() is async, and a plain function cannot wait for it; make the task "
            "async def"
        )
    return node


def _parameters(make: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(make).parameters.values())
    except ValueError:  # built-ins that tell nothing about themselves
        return []


# --- values -------------------------------------------------------------------------------

#: Values that this process keeps: {(dependency, the loop that async ones belong to)}.
_kept: dict[tuple[Dependency, object], Any] = {}
_kept_lock = threading.RLock()
_kept_stack = ExitStack()
#: {loop: ends what was made in it}
_loop_stacks: dict[object, AsyncExitStack] = {}


def close_kept() -> None:
    """The process ends: end what it keeps."""
    with _kept_lock:
        _kept.clear()
        _kept_stack.close()


async def aclose_kept() -> None:
    """The running loop ends: end what the process keeps in it."""
    import asyncio

    loop = asyncio.get_running_loop()
    for key in [key for key in _kept if key[1] is loop]:
        del _kept[key]
    stack = _loop_stacks.pop(loop, None)
    if stack is not None:
        await stack.aclose()


class _Values:
    """The values of one attempt."""

    def __init__(self) -> None:
        self._made: dict[Dependency, Any] = {}

    def of(self, node: Node, stack: ExitStack) -> Any:
        """The value of a dependency, made if need be."""
        dependency = node.dependency
        if dependency.scope == "process":
            with _kept_lock:
                key = (dependency, None)
                if key not in _kept:
                    _kept[key] = self._make(node, _kept_stack)
                return _kept[key]
        if dependency not in self._made:
            self._made[dependency] = self._make(node, stack)
        return self._made[dependency]

    def _make(self, node: Node, stack: ExitStack) -> Any:
        make = node.dependency.make
        needs = {name: self.of(need, stack) for name, need in node.needs.items()}
        if inspect.isgeneratorfunction(make):
            return stack.enter_context(contextmanager(make)(**needs))
        return make(**needs)

    async def aof(self, node: Node, stack: AsyncExitStack) -> Any:
        """The same within a loop."""
        import asyncio

        dependency = node.dependency
        if dependency.scope == "process":
            if not _has_async(node):
                return self.of(node, ExitStack())
            # A future stands for it from the first moment: others wait for the same one.
            loop = asyncio.get_running_loop()
            key = (dependency, loop)
            future = _kept.get(key)
            if future is None:
                future = _kept[key] = loop.create_future()
                kept = _loop_stacks.setdefault(loop, AsyncExitStack())
                try:
                    future.set_result(await self._amake(node, kept))
                except BaseException as exc:
                    del _kept[key]
                    future.set_exception(exc)
                    future.exception()  # it is raised here, so nobody else need look
                    raise
            return await future
        if dependency not in self._made:
            self._made[dependency] = await self._amake(node, stack)
        return self._made[dependency]

    async def _amake(self, node: Node, stack: AsyncExitStack) -> Any:
        make = node.dependency.make
        needs = {name: await self.aof(need, stack) for name, need in node.needs.items()}
        if inspect.isasyncgenfunction(make):
            return await stack.enter_async_context(asynccontextmanager(make)(**needs))
        if inspect.isgeneratorfunction(make):
            return stack.enter_context(contextmanager(make)(**needs))
        found = make(**needs)
        return await found if inspect.iscoroutinefunction(make) else found


def _has_async(node: Node) -> bool:
    return node.is_async or any(_has_async(need) for need in node.needs.values())


# --- functions ------------------------------------------------------------------------------


class Injection:
    """Gives a function its dependencies.

    Args:
        run: the function.
        nodes: ``{parameter: (its position, None for keyword-only; what it depends on)}``.
    """

    def __init__(
        self, run: Callable[..., Any], nodes: Mapping[str, tuple[int | None, Node]]
    ) -> None:
        self._run = run
        self._nodes = nodes

    def wrapped(self) -> Callable[..., Any]:
        """A function of the same sort (plain, async, generator) that needs only the rest."""
        run = self._run
        if inspect.isasyncgenfunction(run):
            return self._async_generator
        if inspect.iscoroutinefunction(run):
            return self._coroutine
        if inspect.isgeneratorfunction(run):
            return self._generator
        return self._function

    def _function(self, /, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            args, kwargs = self._placed(args, kwargs, self._values(kwargs, stack))
            return self._run(*args, **kwargs)

    def _generator(self, /, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with ExitStack() as stack:
            args, kwargs = self._placed(args, kwargs, self._values(kwargs, stack))
            return (yield from self._run(*args, **kwargs))

    async def _coroutine(self, /, *args: Any, **kwargs: Any) -> Any:
        async with AsyncExitStack() as stack:
            args, kwargs = self._placed(args, kwargs, await self._avalues(kwargs, stack))
            return await self._run(*args, **kwargs)

    async def _async_generator(self, /, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        async with AsyncExitStack() as stack:
            args, kwargs = self._placed(args, kwargs, await self._avalues(kwargs, stack))
            async for item in self._run(*args, **kwargs):
                yield item

    def _values(self, given: Mapping[str, Any], stack: ExitStack) -> dict[str, Any]:
        values = _Values()
        return {
            name: values.of(node, stack)
            for name, (_, node) in self._nodes.items()
            if name not in given
        }

    async def _avalues(self, given: Mapping[str, Any], stack: AsyncExitStack) -> dict[str, Any]:
        values = _Values()
        return {
            name: await values.aof(node, stack)
            for name, (_, node) in self._nodes.items()
            if name not in given
        }

    def _placed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], values: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a caller, who knows nothing of these parameters, with them."""
        placed = list(args)
        for name, (position, _) in self._nodes.items():
            value = values[name] if name in values else kwargs.pop(name)
            if position is not None and position <= len(placed):
                placed.insert(position, value)
            else:
                kwargs[name] = value
        return tuple(placed), kwargs
