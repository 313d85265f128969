"""How errors reach people: one line on stderr and an exit code.

====  ===================================================================
0     done
1     the task failed, or nobody knows it; a node did not answer, or could
      not; ``status`` of a mesh without nodes; a damaged journal
2     the command could not do what it was asked; there is nobody to ask
3     the task has not finished
130   interrupted from the keyboard
====  ===================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import click

from zmqtasks.cli.logs import is_json
from zmqtasks.errors import AppLoadError, ZmqTasksError

EXIT_FAILED = 1
EXIT_ERROR = 2
EXIT_OPEN = 3
EXIT_INTERRUPTED = 130


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Print a :class:`ZmqTasksError` as one line and exit with code 2.

    An application that cannot be imported shows its traceback above that line, since
    the fault is in the user's own code. Ctrl-C ends the command without a word.
    """
    try:
        yield
    except ZmqTasksError as exc:
        show_error(exc)
        raise click.exceptions.Exit(EXIT_ERROR) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def show_error(exc: ZmqTasksError) -> None:
    """As ``reporting_errors`` does; one line of the log where that is JSON."""
    traceback = exc.traceback.rstrip() if isinstance(exc, AppLoadError) else ""
    if is_json():
        extra = {"traceback_text": traceback}
        logging.getLogger("zmqtasks.cli").error("%s", one_line(exc), extra=extra)
        return
    if traceback:
        click.echo(traceback, err=True)
    click.echo(f"zmqtasks: error: {one_line(exc)}", err=True)


def one_line(exc: ZmqTasksError) -> str:
    """The message of an error without line breaks; its class where it has none."""
    return " ".join(str(exc).split()) or type(exc).__name__
