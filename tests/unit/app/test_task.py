"""Calling tasks: inline, delayed, with options, many at once."""

from __future__ import annotations

import asyncio
import pickle
import uuid
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app.app import App
from zmqtasks.app.result import AtMostOnceResult
from zmqtasks.app.resultset import ResultSet
from zmqtasks.app.task import CoroutineTask, Task
from zmqtasks.core.owned import Durability
from zmqtasks.errors import (
    ConfigError,
    MeshOverloaded,
    NoWorkers,
    PayloadTooLarge,
    PayloadTypeError,
)


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        """Sum."""
        return x + y

    return add


def test_a_plain_call_runs_inline(add: Any, gateway: InlineGateway) -> None:
    assert add(2, 3) == 5
    assert not gateway.calls
    assert (add.__name__, add.__doc__) == ("add", "Sum.")


def test_delay_submits_and_the_handle_gives_the_value(add: Any, gateway: InlineGateway) -> None:
    result = add.delay(2, y=3)
    assert result.get(timeout=5) == 5
    [call] = gateway.calls
    assert (call.kind.app, call.kind.name, call.kind.queue) == ("shop", "add", "default")
    assert call.kind.digest == add.signature_digest
    assert result.id == str(uuid.UUID(bytes=call.id))
    assert gateway.submits == [
        {
            "wait_s": None,
            "require_worker_s": None,
            "delivery": "at_least_once",
            "durability": Durability.MEMORY,
        }
    ]


def test_wrong_arguments_are_refused_in_pythons_words(
    app: App, gateway: InlineGateway, add: Any
) -> None:
    for call in (
        lambda: add.delay(),
        lambda: add.apply_async(),
        lambda: add.delay_many([()]),
        lambda: app.send_task("add"),
    ):
        with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'x'"):
            call()
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'z'"):
        add.delay(1, z=1)
    assert not gateway.calls


def test_an_unserialisable_argument_is_named(add: Any, gateway: InlineGateway) -> None:
    with pytest.raises(PayloadTypeError, match=r"^argument 'x', \[1\]: type object"):
        add.delay([0, object()])
    with pytest.raises(PayloadTypeError, match=r"^argument 'y': type object"):
        add.delay_many([(1, object())])
    assert not gateway.calls


def test_a_payload_over_the_setting_is_refused(gateway: InlineGateway) -> None:
    app = App("small", payload_bytes_max=10_000)

    @app.task
    def task(data: bytes) -> None: ...

    task.delay(b"x" * 100)
    with pytest.raises(PayloadTooLarge, match="payload_bytes_max is 10,000"):
        task.delay(b"x" * 20_000)


def test_apply_async_passes_its_options_on(add: Any, gateway: InlineGateway) -> None:
    result = add.apply_async(
        (1,), {"y": 2}, queue="fast", task_id="monday", headers={"who": "me"}, require_worker=2.0
    )
    [call] = gateway.calls
    assert call.kind.queue == "fast"
    assert call.ext is not None
    assert call.ext["h"] == {"who": "me"}
    assert gateway.submits[0]["require_worker_s"] == 2.0
    assert result.get() == 3
    assert add.apply_async((1,), {"y": 2}, task_id="monday").id == result.id
    given = str(uuid.uuid4())
    assert add.apply_async((1,), task_id=given).id == given


def test_require_worker_raises_without_one(add: Any, gateway: InlineGateway) -> None:
    gateway.workers = False
    with pytest.raises(NoWorkers):
        add.apply_async((1,), require_worker=2.0)


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("expires", 5, "nobody would end it when it expires"),
        ("tags", ["x86"], "nobody would choose a worker"),
        ("resources", {"gpu": 1}, "nobody would choose a worker"),
        ("autoretry_for", (OSError,), "nobody would retry it"),
    ],
)
def test_at_most_once_is_refused_where_the_task_itself_needs_an_owner(
    option: str, value: Any, why: str
) -> None:
    app = App("shop")
    options: dict[str, Any] = {option: value}

    @app.task(name="needy", **options)
    def needy() -> None: ...

    with pytest.raises(ConfigError, match=f"{why}.*leave"):
        needy.apply_async(delivery="at_most_once")


