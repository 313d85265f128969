"""Signatures of task functions: a digest, a text, and a fast check of arguments.

The check is a function with the same parameters and an empty body: calling it accepts
and refuses exactly what the task function would, with Python's own wording, at a tenth
of the cost of ``inspect.Signature.bind``.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from zmqtasks.app.depends import Dependency, dependency_of

#: Longest signature text that travels in a catalog.
SIGNATURE_CHARS_MAX = 200

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class TaskSignature(NamedTuple):
    """What is known of the parameters of a task function."""

    #: Accepts or refuses (with a TypeError) the arguments of a call; returns nothing.
    match: Callable[..., None]
    #: Same parameters (names, kinds, which have defaults) give the same digest.
    digest: str
    #: For people: ``(x: int, y: int = 0) -> int``.
    text: str
    #: Names of positional parameters, in order.
    names: tuple[str, ...]
    #: {parameter that callers do not give: (its position, None for keyword-only; what gives it)}
    injected: Mapping[str, tuple[int | None, Dependency]] = {}


def signature_of(function: Callable[..., Any], *, bound: bool = False) -> TaskSignature:
    """The signature of a task function.

    Args:
        function: any callable that ``inspect.signature`` understands.
        bound: leave out its first parameter (the task itself).

    Raises:
        TypeError: ``bound`` and it has no positional parameter.
        ConfigError: a parameter cannot depend on anything.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-ins tell nothing about themselves
        return _anything(function)
    parameters = list(signature.parameters.values())
    if bound:
        if parameters and parameters[0].kind in _POSITIONAL:
            del parameters[0]
        elif not parameters or parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            raise TypeError(
                f"{_qualname(function)}() has bind=True but no first parameter for the task; "
                "write def name(self, ...)"
            )
    injected = _injected(function, parameters)
    parameters = [parameter for parameter in parameters if parameter.name not in injected]
    source = _parameters_source(parameters)
    text = str(signature.replace(parameters=parameters))
    if len(text) > SIGNATURE_CHARS_MAX:
        text = text[: SIGNATURE_CHARS_MAX - 3] + "..."
    return TaskSignature(
        match=_matcher(source, _qualname(function)),
        digest=hashlib.blake2b(source.encode(), digest_size=6).hexdigest(),
        text=text,
        names=tuple(p.name for p in parameters if p.kind in _POSITIONAL),
        injected=injected,
    )


def _injected(
    function: Callable[..., Any], parameters: Sequence[inspect.Parameter]
) -> dict[str, tuple[int | None, Dependency]]:
    namespace = getattr(inspect.unwrap(function), "__globals__", {})
    found: dict[str, tuple[int | None, Dependency]] = {}
    for position, parameter in enumerate(parameters):
        mark = dependency_of(parameter, namespace, f"{_qualname(function)}()")
        if mark is not None:
            place = position if parameter.kind in _POSITIONAL else None
            found[parameter.name] = place, mark
    return found


def _anything(function: Callable[..., Any]) -> TaskSignature:
    source = "*args, **kwargs"
    digest = hashlib.blake2b(source.encode(), digest_size=6).hexdigest()
    return TaskSignature(_matcher(source, _qualname(function)), digest, f"({source})", ())


def _qualname(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _parameters_source(parameters: Sequence[inspect.Parameter]) -> str:
    """The parameter list as source code, with every default replaced by None.

    Defaults and annotations are left out: their texts may differ from process to
    process (object addresses), and they change nothing about what a call may look like.
    """
    parts = []
    star = False
    for position, parameter in enumerate(parameters):
        kind = parameter.kind
        if kind is parameter.VAR_POSITIONAL:
            star = True
            parts.append(f"*{parameter.name}")
            continue
        if kind is parameter.VAR_KEYWORD:
            parts.append(f"**{parameter.name}")
            continue
        if kind is parameter.KEYWORD_ONLY and not star:
            star = True
            parts.append("*")
        has_default = parameter.default is not parameter.empty
        parts.append(parameter.name + ("=None" if has_default else ""))
        following = parameters[position + 1].kind if position + 1 < len(parameters) else None
        if kind is parameter.POSITIONAL_ONLY and following is not parameter.POSITIONAL_ONLY:
            parts.append("/")
    return ", ".join(parts)


def _matcher(parameters_source: str, qualname: str) -> Callable[..., None]:
    """An empty function with these parameters, whose TypeErrors name ``qualname``."""
    namespace: dict[str, Any] = {}
    # Only names of parameters get in here, which Python itself has accepted as such.
    exec(f"def match({parameters_source}): return None", namespace)  # noqa: S102
    match: Callable[..., None] = namespace["match"]
    match.__qualname__ = qualname
    return match
