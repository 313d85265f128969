"""Values of options of tasks and calls: what each may be.

Each check raises a ConfigError that names the option and says what it must be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeGuard

from zmqtasks.errors import ConfigError
from zmqtasks.settings_checks import DURABILITIES
from zmqtasks.settings_sources import nearest

#: The fact of a call that holds its stamps.
STAMPS_KEY = "st"
DELIVERIES: tuple[str, ...] = ("at_least_once", "at_most_once")
#: Priorities go from 0 to this, which goes first.
PRIORITY_MAX = 9
#: Characters of ``argsrepr`` and ``kwargsrepr`` that travel.
REPR_CHARS_MAX = 1024
#: Longest time span, in seconds: some thirty years.
_SPAN_S_MAX = 1e9
#: What travels in headers without loss.
_PLAIN = (str, int, float, bool, bytes, type(None))
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1

Check = Callable[[str, object, str], None]


def check_queue(key: str, value: object, where: str) -> None:
    """The name of a queue."""
    from zmqtasks.settings_checks import CHECKS

    where = f"{where}: {key}" if where else key
    if not isinstance(value, str):
        raise ConfigError(f"{where} = {value!r:.75}: must be a text")
    try:
        CHECKS["default_queue"](value)
    except ConfigError as exc:
        raise ConfigError(f"{where} = {value!r:.75}: {exc}") from None


def check_delivery(key: str, value: object, where: str) -> None:
    """How hard is tried to have it done."""
    if value not in DELIVERIES:
        raise ConfigError(f"{where}: {key} must be {' or '.join(DELIVERIES)}, not {value!r:.75}")


def check_wait(key: str, value: object, where: str) -> None:
    """Seconds, 0 or more."""
    if not _is_number(value) or not 0 <= value < _SPAN_S_MAX:
        raise ConfigError(f"{where}: {key} is seconds, 0 or more, not {value!r:.75}")


def check_span(key: str, value: object, where: str) -> None:
    """Seconds from now; what lies in the past counts as now."""
    if not _is_number(value) or not -_SPAN_S_MAX < value < _SPAN_S_MAX:
        raise ConfigError(
            f"{where}: {key} is seconds from now, below {_SPAN_S_MAX:.0f}, not {value!r:.75}"
        )


def check_limit(key: str, value: object, where: str) -> None:
    """Seconds, above 0."""
    if not _is_number(value) or not 0 < value < _SPAN_S_MAX:
        raise ConfigError(f"{where}: {key} is seconds, more than 0, not {value!r:.75}")


def check_moment(key: str, value: object, where: str) -> None:
    """A point in time."""
    if not isinstance(value, datetime):
        raise ConfigError(
            f"{where}: {key} is a datetime, not {value!r:.75}; for seconds from now there is "
            "countdown"
        )


def check_expires(key: str, value: object, where: str) -> None:
    """Seconds from now, or a point in time."""
    if not isinstance(value, datetime):
        if not _is_number(value):
            raise ConfigError(
                f"{where}: {key} is seconds from now or a datetime, not {value!r:.75}"
            )
        check_span(key, value, where)


def check_priority(key: str, value: object, where: str) -> None:
    """0 to 9."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= PRIORITY_MAX:
        raise ConfigError(
            f"{where}: {key} is a whole number from 0 to {PRIORITY_MAX}, which goes first, not "
            f"{value!r:.75}"
        )


def check_repr(key: str, value: object, where: str) -> None:
    """A text that is shown in place of arguments."""
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {key} is the text to show, not {value!r:.75}")
    _check_characters(key, value, where)


def check_durability(key: str, value: object, where: str) -> None:
    """What the task survives."""
    if value in DURABILITIES:
        return
    likely = nearest(value, DURABILITIES) if isinstance(value, str) else None
    hint = f"; did you mean {likely!r}?" if likely else ""
    raise ConfigError(
        f"{where}: {key} must be {' or '.join(DURABILITIES)}, not {value!r:.75}{hint}"
    )


