"""How long something has stood."""

from __future__ import annotations

from zmqtasks.core.standing import Standing

A, B = b"A" * 8, b"B" * 8


def test_the_first_one_is_as_old_as_it_has_been_the_first() -> None:
    standing = Standing()
    assert standing.describe([], 5) == {"ms": 0, "nodes": {}}
    standing.look([1, 2], 10)
    standing.look([1, 2, 3], 70)
    assert standing.describe([A, A, B], 80) == {"ms": 70, "nodes": {A.hex(): 2, B.hex(): 1}}
    standing.look([2, 3], 90)
    assert standing.describe([A], 100)["ms"] == 10, "of the others it is known from here on"
    standing.look([], 110)
    standing.look([4], 120)
    assert standing.describe([A], 120)["ms"] == 0
