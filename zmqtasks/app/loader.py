"""From ``--app tasks`` to an App: imports a module and finds the App in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from zmqtasks.app.app import App
from zmqtasks.app.importing import import_module
from zmqtasks.app.spec import find_spec
from zmqtasks.errors import AppLoadError


def load_app(spec: str, cwd: Path | None = None) -> App:
    """Import the module, make its App the current one, import what that wants, and give it.

    Args:
        spec: "tasks", "pkg.mod" or "pkg.mod:attribute"; "" looks for ``tasks.py``.
        cwd: searched first for modules, as ``python -m`` does; default: the current one.

    Raises:
        AppLoadError: no such module, its import or that of another module that the App names
            failed (with the traceback), or there is no App, or more than one, in it.
    """
    cwd = cwd or Path.cwd()
    module_name, _, attribute = find_spec(spec, cwd).partition(":")
    _check_name(module_name, attribute)
    _search_first(str(cwd))
    app = _find_app(import_module(module_name, cwd), attribute)
    # The module may have made others, too.
    app.set_current()
    app.import_default_modules()
    app.set_up()
    for error in app.setup_errors:
        raise AppLoadError(str(error)) from error
    if app.project is not None:
        app.project.loaded()
    return app


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