def test_at_most_once_gives_a_handle_that_insists_on_timeouts(
    add: Any, gateway: InlineGateway
) -> None:
    result = add.apply_async((1,), delivery="at_most_once")
    assert type(result) is AtMostOnceResult
    assert gateway.submits[0]["delivery"] == "at_most_once"


@pytest.mark.parametrize("args", ["text", 3, {1}])
def test_args_must_be_a_sequence(app: App, add: Any, args: Any) -> None:
    with pytest.raises(TypeError, match="args is a tuple or list"):
        add.apply_async(args)
    with pytest.raises(TypeError, match="args is a tuple or list"):
        app.send_task("elsewhere", args)
    with pytest.raises(TypeError, match="kwargs is a dict"):
        add.apply_async((), [1])


def test_bound_tasks_get_themselves(app: App) -> None:
    @app.task(bind=True, attributes={"limit": 3})
    def bound(self: Any, x: int) -> list[Any]:
        return [self.name, self.limit, x]

    assert bound(1)[1:] == [3, 1]
    assert bound.delay(1).get() == [bound.name, 3, 1]
    assert bound.signature_text.startswith("(x:")
    assert bound.request.called_directly


def test_a_base_class_brings_attributes_and_methods(app: App) -> None:
    class Counting(Task[Any, Any]):
        step = 2

        def twice(self, x: int) -> int:
            return self.step * x

    @app.task(bind=True, base=Counting)
    def count(self: Counting, x: int) -> int:
        return self.twice(x)

    assert isinstance(count, Counting)
    assert count.delay(4).get() == 8


def test_a_coroutine_function_is_awaited_where_it_runs(app: App) -> None:
    @app.task
    async def later(x: int) -> int:
        return x + 1

    assert isinstance(later, CoroutineTask)
    assert later.delay(1).get() == 2
    assert asyncio.run(later(1)) == 2


def test_tasks_are_pickled_by_name(app: App, add: Any) -> None:
    assert pickle.loads(pickle.dumps(add)) is add
    del app.tasks["add"]
    with pytest.raises(ConfigError, match="no task add"):
        pickle.loads(pickle.dumps(add))


# --- in an asyncio loop -----------------------------------------------------------------


def test_delay_in_a_running_loop_never_waits(add: Any, gateway: InlineGateway) -> None:
    async def main() -> None:
        add.delay(1)
        add.delay_many([(1,)])
        add.apply_async((1,))
        gateway.room = 0
        with pytest.raises(MeshOverloaded):
            add.delay(1)
        with pytest.raises(RuntimeError, match=r"aapply_async"):
            add.apply_async((1,), require_worker=2.0)

    asyncio.run(main())
    assert [submit["wait_s"] for submit in gateway.submits] == [0, 0, 0]


