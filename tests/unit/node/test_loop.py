from __future__ import annotations

from collections.abc import Callable

from zmqtasks.node.loop import Loop


def run(loop: Loop, until: Callable[[], bool]) -> None:
    """Turn until it is so; waits as long as the loop lets it."""

    def turn() -> int:
        if until():
            loop.stop()
        return 20_000

    loop.run(turn, lambda: None)


def test_timers_ring_in_their_order_and_end_the_wait() -> None:
    loop = Loop()
    rung: list[str] = []
    loop.call_later(30, rung.append, "third")
    loop.call_later(0, rung.append, "first")
    loop.call_later(10, rung.append, "second")
    run(loop, lambda: len(rung) == 3)
    assert rung == ["first", "second", "third"]


def test_timer_may_set_another_one() -> None:
    loop = Loop()
    rung: list[int] = []

    def ring(left: int) -> None:
        rung.append(left)
        if left:
            loop.call_later(1, ring, left - 1)

    loop.call_later(1, ring, 3)
    run(loop, lambda: len(rung) == 4)
    assert rung == [3, 2, 1, 0]


def test_what_a_timer_asks_for_soon_happens_without_a_wait() -> None:
    loop = Loop()
    happened: list[str] = []
    loop.call_later(1, loop.call_soon, happened.append, "soon")
    run(loop, lambda: bool(happened))
    assert happened == ["soon"]
