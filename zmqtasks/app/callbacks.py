"""Arguments of calls that come after others, and values of ``link`` and ``link_error``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zmqtasks.core.calls import INPUTS_KEY
from zmqtasks.core.offspring import FAILED_KEY

#: Accepts or refuses (with a TypeError) the arguments of a call.
Match = Callable[..., None]


def listed(links: object) -> list[Mapping[str, Any]]:
    """The signatures in the value of ``link`` or ``link_error``: one, several, or None."""
    if not links:
        return []
    return [links] if isinstance(links, Mapping) else list(links)  # type: ignore[call-overload]


def match_call(
    match: Match, args: Sequence[Any], kwargs: Mapping[str, Any], facts: Mapping[str, Any] | None
) -> None:
    """Refuse arguments that do not fit, with those that are yet to come before them.

    Args:
        facts: of the call.

    Raises:
        TypeError: they do not fit.
    """
    if not facts:
        match(*args, **kwargs)
    elif facts.get(INPUTS_KEY, (None, None))[1] is not None:
        match(None, *args, **kwargs)  # what it waits for comes first
    elif facts.get(FAILED_KEY):
        styled(match, (None, None, None), (None,), args, kwargs)
    else:
        match(*args, **kwargs)


def styled(
    match: Match, newer: tuple[Any, ...], older: tuple[Any, ...], args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Sequence[Any]:  # fmt: skip
    """The arguments of an errback in the first of these styles that its function takes.

    Raises:
        TypeError: neither; it says what is wrong with the newer one.
    """
    try:
        match(*newer, *args, **kwargs)
    except TypeError as exc:
        try:
            match(*older, *args, **kwargs)
        except TypeError:
            raise exc from None
        return (*older, *args)
    return (*newer, *args)
