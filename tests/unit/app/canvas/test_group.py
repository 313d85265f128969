"""Many calls that go out together: which, in which batches, how, and with what results."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import (
    App,
    AsyncResult,
    GroupResult,
    group,
    result_from_tuple,
    signals,
    signature,
)
from zmqtasks.app import batches
from zmqtasks.errors import (
    ConfigError,
    MeshOverloaded,
    NoWorkers,
    PayloadTypeError,
    SubmitRejected,
    SubmitUnknown,
)
from zmqtasks.node.gateway import Durability


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return 10 * x + y

    return add


@pytest.fixture
def fail(app: App) -> Any:
    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no")

    return fail


def test_all_ways_to_name_the_members_are_the_same(add: Any) -> None:
    made = [add.s(1), add.s(2)]
    groups = [group(*made), group(made), group(tuple(made)), group(iter(made)), group(group(made))]
    assert [each.delay().get() for each in groups] == [[10, 20]] * 5
    assert group(add.s(1)).delay().get() == [10]
    assert group([dict(each) for each in made]).delay().get() == [10, 20]  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [lambda: group(), lambda: group([]), lambda: group(iter(()))])
def test_empty_groups_have_empty_results(app: App, gateway: InlineGateway, make: Any) -> None:
    result = make().delay()
    assert (result.get(), result.ready(), result.successful(), len(result)) == ([], True, True, 0)
    assert asyncio.run(make().adelay()).get() == []
    assert not gateway.calls


def test_groups_in_groups_are_flattened(add: Any) -> None:
    made = group(add.s(1), group(add.s(2), group([add.s(3)]), group()), add.s(4))
    result = made.delay()
    assert result.get() == [10, 20, 30, 40]
    assert len(made) == 3


def test_partial_arguments_go_to_each_that_takes_them(add: Any) -> None:
    made = group(add.s(2), add.si(3), group(add.s(4)))
    assert made.delay(1).get() == [12, 30, 14]
    assert made(1).get() == [12, 30, 14]
    assert made.apply_async((), {"y": 5}).get() == [25, 30, 45]
    assert made.clone((1,)).delay().get() == [12, 30, 14]
    assert ~group(add.s(1)) == [10]


def test_options_of_the_group_are_for_each_and_the_latest_win(
    add: Any, gateway: InlineGateway
) -> None:
    inner = group(add.s(3), queue="inner")
    made = group([add.s(1), add.s(2).set(queue="own"), inner], priority=3)
    made.apply_async(priority=4)
    assert [call.kind.queue for call in gateway.calls] == ["default", "own", "inner"]
    assert [call.ext["pri"] for call in gateway.calls if call.ext] == [4, 4, 4]
    with pytest.raises(ConfigError, match="cuontdown"):
        made.apply_async(cuontdown=3)
    with pytest.raises(ConfigError, match="cuontdown"):
        group(add.s(1), cuontdown=3)


def test_members_know_their_group(app: App, add: Any, gateway: InlineGateway) -> None:
    result = group(add.s(1), add.s(2).set(queue="slow")).apply_async(task_id="my group")
    assert {(call.ext or {})["g"] for call in gateway.calls} == {result.group_id}
    assert result.id == app.AsyncResult("my group").id
    assert group(add.s(1)).delay().id != group(add.s(1)).delay().id


def test_a_generator_is_used_once_and_batch_by_batch(add: Any, gateway: InlineGateway) -> None:
    submitted = []

    def signatures() -> Iterator[Any]:
        for i in range(2500):
            if i % 1000 == 1:
                submitted.append(len(gateway.calls))
            yield add.s(i)

    made = group(signatures())
    assert repr(made) == "group(<generator>)"
    assert made.delay().get() == [10 * i for i in range(2500)]
    assert submitted == [0, 1000, 2000]
    assert len(gateway.submits) == 3
    with pytest.raises(ConfigError, match="can be submitted once"):
        made.delay()


def test_a_generator_that_was_looked_at_is_kept(add: Any) -> None:
    made = group(add.s(i) for i in range(3))
    assert len(made) == 3
    assert [each.args for each in made] == [(0,), (1,), (2,)]
    assert made.delay().get() == made.delay().get() == [0, 10, 20]


def test_a_generator_does_not_travel(app: App, add: Any) -> None:
    app.task(name="take")(lambda d: None)
    with pytest.raises(PayloadTypeError, match="SignatureGenerator"):
        app.tasks["take"].delay(group(iter([add.s(1)])))


def test_a_group_is_the_same_after_its_travels(app: App, add: Any) -> None:
    made = group([add.s(1), group(add.s(2))], queue="slow")
    for other in (
        signature(json.loads(json.dumps(made))),
        signature(dict(made)),
        pickle.loads(pickle.dumps(made)),
        copy.deepcopy(made),
        made.clone(),
    ):
        assert isinstance(other, group)
        assert other == made
        assert other.delay().get() == [10, 20]
    with pytest.raises(ConfigError, match="its tasks are a list"):
        signature({"task": "zmqtasks.group", "subtask_type": "group"})
    assert repr(group([add.s(i) for i in range(9)])).endswith("add(4), … (9 in all)])")


def test_only_signatures_are_members(add: Any) -> None:
    for wrong in ([add], [3], ["add"], 3):
        with pytest.raises(TypeError, match="made of signatures"):
            group(wrong)  # type: ignore[arg-type]


def test_skew_lets_calls_start_one_after_the_other(add: Any) -> None:
    plain = [add.s(i) for i in range(4)]
    skewed = group(plain).skew(start=1, stop=3, step=1)
    assert [each.options["countdown"] for each in skewed] == [1, 2, 3, 3]
    assert [each.options["countdown"] for each in group(plain).skew(step=0.5)] == [1, 1.5, 2, 2.5]
    assert plain[0].options == {}


def test_calls_go_together_when_they_are_to_be_treated_alike(
    app: App, add: Any, gateway: InlineGateway
) -> None:
    @app.task(name="pay", durability="disk")
    def pay(x: int) -> int:
        return x

    made = [add.s(1), add.s(2).set(priority=1), pay.s(3), pay.s(4), add.s(5)]
    made += [add.s(6).set(delivery="at_most_once"), add.s(7).set(require_worker=2)]
    made += [add.s(8).set(task_id="a"), add.s(9).set(task_id="b"), pay.s(1)]
    result = group(made).delay()
    assert result.get(timeout=5) == [10, 20, 3, 4, 50, 60, 70, 80, 90, 1]
    disk, memory = Durability.DISK, Durability.MEMORY
    told = [(s["durability"], s["delivery"], s["require_worker_s"]) for s in gateway.submits]
    assert told == [
        (memory, "at_least_once", None),
        (disk, "at_least_once", None),
        (memory, "at_least_once", None),
        (memory, "at_most_once", None),
        (memory, "at_least_once", 2),
        (memory, "at_least_once", None),
        (disk, "at_least_once", None),
    ]


def test_a_group_with_loose_calls_is_waited_for_with_a_timeout(add: Any) -> None:
    result = group(add.s(1), add.s(2).set(delivery="at_most_once")).delay()
    fresh = GroupResult(result.id, result.results)
    assert fresh.get(timeout=5) == [10, 20]
    assert [type(each).__name__ for each in result] == ["AsyncResult", "AtMostOnceResult"]


def test_loose_calls_without_a_timeout_are_refused(add: Any, gateway: InlineGateway) -> None:
    gateway.hold = True
    result = group(add.s(2).set(delivery="at_most_once")).delay()
    with pytest.raises(ValueError, match="needs a timeout"):
        result.get()


def test_one_task_cannot_be_two_members(add: Any) -> None:
    twice = [add.s(1).set(idempotency_key="k") for _ in range(2)]
    with pytest.raises(ConfigError, match="two calls of the group are the same task"):
        group(twice).delay()


@pytest.mark.parametrize("in_loop", [False, True])
def test_a_refusal_carries_what_was_accepted(
    add: Any, gateway: InlineGateway, in_loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_COUNT", 10)
    made = group([add.s(i) for i in range(20)] + [add.s(object())])
    with pytest.raises(PayloadTypeError) as caught:
        asyncio.run(made.adelay()) if in_loop else made.delay()
    accepted = caught.value.accepted  # type: ignore[attr-defined]
    assert isinstance(accepted, GroupResult)
    assert accepted.get(timeout=5) == [10 * i for i in range(10 * (len(accepted) // 10))]
    assert len(accepted) in (10, 20)
    assert len(gateway.calls) == len(accepted)
    assert "calls were submitted" in caught.value.__notes__[0]


def test_refusals_of_the_gateway_end_the_group(add: Any, gateway: InlineGateway) -> None:
    gateway.workers = False
    with pytest.raises(NoWorkers) as caught:
        group(add.s(1), add.s(2).set(require_worker=1)).delay()
    assert caught.value.accepted.get(timeout=5) == [10]  # type: ignore[attr-defined]
    gateway.room = 1
    with pytest.raises(MeshOverloaded):
        group(add.s(1), add.s(2)).delay()


@pytest.mark.parametrize("kind", [SubmitRejected, SubmitUnknown])
def test_a_disk_that_fails_later_is_told(add: Any, gateway: InlineGateway, kind: type) -> None:
    def signatures() -> Iterator[Any]:
        yield add.s(1)
        yield add.s(2).set(durability="disk")
        gateway.disk_error = kind("trouble")
        yield add.s(3)

    with pytest.raises(kind) as caught:
        group(signatures()).delay()
    assert len(caught.value.accepted) == 1  # type: ignore[attr-defined]


def test_in_a_running_loop_what_waits_is_refused(add: Any) -> None:
    async def main() -> list[int]:
        group(add.s(1)).delay()
        with pytest.raises(RuntimeError, match=r"await group\.aapply_async"):
            group(add.s(1).set(durability="disk")).delay()
        return await (await group(add.s(1), add.s(2).set(durability="disk")).adelay())

    assert asyncio.run(main()) == [10, 20]


def test_hooks_see_each_call_and_its_group(app: App, add: Any) -> None:
    seen = []

    class Seeing:
        def submit(self, call: Any) -> None:
            seen.append((call.args, dict(call.options)))

    told = []

    @signals.before_task_publish.connect
    def publish(headers: Any = None, **kwargs: Any) -> None:
        told.append(headers["group"])

    try:
        app.add_middleware(Seeing())
        result = group(add.s(1), add.s(2).set(priority=1)).delay(7)
    finally:
        signals.before_task_publish.disconnect(publish)
    assert seen == [((7, 1), {}), ((7, 2), {"priority": 1})]
    assert told == [result.id] * 2


def test_a_group_that_is_frozen_has_its_ids(add: Any, gateway: InlineGateway) -> None:
    made = group(add.s(1), group(add.s(2)))
    frozen = made.freeze()
    assert made.freeze() == frozen
    assert made.delay() == frozen
    assert frozen.get(timeout=5) == [10, 20]
    assert len(gateway.calls) == 2


def test_results_of_a_group_are_read_like_others(
    app: App, add: Any, fail: Any, gateway: InlineGateway
) -> None:
    result = group(add.s(1), fail.s(), add.s(2)).delay()
    ids = [call.id for call in gateway.calls]
    assert result.completed_count() == 2
    assert result.failed()
    assert not result.successful()
    assert result.parent is None
    assert result.children == result.results == list(result)
    assert all(isinstance(each, AsyncResult) for each in result)
    assert result.as_tuple() == ((result.id, None), [((each.id, None), None) for each in result])
    with pytest.raises(ValueError, match="no"):
        result.join()
    with pytest.raises(ValueError, match="no"):
        result.maybe_throw()
    assert [type(each) for each in result.join(propagate=False)] == [int, ValueError, int]
    assert [type(each) for each in result.iterate(propagate=False)] == [int, ValueError, int]
    told = dict(result.iter_native(timeout=5))
    assert list(told) == result.ids
    assert [each["status"] for each in told.values()] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert pickle.loads(pickle.dumps(result)) == result
    result.forget()
    assert gateway.forgotten == ids


def test_all_of_a_group_are_revoked_together(
    app: App, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def revoke(ids: Any, *args: Any) -> dict[str, str]:
        asked.append((list(ids), args))
        return dict.fromkeys(ids, "revoked")

    monkeypatch.setattr(app.control, "revoke", revoke)
    result = group(add.s(1), add.s(2)).delay()
    assert result.revoke(terminate=True) == dict.fromkeys(result.ids, "revoked")
    assert asyncio.run(result.arevoke()) == dict.fromkeys(result.ids, "revoked")
    assert asked == [
        (result.ids, (True, "SIGTERM", 1.0)),
        (result.ids, (False, "SIGTERM", 1.0)),
    ]
    assert group().delay().revoke() == {}


def test_apps_of_one_mesh_share_a_group(app: App, add: Any) -> None:
    other = App("other")

    @other.task(name="there")
    def there(x: int) -> int:
        return x

    assert group(add.s(1), there.s(2)).delay().get() == [10, 2]


@pytest.mark.parametrize("how", ["delay", "apply"])
def test_results_read_the_same_where_they_ran_eagerly(
    app: App, add: Any, fail: Any, gateway: InlineGateway, how: str
) -> None:
    found = group(add.s(1), fail.s(), add.s(2))
    result: Any = found.delay() if how == "delay" else found.apply()

    async def read() -> list[Any]:
        return [
            [type(value) async for value in result.iterate(propagate=False)],
            [(position, handle.state) async for position, handle in result.as_completed()],
            [handle.id async for handle in result] == result.ids,
            [type(value) for value in await result.aget(propagate=False)],
            await result.aready(), await result.asuccessful(), await result.afailed(),
        ]  # fmt: skip

    assert asyncio.run(read()) == [
        [int, ValueError, int], [(0, "SUCCESS"), (1, "FAILURE"), (2, "SUCCESS")], True,
        [int, ValueError, int], True, False, True,
    ]  # fmt: skip
    assert (result.completed_count(), result.ready(), result.waiting()) == (2, True, False)
    assert (result.failed(), result.successful(), result.parent) == (True, False, None)
    assert result_from_tuple(result.as_tuple(), app) == result
    assert [each.retries for each in result] == [0, 0, 0]
    told: list[Any] = []
    assert result.join(propagate=False, callback=lambda *pair: told.append(pair)) == []
    assert [task_id for task_id, _ in told] == result.ids
    with pytest.raises(ValueError, match="no"):
        result.maybe_reraise()
    result.remove(result[1])
    assert (result.get(), result.successful()) == ([10, 20], True)