def check_name(key: str, value: object, where: str) -> None:
    """What names a task: its id, or the key that its id is made of."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {key} is a text that is not empty, not {value!r:.75}")
    _check_characters(key, value, where)


def _check_characters(key: str, value: str, where: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{where}: {key} = {value!r:.75} has a lone surrogate, which is no character; use "
            "os.fsencode(...).hex() for the name of a file"
        ) from None


def check_headers(_key: str, headers: object, where: str) -> None:
    """Names and plain values."""
    if not isinstance(headers, Mapping):
        raise ConfigError(f"{where}: headers are a dict, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str):
            raise ConfigError(f"{where}: names of headers are texts, not {name!r:.75}")
        if type(value) not in _PLAIN or (
            isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX
        ):
            raise ConfigError(
                f"{where}: header {name!r} is of type {type(value).__name__}; headers carry "
                "None, bool, int (64 bits), float, str and bytes, the rest belongs in arguments"
            )


def stamps_of(stamps: Any) -> dict[str, list[Any]]:
    """Stamps as they travel."""
    return {name: values_of(value) for name, value in stamps.items()}


def values_of(value: object) -> list[Any]:
    """The values of a stamp: one, or several."""
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]


def check_stamps(key: str, stamps: object, where: str) -> None:
    """Names, and one plain value or several."""
    if not isinstance(stamps, Mapping):
        raise ConfigError(f"{where}: {key} are a dict, not {type(stamps).__name__}")
    for name, value in stamps.items():
        for each in values_of(value):
            check_headers(key, {name: each}, where)


def check_links(key: str, value: object, where: str) -> None:
    """A signature, or a list of signatures."""
    found = [value] if isinstance(value, Mapping) else value
    if not isinstance(found, (list, tuple)) or not all(
        isinstance(each, Mapping) and isinstance(each.get("task"), str) for each in found
    ):
        raise ConfigError(
            f"{where}: {key} is a signature, such as task.s(), or a list of such, not {value!r:.75}"
        )


def check_resources(key: str, value: object, where: str) -> None:
    """What a worker must have: {name: amount}."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigError(
            f"{where}: {key} is a dict of names and amounts, such as {{'gpu': 1}}, not "
            f"{value!r:.75}"
        )
    for name, amount in value.items():
        if not _is_number(amount):
            raise ConfigError(f"{where}: {key}: {name!r} is a number, not {amount!r:.75}")
    _check_needs(where, resources=value)


def check_tags(key: str, value: object, where: str) -> None:
    """Tags that a worker must have, all of them."""
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(
        isinstance(tag, str) for tag in value
    ):
        raise ConfigError(f"{where}: {key} is a list of texts, not {value!r:.75}")
    _check_needs(where, tags=tuple(value))


def _check_needs(
    where: str, resources: Mapping[str, float] | None = None, tags: tuple[str, ...] = ()
) -> None:
    from zmqtasks.core.requirements import format_needs

    try:
        format_needs(resources or {}, tags)
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc}") from None


# --- of tasks only ------------------------------------------------------------------------


def check_rate(key: str, value: object, where: str) -> None:
    """How many may start in a time."""
    rate_text(value, f"{where}: {key}")


def rate_text(value: object, where: str) -> str:
    """A rate as the text that travels, such as "10/s"; "" for no limit.

    Args:
        value: a number a second, "N/s", "N/m", "N/h", or None or 0 for no limit.
        where: names it, for the message.

    Raises:
        ConfigError: no such rate.
    """
    from zmqtasks.core.rates import interval_of

    try:
        if value is not None and not isinstance(value, str) and not _is_number(value):
            raise ConfigError(f"{value!r:.75} is no rate; write it like 10/s, 100/m or 5/h")
        return str(value).strip() if interval_of(value) else ""
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc}") from None


def check_count(key: str, value: object, where: str) -> None:
    """A whole number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(
            f"{where}: {key} is a whole number, 0 or more, or None for no end, not {value!r:.75}"
        )


def check_bool(key: str, value: object, where: str) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {key} must be True or False, not {value!r:.75}")


def check_backoff(key: str, value: object, where: str) -> None:
    """True, False, or the first delay in seconds."""
    if not isinstance(value, bool) and (not _is_number(value) or not 0 <= value < _SPAN_S_MAX):
        raise ConfigError(
            f"{where}: {key} is True, False, or the first delay in seconds, not {value!r:.75}"
        )


def check_exceptions(key: str, value: object, where: str) -> None:
    """A class of exceptions, or several."""
    classes = value if isinstance(value, (list, tuple)) else (value,)
    for cls in classes:
        if not isinstance(cls, type) or not issubclass(cls, BaseException):
            raise ConfigError(f"{where}: {key} is a tuple of exception classes, not {cls!r:.75}")


def check_retry_kwargs(key: str, value: object, where: str) -> None:
    """What ``autoretry_for`` passes on to ``retry``."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {key} is a dict, not {type(value).__name__}")
    for name, item in value.items():
        if name not in ("max_retries", "countdown"):
            raise ConfigError(
                f"{where}: {key} has max_retries and countdown, not {name!r:.75}; for anything "
                "else call self.retry()"
            )
        if item is not None:
            (check_count if name == "max_retries" else check_wait)(f"{key}[{name!r}]", item, where)


def _is_number(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and -math.inf < value < math.inf
    )
