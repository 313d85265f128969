"""Names of classes and modules that another process can import.

A value of a class, or a task, travels by the import path of what defines it. Code run
as a script lives in ``__main__``, which means something else in every process, so it
takes the name under which others import the same file: ``python tasks.py`` gives
``tasks``, ``python -m pkg.tasks`` gives ``pkg.tasks``; a REPL, a notebook and
``python -c`` have no such name.
"""

from __future__ import annotations

import importlib
import sys

#: Longest import path that is looked up; hostile ones should not fill a log.
PATH_CHARS_MAX = 512

#: {"module:QualName": class}, only what was found; classes live as long as modules.
_CLASSES: dict[str, type] = {}
#: {class: "module:QualName"}, only what was checked.
_PATHS: dict[type, str] = {}


def main_module_name() -> str | None:
    """The name under which other processes import what runs here as ``__main__``.

    None where there is no file to import: REPL, notebook, ``python -c``.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    if not file:
        return None
    stem = str(file).replace("\\", "/").rpartition("/")[2].partition(".")[0]
    return stem if stem.isidentifier() else None


def path_of(cls: type) -> str:
    """``module:QualName`` of a class that others can import.

    Raises:
        ValueError: it is not importable; the message says why.
    """
    known = _PATHS.get(cls)
    if known is not None:
        return known
    label = f"class {cls.__module__}.{cls.__qualname__}"
    if "<locals>" in cls.__qualname__:
        raise ValueError(f"{label} is defined inside a function, so no other process has it")
    module: str | None = cls.__module__
    if module == "__main__":
        module = main_module_name()
        if module is None:
            raise ValueError(f"{label} is defined interactively, so no other process has it")
    if _walk(sys.modules.get(cls.__module__), cls.__qualname__) is not cls:
        raise ValueError(f"{label} is not what its module has under that name")
    path = f"{module}:{cls.__qualname__}"
    _PATHS[cls] = path
    return path


def resolve(path: str) -> type:
    """The class at ``module:QualName``, importing its module when needed.

    Raises:
        LookupError: there is no such class here; the message says why.
    """
    known = _CLASSES.get(path)
    if known is not None:
        return known
    module_name, _, qualname = path.partition(":")
    parts = [*module_name.split("."), *qualname.split(".")]
    if len(path) > PATH_CHARS_MAX or not all(part.isidentifier() for part in parts):
        raise LookupError(f"{path[:75]!r} is no import path of a class")
    found = _walk(_module(module_name), qualname)
    if isinstance(found, type):
        _CLASSES[path] = found
        return found
    raise LookupError(f"module {module_name} has no class {qualname} here")


def _module(name: str) -> object:
    # The script that runs here must not be imported a second time under its own name.
    if name not in sys.modules and name == main_module_name():
        return sys.modules["__main__"]
    module = sys.modules.get(name)
    if module is not None:
        return module
    try:
        return importlib.import_module(name)
    except Exception as exc:  # noqa: BLE001 - importing runs foreign code
        raise LookupError(
            f"module {name} cannot be imported here ({type(exc).__name__}: {exc})"
        ) from None


def _walk(found: object, qualname: str) -> object:
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
