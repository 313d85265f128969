"""Names of apps and tasks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from zmqtasks.errors import ConfigError
from zmqtasks.wire.importable import main_module_name

NAME_CHARS_MAX = 200
_APP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")


def check_app_name(name: object) -> None:
    """Refuse names that would not read well in logs and commands.

    Raises:
        ConfigError: not letters, digits, ``_``, ``.`` and ``-``, or too long.
    """
    if not isinstance(name, str) or not _APP_NAME.fullmatch(name):
        raise ConfigError(
            f"App({name!r:.75}): an app's name has 1 to 63 letters, digits, '_', '.' or '-' and "
            "begins with a letter, digit or '_'"
        )


def check_task_name(name: object, where: str) -> None:
    """Refuse empty, long or unprintable names of tasks.

    Raises:
        ConfigError: see above.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ConfigError(f"{where}: a task's name is a printable text, not {name!r:.75}")
    if len(name) > NAME_CHARS_MAX:
        raise ConfigError(
            f"{where}: a task's name has {NAME_CHARS_MAX} characters at most, not {len(name)}"
        )


def module_of(function: Callable[..., Any], app_name: str) -> str:
    """The module that the name of a task begins with, when it was given none.

    A module run as ``__main__`` counts under its importable name, so that a script and
    the workers that import it mean the same task; without one (REPL, notebook) the
    app's name stands in.
    """
    module: str = getattr(function, "__module__", None) or app_name
    if module == "__main__":
        return main_module_name() or app_name
    return module


def function_name(function: Callable[..., Any]) -> str:
    """The name of a function, of its class for other callables."""
    found: str = getattr(function, "__name__", type(function).__name__)
    return found
