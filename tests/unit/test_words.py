"""Numbers in words."""

from __future__ import annotations

import pytest

from zmqtasks.words import counted, told_apart


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (1200, "1,200 tasks")]
)
def test_one_is_singular_and_all_others_are_plural(number: int, text: str) -> None:
    assert counted(number, "task") == text


def test_names_that_nodes_share_have_their_ids_and_who_has_none_is_called_by_it() -> None:
    nodes = [("w", "01"), ("s", "02"), ("w", "03"), ("", "04")]
    assert told_apart(nodes) == ["w@01", "s", "w@03", "04"]
