"""A mesh in the process of a test: what a user's tests see of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from zmqtasks import (
    App,
    AsyncResult,
    GroupResult,
    MaxRetriesExceededError,
    NoWorkers,
    TaskExpired,
    TaskRevokedError,
    TaskUnknown,
    WorkerLostError,
    allow_join_result,
    chain,
    chord,
    group,
)
from zmqtasks.app import timing
from zmqtasks.errors import ConfigError
from zmqtasks.testing import NeverEnds, VirtualMesh, mesh

START = datetime(2026, 3, 1, 12, tzinfo=UTC)

app = App("virtual", set_as_current=False)
seen: list[Any] = []


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def note(*what: Any) -> None:
    seen.append(what)


@app.task
def total(values: list[int]) -> int:
    return sum(values)


@app.task
def fail(text: str = "no") -> None:
    raise ValueError(text)


@app.task(bind=True, max_retries=3, default_retry_delay=60)
def flaky(self: Any, times: int) -> int:
    if self.request.retries < times:
        raise self.retry()
    return int(self.request.retries)


@app.task(autoretry_for=(KeyError,), retry_backoff=10, retry_jitter=False, max_retries=3)
def backs_off() -> None:
    raise KeyError("again")


@app.task
def calls_others(count: int) -> list[str]:
    return [add.delay(number, number).id for number in range(count)]


@app.task
def waits_for_others() -> int:
    with allow_join_result():
        return add.delay(1, 2).get(timeout=10) + add.apply_async((1, 2), countdown=5).get()


@app.task(bind=True)
def replaced(self: Any) -> Any:
    raise self.replace(chain(add.s(1, 1), add.s(10)))


@app.task(rate_limit="10/m")
def seldom(number: int) -> int:
    return number


@app.task(idempotent=False)
def pays() -> str:
    seen.append("paid")
    return "paid"


@app.task(queue="reports")
def report() -> str:
    return "done"


@app.task(bind=True)
def tells(self: Any) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1})
    return "told"


@app.task
def counts_up(count: int) -> Iterator[int]:
    yield from range(count)


@app.task
async def asynchronous(number: int) -> int:
    return number + 1


@app.task
def goes_on(countdown: float) -> None:
    goes_on.apply_async((countdown,), countdown=countdown)


@app.task(bind=True)
def who(self: Any) -> tuple[str, str]:
    return self.request.hostname, self.request.queue


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


@pytest.fixture
def net() -> Iterator[VirtualMesh]:
    with mesh(app, start=START) as found:
        yield found


# --- running ------------------------------------------------------------------------------


def test_a_call_runs_when_its_result_is_waited_for(net: VirtualMesh) -> None:
    result = add.delay(1, 2)
    assert result.state == "RECEIVED"
    assert not net.runs
    assert result.get() == 3
    assert result.state == "SUCCESS"
    assert net.now == START


def test_all_that_is_due_runs_on_command_and_no_time_passes(net: VirtualMesh) -> None:
    results = [add.delay(number, 1) for number in range(20)]
    net.run_until_idle()
    assert [result.state for result in results] == ["SUCCESS"] * 20
    assert net.now == START


def test_calls_and_attempts_are_listed(net: VirtualMesh) -> None:
    result = add.apply_async((1,), {"y": 2}, countdown=60, expires=90, priority=3)
    [call] = net.calls
    assert (call.id, call.task, call.args, call.kwargs) == (result.id, add.name, (1,), {"y": 2})
    assert call.queue == "default"
    assert call.eta == START + timedelta(seconds=60)
    assert call.expires == START + timedelta(seconds=90)
    assert call.priority == 3
    net.run_until_settled()
    [run] = net.runs
    assert (run.id, run.task, run.attempt, run.worker) == (result.id, add.name, 1, "worker1")
    assert (run.at, run.state) == (call.eta, "SUCCESS")


def test_arguments_and_results_travel_encoded(net: VirtualMesh) -> None:
    given = [1]
    note.delay(given, (1, 2)).get()
    assert seen == [([1], (1, 2))]
    assert seen[0][0] is not given
    with pytest.raises(Exception, match="object"):
        note.delay(object())


def test_calls_inside_of_tasks_run_too(net: VirtualMesh) -> None:
    ids = calls_others.delay(3).get()
    assert [AsyncResult(task_id, app).get() for task_id in ids] == [0, 2, 4]
    assert [call.task for call in net.calls] == [calls_others.name] + [add.name] * 3


def test_a_task_that_waits_for_others_lets_them_run_where_there_is_a_slot() -> None:
    with mesh(app, concurrency=2, start=START) as net:
        assert waits_for_others.delay().get() == 6
        assert net.now == START + timedelta(seconds=5)


def test_a_task_that_waits_for_others_without_a_slot_for_them_says_so(net: VirtualMesh) -> None:
    with pytest.raises(TimeoutError):
        waits_for_others.delay().get()


def test_an_error_is_raised_as_it_is_elsewhere(net: VirtualMesh) -> None:
    with pytest.raises(ValueError, match="bad"):
        fail.delay("bad").get()
    assert net.runs[0].state == "FAILURE"


def test_coroutine_functions_run(net: VirtualMesh) -> None:
    assert asynchronous.delay(1).get() == 2


def test_a_worker_has_its_name(net: VirtualMesh) -> None:
    assert who.delay().get() == ("worker1", "default")


def test_progress_and_items_reach_the_caller(net: VirtualMesh) -> None:
    assert [(update.state, update.meta) for update in tells.delay().updates()] == [
        ("PROGRESS", {"done": 1})
    ]
    assert list(counts_up.delay(4).stream()) == [0, 1, 2, 3]


def test_many_items_are_yielded_before_the_first_is_read(net: VirtualMesh) -> None:
    assert list(counts_up.delay(5_000).stream()) == list(range(5_000))


def test_groups_are_kept_and_found_again(net: VirtualMesh) -> None:
    result = group(add.s(n, n) for n in range(3))()
    result.save()
    found: GroupResult[int] | None = GroupResult.restore(result.id, app)
    assert found is not None
    assert found.get() == [0, 2, 4]


# --- time ---------------------------------------------------------------------------------


def test_a_countdown_ends_on_command(net: VirtualMesh) -> None:
    result = add.apply_async((1, 2), countdown=3600)
    net.advance(3599.9)
    assert not net.runs
    net.advance(timedelta(seconds=0.1))
    assert result.is_settled
    assert net.runs[0].at == START + timedelta(hours=1)


def test_a_result_that_is_waited_for_lets_time_pass(net: VirtualMesh) -> None:
    assert add.apply_async((1, 2), eta=START + timedelta(days=30)).get() == 3
    assert net.now == START + timedelta(days=30)


def test_a_timeout_is_in_the_time_of_the_mesh(net: VirtualMesh) -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="no result of task"):
        add.apply_async((1, 2), countdown=3600).get(timeout=600)
    assert net.now == START + timedelta(minutes=10)
    assert time.monotonic() - begun < 60


def test_retries_follow_when_they_are_due(net: VirtualMesh) -> None:
    assert flaky.delay(2).get() == 2
    assert [(run.attempt, run.state, run.at - START) for run in net.runs] == [
        (1, "RETRY", timedelta(0)),
        (2, "RETRY", timedelta(seconds=60)),
        (3, "SUCCESS", timedelta(seconds=120)),
    ]


def test_retries_back_off(net: VirtualMesh) -> None:
    with pytest.raises(KeyError):
        backs_off.delay().get()
    assert [(run.at - START).total_seconds() for run in net.runs] == [0, 10, 30, 70]


def test_retries_are_used_up(net: VirtualMesh) -> None:
    with pytest.raises(MaxRetriesExceededError):
        flaky.delay(9).get()
    assert len(net.runs) == 4


def test_what_has_expired_does_not_run(net: VirtualMesh) -> None:
    for worker in list(net.workers):
        net.stop(worker)
    result = add.apply_async((1, 2), expires=10)
    net.advance(11)
    net.add_worker()
    with pytest.raises(TaskExpired):
        result.get()
    assert not net.runs


def test_rate_limits_are_kept(net: VirtualMesh) -> None:
    results = seldom.delay_many([(number,) for number in range(5)])
    assert results.get() == list(range(5))
    gaps = {
        (later.at - earlier.at).total_seconds()
        for earlier, later in zip(net.runs[1:], net.runs[2:], strict=False)
    }
    assert gaps == {6.0}


def test_time_does_not_go_back(net: VirtualMesh) -> None:
    with pytest.raises(ValueError, match="time passes forward"):
        net.advance(-1)


def test_what_never_ends_is_told_with_the_reason() -> None:
    with mesh(app, queues=["default"]) as net:
        result = report.delay()
        with pytest.raises(NeverEnds, match="reports"):
            result.get()
        with pytest.raises(NeverEnds, match="reports"):
            net.run_until_settled()


def test_tasks_that_call_each_other_for_ever_are_told(
    net: VirtualMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zmqtasks.testing.virtual_mesh._ATTEMPTS_MAX", 20)
    for _ in range(30):
        add.delay(1, 2).get()
    goes_on.delay(1)
    net.advance(30)
    goes_on.delay(0)
    with pytest.raises(NeverEnds, match="20 attempts have run"):
        net.run_until_idle()


# --- workflows ----------------------------------------------------------------------------


def test_workflows_run(net: VirtualMesh) -> None:
    assert chain(add.s(1, 1), add.s(2), add.s(3))().get() == 7
    assert group(add.s(n, n) for n in range(4))().get() == [0, 2, 4, 6]
    assert chord([add.s(n, n) for n in range(4)])(total.s()).get() == 12
    nested = chain(group(add.s(1, 1), chain(add.s(1, 2), add.s(3))), total.s(), add.s(1))
    assert nested().get() == 9


def test_links_are_called(net: VirtualMesh) -> None:
    add.apply_async((1, 2), link=note.s("linked"), link_error=note.si("error")).get()
    fail.apply_async(link_error=note.si("error"), link=note.si("linked"))
    net.run_until_settled()
    assert seen == [(3, "linked"), ("error",)]


def test_a_task_is_replaced(net: VirtualMesh) -> None:
    assert replaced.delay().get() == 12


def test_a_failed_header_fails_its_body(net: VirtualMesh) -> None:
    result = chord([add.s(1, 1), fail.s()])(total.s())
    with pytest.raises(Exception, match="no"):
        result.get()
    assert total.name not in [run.task for run in net.runs]


def test_a_call_waits_for_others(net: VirtualMesh) -> None:
    first = add.apply_async((1, 2), countdown=60)
    note.apply_async(("after",), after=[first]).get()
    assert net.now == START + timedelta(seconds=60)


# --- workers ------------------------------------------------------------------------------


def test_what_a_killed_worker_had_runs_elsewhere(net: VirtualMesh) -> None:
    results = [add.delay(number, 1) for number in range(3)]
    net.kill("worker1")
    assert not net.runs
    net.add_worker("other")
    assert [result.get() for result in results] == [1, 2, 3]
    assert {run.worker for run in net.runs} == {"other"}


def test_an_attempt_that_takes_its_worker_along_is_followed_by_another(net: VirtualMesh) -> None:
    net.add_worker("other")
    net.kill("worker1", during=note)
    net.kill("other", during=note)
    net.add_worker("third")
    note.delay("here").get()
    states = [(run.worker, run.state) for run in net.runs]
    assert states[-1][1] == "SUCCESS"
    assert {state for _, state in states[:-1]} == {"LOST"}
    assert seen == [("here",)] * len(states)


def test_a_task_that_must_not_run_twice_ends_with_its_worker(net: VirtualMesh) -> None:
    net.add_worker("other")
    net.kill("worker1", during=pays)
    net.kill("other", during=pays)
    with pytest.raises(WorkerLostError):
        pays.delay().get()
    assert seen == ["paid"]


def test_a_task_may_kill_its_own_worker() -> None:
    own = App("virtual.killing", set_as_current=False)

    @own.task(name="virtual.suicidal")
    def suicidal() -> str:
        if not own_mesh.runs:
            own_mesh.kill(own_mesh.running_worker)
        return "survived"

    with mesh(own, workers=2) as own_mesh:
        assert suicidal.delay().get() == "survived"
        assert [run.state for run in own_mesh.runs] == ["LOST", "SUCCESS"]


def test_a_worker_that_is_stopped_gives_back_what_waits(net: VirtualMesh) -> None:
    result = add.apply_async((1, 2), countdown=60)
    net.stop("worker1")
    assert add.delay(1, 1).state == "PENDING"
    net.add_worker()
    assert result.get() == 3
    with pytest.raises(ConfigError, match="no worker worker1 is alive"):
        net.kill("worker1")


def test_workers_take_from_their_queues() -> None:
    with mesh(app, workers=0) as net:
        net.add_worker("plain", queues=["default"])
        net.add_worker("big", queues=["reports"])
        assert report.delay().get() == "done"
        assert add.apply_async((1, 2), queue="reports").get() == 3
        assert {run.worker for run in net.runs} == {"big"}


def test_a_worker_for_all_queues_takes_from_those_that_calls_name(net: VirtualMesh) -> None:
    assert add.apply_async((1, 2), queue="just.now").get() == 3


def test_tasks_that_are_defined_meanwhile_are_known() -> None:
    own = App("virtual.late", set_as_current=False)
    with mesh(own, start=START) as net:
        for factor in (2, 3):  # the second one in place of the first

            @own.task(name="virtual.late.times", rate_limit="1/m")
            def times(x: int, factor: int = factor) -> int:
                return factor * x

            assert [times.delay(x).get() for x in (1, 2)] == [factor, 2 * factor]
        assert net.now == START + timedelta(minutes=2)


def test_several_applications_have_workers_of_their_own() -> None:
    other = App("virtual2", set_as_current=False)

    @other.task(name="virtual2.twice")
    def twice(x: int) -> int:
        return 2 * x

    with mesh(app, other):
        assert twice.delay(add.delay(1, 2).get()).get() == 6


# --- results and control ------------------------------------------------------------------


def test_results_are_found_by_id_long_after(net: VirtualMesh) -> None:
    task_id = add.delay(1, 2).id
    net.advance(timedelta(hours=2))
    found: AsyncResult[int] = AsyncResult(task_id, app)
    assert (found.get(), found.state, found.worker) == (3, "SUCCESS", "worker1")


def test_an_id_that_nobody_knows_is_unknown(net: VirtualMesh) -> None:
    found: AsyncResult[int] = AsyncResult("00000000-0000-4000-8000-000000000001", app)
    assert found.state == "UNKNOWN"
    with pytest.raises(TaskUnknown):
        found.get()


def test_a_revoked_task_does_not_run(net: VirtualMesh) -> None:
    result = add.apply_async((1, 2), countdown=60)
    at_once = add.delay(3, 4)
    assert result.revoke() == "revoked"
    app.control.revoke(at_once.id)
    net.advance(120)
    assert not net.runs
    for each in (result, at_once):
        with pytest.raises(TaskRevokedError):
            each.get()


def test_repeated_calls_are_one_task(net: VirtualMesh) -> None:
    first = add.apply_async((1, 2), idempotency_key="order 1")
    second = add.apply_async((1, 2), idempotency_key="order 1")
    assert (first.get(), second.get()) == (3, 3)
    assert len(net.runs) == 1


def test_durable_calls_are_accepted(net: VirtualMesh) -> None:
    assert add.apply_async((1, 2), durability="disk").get() == 3


def test_calls_at_most_once_run(net: VirtualMesh) -> None:
    assert add.apply_async((1, 2), delivery="at_most_once").get(timeout=10) == 3


def test_workers_that_are_required_must_be_there() -> None:
    with mesh(app, workers=0) as net:
        with pytest.raises(NoWorkers):
            add.apply_async((1, 2), require_worker=5)
        net.add_worker()
        assert add.apply_async((1, 2), require_worker=5).get() == 3


def test_workers_can_be_asked_and_told(net: VirtualMesh) -> None:
    add.apply_async((1, 2), countdown=60)
    inspect = app.control.inspect()
    assert list(inspect.ping()) == ["store", "worker1"]
    assert add.name in inspect.registered()["worker1"]
    assert len(inspect.scheduled()["test"]) == 1
    assert "rate limit" in str(app.control.rate_limit(add.name, "1/m"))
    results = [add.delay(1, 1) for _ in range(3)]
    begun = net.now
    assert [result.get() for result in results] == [2, 2, 2]
    assert net.now - begun == timedelta(minutes=2)
    assert "cannot" in str(app.control.pool_grow())


def test_a_broadcast_reaches_every_worker(net: VirtualMesh) -> None:
    net.add_worker("other")
    results = who.broadcast()
    assert sorted(name for name, _ in results.get()) == ["other", "worker1"]


def test_the_story_of_a_task_is_told(net: VirtualMesh) -> None:
    result = add.delay(1, 2)
    result.get()
    assert "worker1" in str(result.story())


def test_callbacks_are_called_by_the_test_itself(net: VirtualMesh) -> None:
    told: list[Any] = []
    add.delay(1, 2).then(lambda result: told.append((result.get(), threading.current_thread())))
    add.delay(1, 2).then(lambda result: add.delay(result.get(), 4).then(told.append))
    net.run_until_idle()
    assert told[0] == (3, threading.main_thread())
    assert told[1].get() == 7


def test_a_result_can_be_forgotten(net: VirtualMesh) -> None:
    result = add.delay(1, 2)
    result.get()
    result.forget()
    with pytest.raises(TaskUnknown):
        AsyncResult(result.id, app).get()


# --- asyncio ------------------------------------------------------------------------------


async def _in_a_loop(net: VirtualMesh) -> None:
    assert await add.delay(1, 2) == 3
    assert await asynchronous.delay(1) == 2
    assert await (await add.aapply_async((1, 2), countdown=60)) == 3
    assert net.now == START + timedelta(seconds=60)
    assert await group(add.s(n, n) for n in range(3))() == [0, 2, 4]
    assert [item async for item in counts_up.delay(3).stream()] == [0, 1, 2]
    with pytest.raises(TimeoutError):
        await add.apply_async((1, 2), countdown=60).aget(timeout=10)


def test_results_can_be_awaited(net: VirtualMesh) -> None:
    import asyncio

    asyncio.run(_in_a_loop(net))


# --- life ---------------------------------------------------------------------------------


def test_there_is_one_mesh_at_a_time(net: VirtualMesh) -> None:
    with pytest.raises(RuntimeError, match="there is a mesh in this process already"):
        net_again().__enter__()


def test_the_usual_clock_is_back_afterwards() -> None:
    with mesh(app, start=START):
        assert timing.now_ms() == round(START.timestamp() * 1000)
    assert timing.clock() is timing.SYSTEM_CLOCK
    assert app.cached_gateway is None


def test_a_mesh_needs_an_app() -> None:
    with pytest.raises(ConfigError, match="needs an App"):
        mesh()


def net_again() -> VirtualMesh:
    return mesh(app, start=START)
