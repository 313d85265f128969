"""The fields of ``crontab``: from what users write to the numbers that it means.

A field is a number, a name, ``*``, a range (``8-17``, ``mon-fri``; ``22-4`` goes on from the
start), any of the latter two with a step (``*/15``, ``8-17/2``), several of all these with
commas between them, or an iterable of them. This is what Celery takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from zmqtasks.errors import ConfigError

#: What a field of ``crontab`` may be given as.
FieldValue = int | str | Iterable[int | str]

_DIGITS_MAX: Final = 9
_PART = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\w+))?")


class Field(NamedTuple):
    """One of the five."""

    name: str
    first: int
    last: int
    #: {the first three letters of a name: its number}
    names: Mapping[str, int] = {}


def _numbered(names: str, first: int) -> dict[str, int]:
    return {name: number for number, name in enumerate(names.split(), first)}


MINUTE: Final = Field("minute", 0, 59)
HOUR: Final = Field("hour", 0, 23)
DAY_OF_WEEK: Final = Field("day_of_week", 0, 6, _numbered("sun mon tue wed thu fri sat", 0))
DAY_OF_MONTH: Final = Field("day_of_month", 1, 31)
MONTH_OF_YEAR: Final = Field(
    "month_of_year", 1, 12, _numbered("jan feb mar apr may jun jul aug sep oct nov dec", 1)
)

_FULL_NAMES: Final = frozenset(
    """
    sunday monday tuesday wednesday thursday friday saturday
    january february march april june july august september october november december
    """.split()
)


def as_text(field: Field, value: object) -> str:
    """A field as text, however it was given: the same numbers give the same text.

    Raises:
        ConfigError: not a number, a text or an iterable of such.
    """
    if isinstance(value, str):
        return "".join(value.split()).lower()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray, Mapping)):
        items = list(value)
        if items and all(
            isinstance(item, (int, str)) and not isinstance(item, bool) for item in items
        ):
            numbers = sorted({item for item in items if isinstance(item, int)})
            texts = sorted({as_text(field, item) for item in items if isinstance(item, str)})
            return ",".join([*map(str, numbers), *texts])
    raise _refused(field, value, "it is a number, a text or a list of these that is not empty")


def numbers(field: Field, text: str) -> tuple[int, ...]:
    """What a field means, sorted.

    Args:
        text: as :func:`as_text` gives it.

    Raises:
        ConfigError: it means nothing; names the field, the value and the reason.
    """
    found: set[int] = set()
    for part in text.split(","):
        found.update(_numbers_of_part(field, part, text))
    return tuple(sorted(found))


def _numbers_of_part(field: Field, part: str, text: str) -> Iterable[int]:
    match = _PART.fullmatch(part)
    if match is None:
        reason = f"{part!r:.75} cannot be read" if part else "there is nothing between two commas"
        raise _refused(field, text, f"{reason}; write 5, '*', '*/15', '8-17/2' or '1,3,5'")
    star, first, last, step = match.groups()
    if star:
        found = list(range(field.first, field.last + 1))
    else:
        start = _number(field, first, text)
        if step and last is None:
            example = f"'{first}-{field.last}/{step}'"
            raise _refused(field, text, f"a step needs '*' or a range before it: {example}")
        end = start if last is None else _number(field, last, text)
        found = list(range(start, end + 1))
        if end < start:
            found = [*range(start, field.last + 1), *range(field.first, end + 1)]
    if step is None:
        return found
    if not step.isdecimal() or len(step) > _DIGITS_MAX or int(step) == 0:
        raise _refused(field, text, f"the step {step!r:.75} is no number above 0")
    return found[:: int(step)]


def _number(field: Field, word: str, text: str) -> int:
    if not word.isdecimal():
        number = field.names.get(word[:3])
        if number is None or not (len(word) == 3 or word in _FULL_NAMES):
            known = f" or name; there are {', '.join(field.names)}" if field.names else ""
            raise _refused(field, text, f"{word!r:.75} is no number{known}")
        return number
    number = int(word) if len(word) <= _DIGITS_MAX else field.last + 1
    if not field.first <= number <= field.last:
        sunday = "; Sunday is 0" if field is DAY_OF_WEEK and number == 7 else ""
        raise _refused(field, text, f"{word:.75} is not from {field.first} to {field.last}{sunday}")
    return number


def _refused(field: Field, value: object, reason: str) -> ConfigError:
    return ConfigError(f"crontab: {field.name}={value!r:.75}: {reason}")
