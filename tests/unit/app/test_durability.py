"""What calls survive, and what makes two calls the same task."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app.app import App, shared_task
from zmqtasks.app.builtin import BUILT_IN
from zmqtasks.errors import ConfigError, SubmitRejected, SubmitUnknown
from zmqtasks.ids import format_task_id, keyed_task_id
from zmqtasks.node.gateway import Durability
from zmqtasks.wire.content import DIGEST_BYTES

MEMORY, DISK = Durability.MEMORY, Durability.DISK


@pytest.fixture
def pay(app: App) -> Any:
    @app.task(name="pay", durability="disk")
    def pay(x: int, y: int = 1) -> int:
        return x + y

    return pay


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    return add


def durabilities(gateway: InlineGateway) -> list[Durability]:
    return [submit["durability"] for submit in gateway.submits]


# --- whose word counts ------------------------------------------------------------------


def test_call_overrules_task_and_task_overrules_setting(gateway: InlineGateway) -> None:
    app = App("careful", durability="disk")

    @app.task
    def plain() -> None: ...

    @app.task(durability="memory")
    def loose() -> None: ...

    plain.delay()
    loose.delay()
    plain.apply_async((), durability="memory")
    loose.apply_async((), durability="disk")
    loose.apply_async((), durability=None)
    app.send_task("elsewhere")
    app.send_task("elsewhere", durability="memory")
    plain.delay_many([()])
    loose.delay_many([()])
    assert durabilities(gateway) == [DISK, MEMORY, MEMORY, DISK, MEMORY, DISK, MEMORY, DISK, MEMORY]


def test_setting_of_the_environment_overrules_the_application(
    gateway: InlineGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZMQTASKS_DURABILITY", "disk")
    app = App("shop", durability="memory")

    @app.task
    def plain() -> None: ...

    plain.delay()
    plain.delay()
    assert durabilities(gateway) == [DISK, DISK]


def test_every_way_of_calling_a_task_on_disk_is_on_disk(pay: Any, gateway: InlineGateway) -> None:
    assert pay.delay(1).get(timeout=5) == 2
    assert pay.delay(1, y=2).get(timeout=5) == 3
    assert pay.apply_async((1,)).get(timeout=5) == 2
    assert pay.delay_many([(1,), {"x": 2}]).get(timeout=5) == [2, 3]

    async def main() -> None:
        assert await (await pay.adelay(1)) == 2
        assert await (await pay.aapply_async((1,))) == 2
        assert await (await pay.adelay_many([(1,)] * 1001)) == [2] * 1001
        assert await (await pay.app.asend_task("pay", (1,))) == 2

    asyncio.run(main())
    assert durabilities(gateway) == [DISK] * 9
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        pay.delay()


def test_shared_tasks_take_the_options_too(app: App, gateway: InlineGateway) -> None:
    @shared_task(durability="disk", idempotent=False)
    def shared() -> None: ...

    shared.delay()
    assert durabilities(gateway) == [DISK]
    assert ("idem", 0) in gateway.calls[0].kind.ext


# --- in an asyncio loop -----------------------------------------------------------------


def test_waiting_for_the_disk_in_a_running_loop_is_refused_and_the_twin_is_named(
    pay: Any, add: Any, app: App, gateway: InlineGateway
) -> None:
    async def main() -> None:
        for call, twin in (
            (lambda: pay.delay(1), r"pay\.delay\(\): .*; use await pay\.adelay\("),
            (lambda: add.apply_async((1,), durability="disk"), r"use await add\.aapply_async\("),
            (lambda: pay.delay_many([(1,)]), r"use await pay\.adelay_many\("),
            (lambda: app.send_task("x", durability="disk"), r"\(\): .*; use await asend_task\("),
            (
                lambda: add.apply_async((1,), task_id="t"),
                r"task_id= waits.*await add\.aapply_async",
            ),
            (
                lambda: add.apply_async((1,), idempotency_key="k"),
                r"idempotency_key= waits, .*; use await add\.aapply_async\(",
            ),
        ):
            with pytest.raises(RuntimeError, match=twin):
                call()
        add.delay(1)
        pay.apply_async((1,), durability="memory")
        add.apply_async((1,), task_id="t", delivery="at_most_once")

    asyncio.run(main())
    assert durabilities(gateway) == [MEMORY] * 3


def test_inside_a_task_every_call_waits_so_none_is_refused(
    pay: Any, add: Any, gateway: InlineGateway
) -> None:
    async def main() -> None:
        pay.delay(1)
        pay.delay_many([(1,)])
        add.apply_async((1,), idempotency_key="k")

    gateway.inside_task = True
    asyncio.run(main())
    assert durabilities(gateway) == [DISK, DISK, MEMORY]


def test_awaitable_twins_wait_in_another_thread(pay: Any, add: Any, gateway: InlineGateway) -> None:
    async def main() -> None:
        for submitting in (
            pay.adelay(1),
            pay.aapply_async((1,)),
            pay.adelay_many([(1,)]),
            add.aapply_async((1,), durability="disk"),
            add.aapply_async((1,), task_id="t"),
            add.aapply_async((1,), idempotency_key="k"),
        ):
            gateway.thread = None
            await submitting
            assert gateway.thread not in (None, threading.main_thread())
        await add.adelay(1)
        assert gateway.thread is threading.main_thread()

    asyncio.run(main())


# --- what the disk says -----------------------------------------------------------------


def test_uncertain_submission_is_told_as_such(pay: Any, gateway: InlineGateway) -> None:
    gateway.disk_error = SubmitUnknown("the disk did not answer")
    with pytest.raises(SubmitUnknown):
        pay.delay(1)
    with pytest.raises(SubmitUnknown):
        asyncio.run(pay.adelay(1))


@pytest.mark.parametrize("in_loop", [False, True])
def test_many_calls_of_which_a_batch_is_uncertain_say_what_is_known(
    pay: Any, gateway: InlineGateway, in_loop: bool
) -> None:
    def calls() -> Any:
        yield from [(0,)] * 1000
        gateway.disk_error = SubmitUnknown("the disk did not answer")
        yield from [(1,)] * 700

    with pytest.raises(SubmitUnknown) as caught:
        asyncio.run(pay.adelay_many(calls())) if in_loop else pay.delay_many(calls())
    assert len(caught.value.accepted.get(timeout=5)) == 1000  # type: ignore[attr-defined]
    first, second = caught.value.__notes__
    assert "first 1,000 calls were submitted" in first
    method = "adelay_many" if in_loop else "delay_many"
    assert second == f"{method}: the 700 calls after them may run too"


def test_full_disk_refuses_for_certain(pay: Any, gateway: InlineGateway) -> None:
    gateway.disk_error = SubmitRejected("the disk is full")
    with pytest.raises(SubmitRejected) as caught:
        pay.delay_many([(1,)])
    assert not getattr(caught.value, "__notes__", [])


# --- options that make no sense ---------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"durability": "dsk"}, r"must be memory or disk, not 'dsk'; did you mean 'disk'\?"),
        ({"durability": True}, "must be memory or disk, not True"),
        ({"idempotency_key": ""}, "idempotency_key is a text that is not empty"),
        ({"idempotency_key": 17}, "idempotency_key is a text that is not empty, not 17"),
        ({"idempotency_key": "\udc80"}, "lone surrogate"),
        ({"task_id": "\udc80"}, "task_id = .* lone surrogate"),
        ({"task_id": "a", "idempotency_key": "b"}, "both name the task; leave one of them out"),
        (
            {"delivery": "at_most_once", "idempotency_key": "b"},
            "nobody would know its idempotency_key the next time; leave one",
        ),
        (
            {"delivery": "at_most_once", "durability": "disk"},
            "cannot have durability='disk'; leave one of them out",
        ),
    ],
)
def test_options_that_cannot_be_kept_are_refused(
    add: Any, app: App, gateway: InlineGateway, options: dict[str, Any], words: str
) -> None:
    for call in (
        lambda: add.apply_async((1,), **options),
        lambda: app.send_task("other", **options),
        lambda: asyncio.run(add.aapply_async((1,), **options)),
    ):
        with pytest.raises(ConfigError, match=words):
            call()
    assert not gateway.calls


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"durability": "diks"}, "durability must be memory or disk, not 'diks'; did you mean"),
        ({"durability": 1}, "durability must be memory or disk, not 1"),
        ({"idempotent": 0}, "idempotent must be True or False, not 0"),
        ({"idempotent": None}, "idempotent must be True or False, not None"),
        ({"idempotency_key": "x"}, "unknown option 'idempotency_key'; did you mean 'idempotent'"),
    ],
)
def test_bad_task_options_are_refused_where_the_task_is_made(
    app: App, options: dict[str, Any], words: str
) -> None:
    for decorate in (app.task, shared_task):
        with pytest.raises(ConfigError, match=words):
            decorate(**options)(lambda: None)
    assert app.tasks.keys() == BUILT_IN.keys()


def test_task_on_disk_cannot_be_called_at_most_once(pay: Any, gateway: InlineGateway) -> None:
    with pytest.raises(ConfigError, match="say durability='memory' too, or leave delivery out"):
        pay.apply_async((1,), delivery="at_most_once")
    pay.apply_async((1,), delivery="at_most_once", durability="memory")
    assert durabilities(gateway) == [MEMORY]


def test_setting_gives_way_to_calls_at_most_once(gateway: InlineGateway) -> None:
    app = App("careful", durability="disk")
    app.send_task("x", delivery="at_most_once")
    assert durabilities(gateway) == [MEMORY]


# --- what travels -----------------------------------------------------------------------


def test_task_that_is_not_idempotent_says_so_in_its_kind(app: App, gateway: InlineGateway) -> None:
    @app.task(name="once", idempotent=False)
    def once() -> None: ...

    @app.task(name="again")
    def again() -> None: ...

    once.delay()
    once.apply_async((), queue="fast")
    again.delay()
    assert [dict(call.kind.ext).get("idem") for call in gateway.calls] == [0, 0, None]
    assert (once.idempotent, again.idempotent, once.durability) == (False, True, None)


def test_only_calls_that_name_their_task_carry_a_digest(add: Any, gateway: InlineGateway) -> None:
    add.delay(1)
    add.apply_async((1,))
    add.apply_async((1,), headers={"a": 1})
    add.apply_async((1,), task_id="t", headers={"a": 1})
    add.apply_async((1,), idempotency_key="k")
    plain, also_plain, with_header, named, keyed = (call.ext for call in gateway.calls)
    assert plain is also_plain is None
    assert with_header == {"h": {"a": 1}}
    assert named is not None
    assert keyed is not None
    assert named["c"] == keyed["c"]
    assert len(keyed["c"]) == DIGEST_BYTES


# --- the same task ----------------------------------------------------------------------


def test_same_key_and_arguments_are_the_same_task(add: Any, gateway: InlineGateway) -> None:
    first = add.apply_async((1, 2), idempotency_key="order 17")
    again = add.apply_async((1, 2), idempotency_key="order 17", durability="disk", queue="fast")
    assert first.id == again.id == format_task_id(keyed_task_id("shop", "add", "order 17"))
    assert (first.get(timeout=5), again.get(timeout=5)) == (3, 3)
    assert len(gateway.calls) == 1


def test_same_key_with_other_arguments_is_refused(add: Any, gateway: InlineGateway) -> None:
    add.apply_async((1, 2), idempotency_key="order 17")
    with pytest.raises(SubmitRejected, match="other content"):
        add.apply_async((1, 3), idempotency_key="order 17")
    add.apply_async((1, 3), idempotency_key="order 18")
    assert len(gateway.calls) == 2


def test_key_means_the_same_task_when_it_is_called_by_name(
    add: Any, pay: Any, gateway: InlineGateway
) -> None:
    first = add.apply_async((1,), idempotency_key="k")
    by_name = add.app.send_task("add", (1,), idempotency_key="k")
    other = pay.apply_async((1,), idempotency_key="k")
    assert first == by_name
    assert first != other
