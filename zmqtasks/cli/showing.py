"""Values and failures of tasks, for people and for programs."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from zmqtasks.app import states
from zmqtasks.app.result import AsyncResult
from zmqtasks.cli.errors import EXIT_FAILED
from zmqtasks.errors import TaskFailed


def as_json(data: object) -> str:
    """JSON with every value that JSON has no form for as its ``repr``."""
    try:
        return json.dumps(data, ensure_ascii=False, default=repr)
    except (TypeError, ValueError):  # keys that are no text, or it contains itself
        return json.dumps(repr(data), ensure_ascii=False)


def as_text(value: object) -> str:
    """Texts as they are, other values as JSON where that says it all, else ``repr``."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def show_outcome(handle: AsyncResult[Any], *, with_json: bool) -> int:
    """Print how a task ended; returns the exit code."""
    ending = handle.get(timeout=0, propagate=False)
    failed = handle.state in states.EXCEPTION_STATES
    if with_json:
        data: dict[str, object] = {"id": handle.id, "state": handle.state}
        data |= {"error": _error_data(ending)} if failed else {"result": ending}
        click.echo(as_json(data))
    elif failed:
        click.echo(_error_text(ending), err=True)
    else:
        click.echo(as_text(ending))
    sys.stdout.flush()
    return EXIT_FAILED if failed else 0


def _error_data(error: Any) -> dict[str, object]:
    return {
        "type": _type_of(error),
        "message": str(error),
        "traceback": getattr(error, "remote_traceback", None),
    }


def _error_text(error: Any) -> str:
    trace = getattr(error, "remote_traceback", None)
    return str(trace).rstrip() if trace else f"{_type_of(error)}: {error}"


def _type_of(error: Any) -> str:
    if isinstance(error, TaskFailed) and error.remote_type:
        return error.remote_type
    cls = type(error)
    name = cls.__qualname__
    return name if cls.__module__ == "builtins" else f"{cls.__module__}.{name}"
