"""The documentation is true: its examples run, and what it names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.docs.running import Block, Command, Reader, blocks_of, commands_of
from zmqtasks.wire.allmessages import MESSAGE_CLASSES
from zmqtasks.wire.codec import VERSION_MAJOR
from zmqtasks.wire.messages import (
    ErrorCode,
    MessageType,
    RejectCode,
    Status,
    TaskState,
    Verdict,
)

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
)
WITH_EXAMPLES = [page for page in PAGES if blocks_of((ROOT / page).read_text(encoding="utf-8"))]

#: `core/dispatcher.py` or `core/dispatcher.py` followed by `Dispatcher.submit`.
_CODE = re.compile(r"`([a-z_/]+\.py)`(?:[\s,:]+`([A-Za-z_]+(?:\.[A-Za-z_]+)*)`)?")
#: `tests/unit/test_settings.py::test_name`.
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+(?:\.\w+)?)`")
_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]+)?\)")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    folder = tmp_path / "reader"
    folder.mkdir()
    reader = Reader(folder, ROOT)
    try:
        yield reader
    finally:
        reader.leave()


@pytest.mark.e2e
@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_examples_of_the_page_run(page: str, reader: Reader) -> None:
    assert reader.follow(text_of(page)) > 0


def test_pages_for_beginners_have_examples_that_run() -> None:
    assert {"README.md", "docs/quickstart.md"} <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for target, anchor in _LINK.findall(text_of(page)):
        if "://" in target:
            continue
        assert (folder / target).exists(), target
        if anchor and target.endswith(".md"):
            assert anchor[1:] in anchors_of((folder / target).read_text(encoding="utf-8")), anchor


def anchors_of(text: str) -> set[str]:
    """Names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_code_that_is_named_exists(page: str) -> None:
    for file, name in _CODE.findall(text_of(page)):
        path = next(
            (base / file for base in (ROOT / "zmqtasks", ROOT, (ROOT / page).parent)
             if (base / file).exists()),
            None,
        )  # fmt: skip
        if path is None:
            assert "/" not in file, f"{file} does not exist"
            continue  # a file of the reader's own, like tasks.py
        assert not name or name in names_in(path), f"{file} has no {name}"


@cache
def names_in(path: Path) -> frozenset[str]:
    """``function``, ``Class`` and ``Class.method`` of a module."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{item.name}"
                for item in node.body
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_are_named_exist(page: str) -> None:
    for file, name in _TEST.findall(text_of(page)):
        assert (ROOT / file).exists(), file
        assert name in names_in(ROOT / file), f"{file} has no {name}"


def test_every_promise_has_tests_that_guard_it() -> None:
    page = text_of("docs/promises.md")
    assert page.count(".py::") == len(_TEST.findall(page)), "the name of a test is misspelt"
    sections = [section.partition(" ") for section in page.split("\n## ")]
    promises = [(name, text) for name, _, text in sections if re.fullmatch(r"P\d+", name)]
    assert promises
    assert [name for name, _ in promises] == [f"P{n}" for n in range(1, len(promises) + 1)]
    for name, text in promises:
        tests = [test for _, test in _TEST.findall(text)]
        assert tests, f"{name} names no test"
        assert all(test.startswith(("test_", "Test")) for test in tests), name


def test_protocol_page_has_every_message() -> None:
    page = text_of("docs/protocol.md")
    rows = dict(re.findall(r"^\| `0x([0-9A-F]{2})` \| ([A-Z_]+) \|", page, flags=re.MULTILINE))
    sent = {f"{code:02X}": MessageType(code).name for code in MESSAGE_CLASSES}
    assert rows == sent
    assert f"version {VERSION_MAJOR}" in page


@pytest.mark.parametrize("message", list(MESSAGE_CLASSES.values()))
def test_protocol_page_has_every_field_in_order(message: type) -> None:
    name = MessageType(message.TYPE).name  # type: ignore[attr-defined]
    row = next(line for line in text_of("docs/protocol.md").splitlines() if f"` | {name} |" in line)
    fields = row.split("|")[4]
    assert tuple(re.findall(r"`(\w+)`", fields)) == message.__struct_fields__  # type: ignore[attr-defined]


@pytest.mark.parametrize("codes", [Status, RejectCode, ErrorCode, Verdict, TaskState])
def test_protocol_page_has_every_code(codes: type[Status]) -> None:
    page = text_of("docs/protocol.md")
    for code in codes:
        assert f"{code.value} {code.name}" in page, code


# --- the runner itself ------------------------------------------------------------------


def test_blocks_are_found_with_their_marks() -> None:
    page = "text\n```python file=a.py\nx = 1\n```\n"
    page += "```console\n$ no\n```\n```console run\n$ b\n```\n"
    assert blocks_of(page) == [
        Block("python", "file=a.py", "x = 1\n", 2),
        Block("console", "run", "$ b\n", 8),
    ]


def test_commands_have_their_output() -> None:
    assert list(commands_of("$ a \\\n  b\none\ntwo\n$ node &\n")) == [
        Command("a   b", "one\ntwo\n"),
        Command("node &", ""),
    ]


def test_wrong_example_is_noticed(reader: Reader) -> None:
    with pytest.raises(AssertionError, match="instead of"):
        reader.follow("```console run\n$ echo 1\n2\n```\n")
    with pytest.raises(AssertionError, match="Failed example"):
        reader.follow("```pycon run\n>>> 1\n2\n```\n")
    with pytest.raises(AssertionError, match="no such command"):
        reader.follow("```console run\n$ echo no such command; false\n```\n")
    with pytest.raises(AssertionError, match="what is"):
        reader.follow("```python ran\n1\n```\n")
