from __future__ import annotations

from zmqtasks.core.calls import Call
from zmqtasks.core.effects import LaneConnect, LaneDisconnect, LanePush, Note, Subscribe
from zmqtasks.core.fastlane import FastLane
from zmqtasks.core.links import LinkId
from zmqtasks.wire.messages import CatalogEntry, Hello, Kind, Outcome, Status, TaskState

_NODE = b"producer"
_WORKER = LinkId("out", b"nworker-1\0\0\0\1")
_KIND = Kind("shop", "tasks.add", "", "default")


def _hello(queue: str = "default", app: str = "shop") -> Hello:
    return Hello(
        b"worker-1", 1, 1, 1, 0, bytes(8), 1, 1, [], "w1", ["worker"], bytes(8), 1,
        ["tcp://h:1"], ["tcp://h:2"], ["tcp://h:3"], 2, [queue],
        [CatalogEntry(app, "tasks.add", "", "()")], {},
    )  # fmt: skip


def _call(number: int, size: int = 1) -> Call:
    return Call(number.to_bytes(16, "big"), _KIND, b"x" * size, None)


def _lane() -> FastLane:
    return FastLane(_NODE, b"R" + _NODE)


def _effects(lane: FastLane, now_ms: int) -> list[object]:
    lane.push(now_ms)
    effects: list[object] = [*lane.effects]
    lane.effects.clear()
    return effects


def test_tasks_wait_for_a_worker_and_go_to_it_with_their_origin() -> None:
    lane = _lane()
    lane.submit([_call(1), _call(2)], 0)
    assert _effects(lane, 0) == []
    assert lane.open_count == 2
    lane.link_up(_WORKER, _hello())
    connect, subscribe, push = _effects(lane, 10)
    assert connect == LaneConnect("shop\ndefault", b"worker-1", ("tcp://h:3",))
    assert subscribe == Subscribe(b"worker-1", ("tcp://h:2",), (b"R" + _NODE,))
    assert isinstance(push, LanePush)
    assert [record.ext for record in push.message.tasks] == [{"o": _NODE}] * 2  # type: ignore[attr-defined]
    assert lane.open_count == 0


def test_what_nobody_had_room_for_keeps_its_order_and_is_offered_again() -> None:
    lane = _lane()
    lane.link_up(_WORKER, _hello())
    lane.submit([_call(1), _call(2), _call(3)], 0)
    *_, push = _effects(lane, 0)
    assert isinstance(push, LanePush)
    lane.not_pushed(push.lane, push.calls, 0)
    assert lane.open_count == 3
    again_ms = lane.next_deadline_ms()
    assert again_ms is not None
    assert _effects(lane, again_ms - 1) == []
    (second,) = _effects(lane, again_ms)
    assert isinstance(second, LanePush)
    assert second.calls == push.calls


def test_large_tasks_go_alone() -> None:
    lane = _lane()
    lane.link_up(_WORKER, _hello())
    lane.submit([_call(1), _call(2, 100_000), _call(3)], 0)
    pushes = [effect for effect in _effects(lane, 0) if isinstance(effect, LanePush)]
    assert [len(push.calls) for push in pushes] == [1, 1, 1]


def test_results_are_taken_once_and_those_of_others_are_not() -> None:
    lane = _lane()
    lane.link_up(_WORKER, _hello())
    lane.submit([_call(1)], 0)
    lane.push(0)
    outcome = Outcome(_call(1).id, 1, Status.SUCCESS, 1, 0, 0, 0, 0, b"", None)
    other = Outcome(_call(9).id, 1, Status.SUCCESS, 2, 0, 0, 0, 0, b"", None)
    assert lane.published([other, outcome]) == [outcome]
    assert lane.published([outcome]) == []


def test_worker_that_leaves_is_taken_off_its_lanes() -> None:
    lane = _lane()
    lane.link_up(_WORKER, _hello())
    lane.submit([_call(1)], 0)
    lane.push(0)
    lane.effects.clear()
    lane.link_down(_WORKER)
    assert lane.effects == [LaneDisconnect("shop\ndefault", b"worker-1")]


def test_task_that_no_worker_takes_is_pending_and_warned_of_with_the_reason() -> None:
    lane = _lane()
    lane.link_up(_WORKER, _hello(queue="mail"))
    lane.submit([_call(1), _call(2)], 0)
    assert _effects(lane, 0) == []
    warn_ms = lane.next_deadline_ms()
    assert warn_ms is not None
    assert warn_ms > 0
    (note,) = _effects(lane, warn_ms)
    assert isinstance(note, Note)
    assert note.level == "warning"
    assert "serves queue 'default'; they serve 'mail'" in note.text
    assert lane.next_deadline_ms() is None
    state = lane.state_of(_call(1).id)
    assert state is not None
    assert (state.state, state.info["why"]) == (TaskState.PENDING, note.text)
    assert lane.describe() == [{
        "task": "tasks.add", "app": "shop", "queue": "default", "count": 2, "why": note.text,
    }]  # fmt: skip
    lane.link_up(_WORKER, _hello())
    assert any(isinstance(effect, LanePush) for effect in _effects(lane, warn_ms + 1))
    assert lane.describe() == []


def test_waiting_calls_count_with_their_bytes_until_a_worker_took_them() -> None:
    lane = _lane()
    lane.submit([_call(1, 10), _call(2, 20)], 0)
    assert (lane.open_count, lane.open_bytes) == (2, 30)
    lane.link_up(_WORKER, _hello())
    push = next(effect for effect in _effects(lane, 10) if isinstance(effect, LanePush))
    assert (lane.open_count, lane.open_bytes) == (0, 0)
    lane.not_pushed(push.lane, push.calls, 10)
    assert (lane.open_count, lane.open_bytes) == (2, 30)


def test_calls_with_a_limit_go_to_workers_whose_pools_keep_it_and_wait_for_one() -> None:
    lane = _lane()
    threads, processes = _hello(), _hello()
    threads.ext = {"can": ["soft_limit"]}
    processes.ext = {"can": ["hard_limit", "soft_limit"]}
    lane.link_up(_WORKER, threads)
    limited, free = _call(1)._replace(ext={"tl": [0, 500]}), _call(2)
    lane.submit([limited, free], 0)
    (push,) = [effect for effect in _effects(lane, 0) if isinstance(effect, LanePush)]
    assert [call.id for call in push.calls] == [free.id]
    state = lane.state_of(limited.id)
    assert state is not None
    assert "start one with --pool process" in state.info["why"]
    lane.link_up(LinkId("out", b"nworker-2\0\0\0\1"), processes)
    (push,) = [effect for effect in _effects(lane, 10) if isinstance(effect, LanePush)]
    assert [call.id for call in push.calls] == [limited.id]