def test_adelay_waits_for_room_without_blocking_the_loop(add: Any, gateway: InlineGateway) -> None:
    gateway.room = 0

    async def main() -> int:
        waiting = [asyncio.ensure_future(add.adelay(i)) for i in range(5)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        gateway.room = 5
        return sum([await (await task) for task in waiting])

    assert asyncio.run(main()) == 15


def test_adelay_gets_room_before_those_who_ask_later(add: Any, gateway: InlineGateway) -> None:
    gateway.room = 0

    async def main() -> None:
        waiting = asyncio.ensure_future(add.adelay(1))
        await asyncio.sleep(0)
        gateway.room = 1
        # The loop has not had a turn yet, and somebody else takes what there is.
        with pytest.raises(MeshOverloaded):
            add.delay(1)
        assert await (await waiting) == 2

    asyncio.run(main())


def test_adelay_that_is_cancelled_keeps_no_room(add: Any, gateway: InlineGateway) -> None:
    gateway.room = 0

    async def main() -> None:
        first, second = (asyncio.ensure_future(add.adelay(i)) for i in range(2))
        await asyncio.sleep(0)
        gateway.room = 1
        first.cancel()
        assert await (await second) == 2
        assert first.cancelled()
        assert gateway.room == 0

    asyncio.run(main())


def test_adelay_gives_up_after_the_submit_timeout(gateway: InlineGateway) -> None:
    app = App("hasty", submit_timeout_s=0.02)

    @app.task
    def task() -> None: ...

    gateway.room = 0

    async def main() -> None:
        for done in await asyncio.gather(
            *(task.adelay() for _ in range(4)), return_exceptions=True
        ):
            assert isinstance(done, MeshOverloaded)
        with pytest.raises(MeshOverloaded):
            await task.adelay_many([()])

    asyncio.run(main())


def test_aapply_async_may_wait_for_a_worker(app: App, add: Any, gateway: InlineGateway) -> None:
    async def main() -> None:
        assert await (await add.aapply_async((1,), require_worker=2.0)) == 2
        assert await (await app.asend_task("add", (1,))) == 2
        gateway.workers = False
        with pytest.raises(NoWorkers):
            await add.aapply_async((1,), require_worker=2.0)

    asyncio.run(main())


# --- many -------------------------------------------------------------------------------


def test_delay_many_takes_tuples_and_dicts_in_batches(add: Any, gateway: InlineGateway) -> None:
    calls: list[Any] = [(i, i) for i in range(2500)] + [{"x": 1}, [1, 1], ()][:2]
    results = add.delay_many(iter(calls))
    assert isinstance(results, ResultSet)
    assert results.get(timeout=5) == [2 * i for i in range(2500)] + [2, 2]
    assert len(gateway.submits) == 3
    assert len({call.kind for call in gateway.calls}) == 1


def test_delay_many_of_large_arguments_goes_in_batches_of_bounded_bytes(
    app: App, gateway: InlineGateway
) -> None:
    @app.task
    def size(data: bytes) -> int:
        return len(data)

    assert size.delay_many((b"x" * 400_000,) for _ in range(7)).get(timeout=5) == [400_000] * 7
    assert len(gateway.submits) == 3


def test_delay_many_of_nothing_is_complete(add: Any) -> None:
    results = add.delay_many([])
    assert results.ready()
    assert results.get() == []


@pytest.mark.parametrize("item", [5, "ab", None])
def test_delay_many_refuses_bare_values(add: Any, item: Any) -> None:
    with pytest.raises(TypeError, match="call 1 of delay_many is of type"):
        add.delay_many([(1,), item])


def test_when_the_mesh_is_full_the_accepted_calls_are_told(
    add: Any, gateway: InlineGateway
) -> None:
    gateway.room = 2000
    with pytest.raises(MeshOverloaded) as caught:
        add.delay_many((i,) for i in range(5000))
    accepted = caught.value.accepted  # type: ignore[attr-defined]
    assert accepted.get(timeout=5) == list(range(1, 2001))
    assert "first 2,000 calls were submitted" in caught.value.__notes__[0]


def test_an_iterable_that_fails_leaves_the_accepted_calls_complete(
    add: Any, gateway: InlineGateway
) -> None:
    calls = [(1,)] * 1000 + [("x", object())]
    with pytest.raises(PayloadTypeError) as caught:
        add.delay_many(calls)
    assert len(caught.value.accepted.get(timeout=5)) == 1000  # type: ignore[attr-defined]


def test_adelay_many_waits_for_room(add: Any, gateway: InlineGateway) -> None:
    gateway.room = 1000

    async def main() -> list[int]:
        submitting = asyncio.ensure_future(add.adelay_many((i,) for i in range(1500)))
        await asyncio.sleep(0.01)
        assert not submitting.done()
        gateway.room = 1000
        values: list[int] = await (await submitting)
        return values

    assert asyncio.run(main()) == list(range(1, 1501))


def test_an_argument_may_be_called_self(app: App, gateway: InlineGateway) -> None:
    @app.task(name="who")
    def who(**names: int) -> int:
        return names["self"]

    @app.task(name="who.later")
    async def later(**names: int) -> int:
        return names["self"]

    async def main() -> list[int]:
        return [await later(self=3), await (await who.adelay(self=4))]

    assert who(self=1) == 1
    assert who.delay(self=2).get(timeout=5) == 2
    assert asyncio.run(main()) == [3, 4]


def test_bad_queue_of_a_call_is_named_as_the_caller_named_it(add: Any) -> None:
    with pytest.raises(ConfigError, match=r"^queue = 'a b': .*without blanks"):
        add.apply_async((1,), queue="a b")
    with pytest.raises(ConfigError, match=r"^queue = 5: must be a text$"):
        add.apply_async((1,), queue=5)
