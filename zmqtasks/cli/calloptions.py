"""What a call from the command line may say beyond its arguments, as ``apply_async`` has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any

import click

#: Options that are passed on as they are.
_PLAIN = (
    "countdown", "eta", "expires", "priority", "time_limit", "soft_time_limit", "task_id",
    "idempotency_key",
)  # fmt: skip
#: What is said of a time: the text, and what else it might be.
_NO_TIME = "{!r} is no time; write {}for example 2026-03-01T06:00 or 2026-03-01T06:00+01:00"


def moment(text: str) -> datetime:
    """A point in time, as people write it.

    Raises:
        BadParameter: it is none.
    """
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(_NO_TIME.format(text, "")) from None


def moment_or_seconds(text: str) -> datetime | float:
    """A point in time, or seconds from now.

    Raises:
        BadParameter: it is neither.
    """
    with suppress(ValueError):
        return float(text)
    with suppress(ValueError):
        return datetime.fromisoformat(text)
    raise click.BadParameter(_NO_TIME.format(text, "seconds from now, or "))


def call_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options that ``from_flags`` reads."""
    for option in reversed((
        click.option("--countdown", type=float, metavar="SECONDS",
                     help="Start it no sooner than in so many seconds."),
        click.option("--eta", type=moment, metavar="TIME",
                     help="Start it no sooner than then, such as 2026-03-01T06:00; without an "
                     "offset by the clock of the application's time zone."),
        click.option("--after", multiple=True, metavar="ID",
                     help="Start it when this task has succeeded; may be repeated."),
        click.option("--expires", type=moment_or_seconds, metavar="SECONDS|TIME",
                     help="Do not start it any more after that."),
        click.option("--priority", type=int, metavar="0-9", help="9 goes first."),
        click.option("--tag", "tags", multiple=True, metavar="TAG",
                     help="A tag that its worker must have; may be repeated."),
        click.option("--resource", "resources", multiple=True, metavar="NAME=AMOUNT",
                     help="What its worker must have free, such as gpu=1; may be repeated."),
        click.option("--header", "headers", multiple=True, metavar="NAME=VALUE",
                     help="A fact that travels with it; the value is JSON or a text. May be "
                     "repeated."),
        click.option("--time-limit", type=float, metavar="SECONDS",
                     help="An attempt may run so long; then its process is ended."),
        click.option("--soft-time-limit", type=float, metavar="SECONDS",
                     help="After this SoftTimeLimitExceeded is raised in the task."),
        click.option("--task-id", metavar="ID",
                     help="A UUID, or any text: the same text is the same task."),
        click.option("--idempotency-key", metavar="TEXT",
                     help="Names what the call is about: with the same key and arguments it is "
                     "the same task, however often it is called."),
    )):  # fmt: skip
        command = option(command)
    return command


def from_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Take these options out of the flags of a command; what was not given is left out.

    Raises:
        BadParameter: a resource or a header is no pair.
    """
    given = {key: flags.pop(key) for key in _PLAIN}
    given["tags"] = list(flags.pop("tags"))
    given["after"] = list(flags.pop("after"))
    given["resources"] = {
        name: _amount(value) for name, value in _pairs(flags.pop("resources"), "--resource")
    }
    given["headers"] = {
        name: parse_argument(value) for name, value in _pairs(flags.pop("headers"), "--header")
    }
    return {key: value for key, value in given.items() if value not in (None, [], {})}


def parse_argument(text: str) -> Any:
    """The value of JSON, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _pairs(texts: Iterable[str], hint: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is no pair; write NAME=VALUE", param_hint=hint)
        pairs.append((name, value))
    return pairs


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no number; write for example gpu=1", param_hint="--resource"
        ) from None
