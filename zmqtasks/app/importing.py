"""Importing an application's modules, with errors that show the line that is to blame."""

from __future__ import annotations

import importlib
import importlib.util
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

from zmqtasks.errors import AppLoadError, ConfigError


class Discovery(NamedTuple):
    """Packages that may each have a module with tasks."""

    #: Names of packages, or a function that finds them when they are wanted.
    packages: Iterable[str] | Callable[[], Iterable[str]]
    #: Name of the module in each; None: the packages themselves.
    related_name: str | None

    def module_names(self) -> list[str]:
        """Those that exist.

        Raises:
            AppLoadError: a package does not exist, or cannot be imported.
            ConfigError: what was found are no names.
        """
        packages = self.packages() if callable(self.packages) else self.packages
        names = names_of(packages, "autodiscover_tasks()")
        if self.related_name is None:
            return names
        return [
            f"{package}.{self.related_name}"
            for package in names
            if _has_module(import_module(package), self.related_name)
        ]


def names_of(names: object, where: str) -> list[str]:
    """Names of modules, as a list.

    Raises:
        ConfigError: they are none; one text would be a sequence of letters.
    """
    found: list[Any] = [None]
    if isinstance(names, Iterable) and not isinstance(names, (str, bytes)):
        found = list(names)
    if not all(isinstance(name, str) and name for name in found):
        raise ConfigError(
            f"{where}: names of modules are a list such as ['shop.tasks'], not {names!r:.75}"
        )
    return found


def _has_module(package: ModuleType, name: str) -> bool:
    # A plain module has no others in it.
    return (
        hasattr(package, "__path__")
        and importlib.util.find_spec(f"{package.__name__}.{name}") is not None
    )


def import_module(name: str, folder: Path | None = None) -> ModuleType:
    """Import a module.

    Args:
        name: its full name.
        folder: where one looks for it first, for people; by default the working directory.

    Raises:
        AppLoadError: it does not exist, or its import failed (with the traceback).
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name and (name == exc.name or name.startswith(exc.name + ".")):
            raise AppLoadError(
                f"there is no module {exc.name!r} in {folder or Path.cwd()} or on the module "
                "search path; start the node in the directory that has it, or set PYTHONPATH"
            ) from None
        raise import_error(f"importing {name!r}", exc) from exc
    # A module may also call sys.exit().
    except (Exception, SystemExit) as exc:
        raise import_error(f"importing {name!r}", exc) from exc


def import_error(what: str, exc: BaseException) -> AppLoadError:
    """The error for code of the application that raised when it was loaded."""
    text = "".join(traceback.format_exception(type(exc), exc, _own_frames_cut(exc.__traceback__)))
    return AppLoadError(f"{what} failed: {type(exc).__name__}: {exc}", text)


def _own_frames_cut(trace: TracebackType | None) -> TracebackType | None:
    """Begin at the application's first frame: how we came to import it says nothing. None: it
    has none, as when its file cannot be parsed."""
    found = trace
    while found is not None and _is_machinery(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    return found


def _is_machinery(filename: str) -> bool:
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen importlib")
