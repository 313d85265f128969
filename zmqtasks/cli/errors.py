"""How errors reach people: one line on stderr and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from zmqtasks.errors import AppLoadError, ZmqTasksError

#: Exit code of a command that could not do what it was asked.
EXIT_ERROR = 2


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Print a :class:`ZmqTasksError` as one line and exit with code 2.

    An application that cannot be imported shows its traceback above that line, since
    the fault is in the user's own code.
    """
    try:
        yield
    except ZmqTasksError as exc:
        if isinstance(exc, AppLoadError) and exc.traceback:
            click.echo(exc.traceback.rstrip(), err=True)
        click.echo(f"zmqtasks: error: {one_line(exc)}", err=True)
        raise click.exceptions.Exit(EXIT_ERROR) from None


def one_line(exc: ZmqTasksError) -> str:
    """The message of an error without line breaks; its class where it has none."""
    return " ".join(str(exc).split()) or type(exc).__name__
