"""From ``--app tasks`` to an App: imports a module and finds the App in it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from zmqtasks.app.app import App
from zmqtasks.app.spec import find_spec
from zmqtasks.errors import AppLoadError


def load_app(spec: str, cwd: Path | None = None) -> App:
    """Import the module and give its App.

    Args:
        spec: "tasks", "pkg.mod" or "pkg.mod:attribute"; "" looks for ``tasks.py``.
        cwd: searched first for modules, as ``python -m`` does; default: the current one.

    Raises:
        AppLoadError: no such module, its import failed (with the traceback), or there is
            no App, or more than one, in it.
    """
    cwd = cwd or Path.cwd()
    module_name, _, attribute = find_spec(spec, cwd).partition(":")
    _check_name(module_name, attribute)
    _search_first(str(cwd))
    return _find_app(_import(module_name, cwd), attribute)


def _check_name(module_name: str, attribute: str) -> None:
    stem = module_name.removesuffix(".py").replace(os.sep, ".").strip(".")
    if module_name != stem:
        raise AppLoadError(f"{module_name!r} is a file name, a module is wanted: --app {stem}")
    parts = module_name.split(".") + (attribute.split(".") if attribute else [])
    if not all(part.isidentifier() for part in parts):
        raise AppLoadError(
            f"{module_name}:{attribute} names no module and attribute; "
            "use MODULE or MODULE:ATTRIBUTE, as in --app shop.tasks:app"
        )


def _search_first(directory: str) -> None:
    if directory not in sys.path and "" not in sys.path:
        sys.path.insert(0, directory)


def _import(name: str, cwd: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name and (name == exc.name or name.startswith(exc.name + ".")):
            raise AppLoadError(
                f"there is no module {exc.name!r} in {cwd} or on the module search path; "
                "start the node in the directory that has it, or set PYTHONPATH"
            ) from None
        raise _import_error(name, exc) from exc
    # A module may also call sys.exit().
    except (Exception, SystemExit) as exc:
        raise _import_error(name, exc) from exc


def _import_error(name: str, exc: BaseException) -> AppLoadError:
    text = "".join(traceback.format_exception(type(exc), exc, _own_frames_cut(exc.__traceback__)))
    return AppLoadError(f"importing {name!r} failed: {type(exc).__name__}: {exc}", text)


def _own_frames_cut(trace: TracebackType | None) -> TracebackType | None:
    """Begin at the application's first frame: how we came to import it says nothing. None: it
    has none, as when its file cannot be parsed."""
    found = trace
    while found is not None and _is_machinery(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    return found


def _is_machinery(filename: str) -> bool:
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen importlib")


def _find_app(module: ModuleType, attribute: str) -> App:
    name = module.__name__
    if attribute:
        found: Any = module
        for part in attribute.split("."):
            found = getattr(found, part, None)
        if not isinstance(found, App):
            what = "does not exist" if found is None else f"is a {type(found).__name__}, no App"
            raise AppLoadError(f"{name}:{attribute} {what}; {_offer(module)}")
        return found
    conventional = getattr(module, "app", None)
    if isinstance(conventional, App):
        return conventional
    apps = _apps_in(module)
    if len({id(app) for app in apps.values()}) != 1:
        raise AppLoadError(f"{name} does not say which App to run; {_offer(module)}")
    return next(iter(apps.values()))


def _apps_in(module: ModuleType) -> dict[str, App]:
    return {name: value for name, value in vars(module).items() if isinstance(value, App)}


def _offer(module: ModuleType) -> str:
    names = sorted(_apps_in(module))
    if names:
        return "it has " + ", ".join(f"--app {module.__name__}:{name}" for name in names)
    return f"{module.__file__ or module.__name__} has no App: app = zmqtasks.App('name')"
