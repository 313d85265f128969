"""Numbers in words."""

from __future__ import annotations

import pytest

from zmqtasks.words import counted


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (1200, "1,200 tasks")]
)
def test_one_is_singular_and_all_others_are_plural(number: int, text: str) -> None:
    assert counted(number, "task") == text
