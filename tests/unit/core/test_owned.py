"""Marks say in whose hands a task of the journal is."""

from __future__ import annotations

import pytest

from zmqtasks.core.owned import (
    MARK_OWNED,
    Dead,
    Given,
    Incoming,
    Progress,
    dead_mark,
    given_to,
    incoming_from,
    merged,
    parse_mark,
)
from zmqtasks.limits import JOURNAL_MARK_BYTES_MAX


@pytest.mark.parametrize("node", [b"node", b"<", b">\x00!", bytes(8)])
def test_a_mark_says_what_it_was_made_of(node: bytes) -> None:
    assert parse_mark(incoming_from(node)) == Incoming(node)
    assert parse_mark(given_to(node)) == Given(node)


def test_a_task_that_is_owned_has_an_empty_mark() -> None:
    assert MARK_OWNED == b""
    assert parse_mark(MARK_OWNED) is None


def test_a_dead_task_keeps_its_story_and_the_reason() -> None:
    story = [{"event": "sent", "at_ms": 7, "to": b"w1"}, {"event": "lost", "at_ms": 9}]
    assert parse_mark(dead_mark(story, "three strikes", 10)) == Dead(story, "three strikes", 10)


def test_of_a_long_story_the_last_lines_are_kept() -> None:
    story = [{"event": "sent", "at_ms": at_ms, "to": "w" * 100} for at_ms in range(3_000)]
    mark = dead_mark(story, "why" * 10_000, 10)
    assert JOURNAL_MARK_BYTES_MAX // 2 < len(mark) <= JOURNAL_MARK_BYTES_MAX
    dead = parse_mark(mark)
    assert isinstance(dead, Dead)
    assert dead.story == story[-len(dead.story) :]
    assert dead.reason.startswith("whywhy")


def test_one_line_that_is_too_long_leaves_the_reason() -> None:
    dead = parse_mark(dead_mark([{"event": "x" * JOURNAL_MARK_BYTES_MAX}], "why", 1))
    assert dead == Dead([], "why", 1)


@pytest.mark.parametrize("mark", [b"?", b"<", b">", b"!", b"!nothing", b"\x00"])
def test_a_mark_without_a_meaning_is_refused(mark: bytes) -> None:
    with pytest.raises(ValueError, match="mark"):
        parse_mark(mark)


def test_changes_of_a_task_become_one_that_keeps_the_last_mark() -> None:
    changes = [Progress(b"a", 1, 0, b">n"), Progress(b"b", 2, 0), Progress(b"a", 2, 1)]
    assert merged(changes) == {b"a": Progress(b"a", 2, 1, b">n"), b"b": Progress(b"b", 2, 0)}
    assert merged([*changes, Progress(b"a", 3, 1, b"")])[b"a"] == Progress(b"a", 3, 1, b"")
