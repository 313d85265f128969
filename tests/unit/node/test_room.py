"""How much may be open: limits in count and bytes, waiting, and who is told of room."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from zmqtasks.errors import MeshOverloaded
from zmqtasks.node.room import Place, Room

PATIENCE_S = 20.0


def _in_thread(function: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as exc:  # noqa: BLE001 - looked at by the test
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def _until_awaited(room: Room) -> None:
    give_up = threading.Event()
    timer = threading.Timer(PATIENCE_S, give_up.set)
    timer.start()
    try:
        while not room.is_awaited:
            assert not give_up.is_set()
    finally:
        timer.cancel()


def test_limit_of_tasks_names_both_limits_and_the_settings() -> None:
    room = Room(2, 1_000)
    room.take(2, 10, 0)
    with pytest.raises(MeshOverloaded, match=r"2 open tasks with 10 bytes .* 2 and 1,000"):
        room.take(1, 1, 0)
    assert room.count == 2, "what was refused does not count"


def test_limit_of_bytes_holds_whatever_the_number_of_tasks() -> None:
    room = Room(1_000, 100)
    room.take(1, 100, 0)
    with pytest.raises(MeshOverloaded):
        room.take(1, 1, 0)


def test_a_batch_gets_room_for_all_of_it_or_none() -> None:
    room = Room(10, 100)
    room.take(8, 10, 0)
    with pytest.raises(MeshOverloaded):
        room.take(3, 10, 0)
    with pytest.raises(MeshOverloaded):
        room.take(1, 91, 0)
    room.take(2, 90, 0)


def test_a_call_that_is_over_a_limit_by_itself_passes_when_nothing_is_open() -> None:
    room = Room(10, 100)
    room.take(1, 1_000, 0)
    with pytest.raises(MeshOverloaded):
        room.take(1, 1, 0)


def test_calls_on_their_way_count_until_the_machines_say_what_they_hold() -> None:
    room = Room(10, 1_000)
    room.take(4, 40, 0)
    room.held(3, 30)
    assert (room.count, room.bytes) == (7, 70)
    room.came(4, 40)
    assert (room.count, room.bytes) == (7, 70)
    room.held(5, 50)
    assert (room.count, room.bytes) == (5, 50)


def test_waiting_thread_goes_on_when_machines_hold_less() -> None:
    room = Room(1, 1_000)
    room.take(1, 0, 0)
    room.came(1, 0)
    thread, raised = _in_thread(lambda: room.take(1, 0, PATIENCE_S))
    _until_awaited(room)
    room.held(0, 0)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert not raised
    assert room.count == 1
    assert not room.is_awaited


def test_waiting_thread_goes_on_when_calls_are_given_back() -> None:
    room = Room(1, 1_000)
    room.take(1, 0, 0)
    thread, raised = _in_thread(lambda: room.take(1, 0, PATIENCE_S))
    _until_awaited(room)
    room.give_back(1, 0)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert not raised


def test_wait_for_room_has_an_end() -> None:
    room = Room(1, 1_000)
    room.take(1, 0, 0)
    with pytest.raises(MeshOverloaded):
        room.take(1, 0, 0.01)
    assert not room.is_awaited


def _line(room: Room, order: list[str], name: str, count: int = 1) -> Place:
    return room.line_up(count, 0, lambda: order.append(name))


def test_whoever_waits_is_woken_in_the_order_in_which_they_came() -> None:
    room = Room(2, 1_000)
    room.take(2, 0, 0)
    room.came(2, 0)
    order: list[str] = []
    places = [_line(room, order, name) for name in "abc"]
    room.held(1, 0)
    assert order == ["a"]
    assert room.count == 2, "it is kept for the one that was woken"
    for place in places[:1]:
        room.take(1, 0, place)
    room.came(1, 0)
    room.held(0, 0)
    assert order == ["a", "b", "c"]


def test_nobody_overtakes_those_who_wait() -> None:
    room = Room(2, 1_000)
    room.take(1, 0, 0)
    order: list[str] = []
    large = _line(room, order, "two", 2)
    with pytest.raises(MeshOverloaded):
        room.take(1, 0, 0)
    place = _line(room, order, "one")
    assert order == []
    large.leave()
    assert order == ["one"]
    room.take(1, 0, place)
    assert room.count == 2
    assert not room.is_awaited


def test_a_thread_waits_behind_those_who_came_before_it() -> None:
    room = Room(1, 1_000)
    room.take(1, 0, 0)
    room.came(1, 0)
    order: list[str] = []
    place = _line(room, order, "first")
    thread, raised = _in_thread(lambda: room.take(1, 0, PATIENCE_S))
    room.held(0, 0)
    assert order == ["first"]
    room.take(1, 0, place)
    room.came(1, 0)
    room.held(0, 0)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert not raised


def test_room_that_is_granted_and_not_used_goes_to_the_next() -> None:
    room = Room(1, 1_000)
    room.take(1, 0, 0)
    order: list[str] = []
    first, second = _line(room, order, "first"), _line(room, order, "second")
    room.give_back(1, 0)
    first.leave()
    first.leave()
    assert order == ["first", "second"]
    assert room.count == 1
    room.take(1, 0, second)
    second.leave()
    assert room.count == 1, "it is used"


def test_who_has_not_got_room_is_refused_with_the_limits() -> None:
    room = Room(1, 1_000)
    room.take(1, 0, 0)
    place = _line(room, [], "late")
    with pytest.raises(MeshOverloaded, match="the limits are 1 and 1,000"):
        room.take(1, 0, place)
    place.leave()
    assert not room.is_awaited


def test_there_may_be_room_at_once() -> None:
    room = Room(1, 1_000)
    order: list[str] = []
    assert _line(room, order, "only").is_granted
    assert order == ["only"]
