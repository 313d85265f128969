"""Style as a test: sizes, forbidden words, purity, and reference pages that are current."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from zmqtasks import celery_fates, settings
from zmqtasks.app import options

ROOT = Path(__file__).parents[2]
FOLDERS = ("zmqtasks", "tests", "docs", "examples", "benchmarks")
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60
POSITIONAL_MAX = 7
PARAMETERS_MAX = 12

#: Modules that decide and encode; whatever they need is passed in.
PURE = ("zmqtasks/core", "zmqtasks/schedules", "zmqtasks/wire")
IMPURE_MODULES = {
    "asyncio",
    "logging",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "zmq",
}

#: Marks of unfinished work. Put together from halves, so that this file has none.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
UNFINISHED_NAME = "NotImplemented" + "Error"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source(NamedTuple):
    """One Python file of this repository."""

    path: str
    text: str
    tree: ast.Module


def _sources() -> list[Source]:
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found.append(Source(str(path.relative_to(ROOT)), text, ast.parse(text)))
    return found


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return _sources()


def _functions(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and top-level name of everything imported, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module.split(".")[0]


def _none(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


def test_all_parts_of_the_repository_are_looked_at(sources: list[Source]) -> None:
    paths = {source.path for source in sources}
    assert {"zmqtasks/settings.py", "tests/unit/test_tidy.py"} <= paths


def test_files_are_small(sources: list[Source]) -> None:
    sizes = [(source.path, len(source.text.splitlines())) for source in sources]
    _none(
        [f"{path}: {n} lines, {FILE_LINES_MAX} at most" for path, n in sizes if n > FILE_LINES_MAX]
    )


def test_functions_are_short(sources: list[Source]) -> None:
    problems = []
    for source in sources:
        for function in _functions(source.tree):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                problems.append(
                    f"{source.path}:{function.lineno}: {function.name} has {lines} lines, "
                    f"{FUNCTION_LINES_MAX} at most"
                )
    _none(problems)


def test_functions_have_few_parameters(sources: list[Source]) -> None:
    problems = []
    for source in sources:
        for function in _functions(source.tree):
            names = [arg.arg for arg in function.args.posonlyargs + function.args.args]
            positional = len(names) - (names[:1] in (["self"], ["cls"]))
            total = positional + len(function.args.kwonlyargs)
            if positional > POSITIONAL_MAX or total > PARAMETERS_MAX:
                problems.append(
                    f"{source.path}:{function.lineno}: {function.name} has {positional} "
                    f"positional parameters ({POSITIONAL_MAX} at most) and {total} in all "
                    f"({PARAMETERS_MAX} at most)"
                )
    _none(problems)


def test_core_and_wire_are_pure(sources: list[Source]) -> None:
    _none(
        [
            f"{source.path}:{line}: imports {name}; what it gives must be passed in"
            for source in sources
            if source.path.startswith(PURE)
            for line, name in _imports(source.tree)
            if name in IMPURE_MODULES
        ]
    )


def test_only_net_imports_zmq(sources: list[Source]) -> None:
    _none(
        [
            f"{source.path}:{line}: imports zmq; only zmqtasks/net may"
            for source in sources
            if source.path.startswith("zmqtasks/") and not source.path.startswith("zmqtasks/net/")
            for line, name in _imports(source.tree)
            if name == "zmq"
        ]
    )


def test_nothing_is_left_unfinished(sources: list[Source]) -> None:
    _none(
        [
            f"{source.path}:{number}: {line.strip()}"
            for source in sources
            for number, line in enumerate(source.text.splitlines(), 1)
            if UNFINISHED.search(line) or UNFINISHED_NAME in line
        ]
    )


# --- reference pages ----------------------------------------------------------------------


def _script(name: str) -> Any:
    """A script under docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> Any:
    return _script("generate_reference")


@pytest.mark.parametrize("name", ["settings.md", "errors.md", "pools.md"])
def test_reference_page_is_current(generator: Any, name: str) -> None:
    committed = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert committed == generator.PAGES[name](), "run: make reference"


def test_page_for_users_of_celery_is_current() -> None:
    made = _script("generate_from_celery")
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run: make reference"


def test_table_of_workflows_is_current() -> None:
    made = _script("generate_workflows")
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run: make reference"


def test_what_exists_of_celery_is_not_told_to_be_missing() -> None:
    made = _script("generate_from_celery")
    _none(
        [
            f"{name}: exists, so its line in zmqtasks/celery_fates.py is wrong"
            for name in celery_fates.SETTINGS
            if made.exists(name)
        ]
    )
    known = options.TASK_OPTIONS | options.CALL_OPTIONS
    _none([f"{name}: the same" for name in celery_fates.OPTIONS if name in known])


def test_every_error_is_in_the_reference(sources: list[Source]) -> None:
    tree = next(source.tree for source in sources if source.path == "zmqtasks/errors.py")
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    assert "ZmqTasksError" in names
    _none([f"{name} is missing" for name in names if f"| `{name}` |" not in page])


def test_every_setting_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    names = sorted(settings.SETTING_NAMES)
    assert "mesh" in names
    _none([f"{name} is missing" for name in names if f"| `{name}` |" not in page])
