"""What options mean on the wire."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app import timing
from zmqtasks.app.app import App
from zmqtasks.errors import ConfigError
from zmqtasks.pools.protocol import RunTask, TaskFacts
from zmqtasks.pools.running import set_running
from zmqtasks.zones import zone_of

NOW_MS = 1_800_000_000_000
NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "now_ms", lambda: NOW_MS)


@pytest.fixture
def ext(app: App, gateway: InlineGateway) -> Any:
    """The facts that a call with these options has."""
    add = app.task(name="add")(lambda: None)

    def ext(**options: Any) -> dict[str, Any] | None:
        by_name = app.send_task("other", **options)
        add.apply_async(**options)
        called, other = gateway.calls[-1], gateway.calls[-2]
        assert by_name.id
        assert called.ext == other.ext
        return called.ext

    return ext


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({}, None),
        ({"countdown": None, "priority": None}, None),
        ({"countdown": 1.5}, {"eta": NOW_MS + 1500}),
        ({"countdown": 0}, None),
        ({"countdown": -5}, None),
        ({"eta": NOW + timedelta(seconds=2)}, {"eta": NOW_MS + 2000}),
        ({"eta": NOW - timedelta(seconds=2)}, None),
        ({"expires": 60}, {"exp": NOW_MS + 60_000}),
        ({"expires": -1}, {"exp": NOW_MS}),
        ({"expires": NOW + timedelta(days=2)}, {"exp": NOW_MS + 2 * 86_400_000}),
        ({"countdown": 60, "expires": 120}, {"eta": NOW_MS + 60_000, "exp": NOW_MS + 120_000}),
        ({"priority": 9}, {"pri": 9}),
        ({"priority": 0}, None),
        ({"time_limit": 2, "soft_time_limit": 1.5}, {"tl": [1500, 2000]}),
        ({"soft_time_limit": 1.5}, {"tl": [1500, 0]}),
        ({"argsrepr": "(***)", "kwargsrepr": "{}"}, {"ar": "(***)", "kr": "{}"}),
        ({"argsrepr": "x" * 5000}, {"ar": "x" * 1024}),
        ({"shadow": "monthly " + "x" * 5000}, {"sh": "monthly " + "x" * 1016}),
        ({"ignore_result": True}, {"ir": 1}),
        ({"ignore_result": False}, None),
    ],
)
def test_facts_of_a_call(ext: Any, options: dict[str, Any], facts: Any) -> None:
    assert ext(**options) == facts


def test_naive_moments_are_in_the_timezone_of_the_application(gateway: InlineGateway) -> None:
    app = App("berlin", timezone="Europe/Berlin")
    naive = NOW.astimezone(zone_of("Europe/Berlin")).replace(tzinfo=None)
    app.send_task("a", eta=naive + timedelta(hours=1), expires=naive + timedelta(hours=2))
    assert gateway.calls[-1].ext == {"eta": NOW_MS + 3_600_000, "exp": NOW_MS + 7_200_000}


def test_a_task_may_say_when_its_calls_expire(app: App, gateway: InlineGateway) -> None:
    add = app.task(name="add", expires=60)(lambda x=0: x)
    add.delay()
    add.delay_many([(1,), (2,)])
    assert [call.ext for call in gateway.calls] == [{"exp": NOW_MS + 60_000}] * 3
    first, second = gateway.calls[1:]
    assert first.ext is not second.ext
    with pytest.raises(ConfigError, match=r"it would expire \(2027-01-15T08:01:00\+00:00\)"):
        add.apply_async(countdown=90)
    add.apply_async(countdown=90, expires=100)


def test_a_limit_of_a_call_leaves_the_other_one_of_its_task(gateway: InlineGateway) -> None:
    app = App("limits", task_soft_time_limit=7)
    add = app.task(name="add", time_limit=60)(lambda: None)
    add.apply_async(soft_time_limit=5)
    add.apply_async(time_limit=30)
    add.delay()
    assert [call.ext for call in gateway.calls] == [
        {"tl": [5000, 60_000]}, {"tl": [7000, 30_000]}, None,
    ]  # fmt: skip


def test_a_soft_limit_that_could_not_be_reached_is_refused(gateway: InlineGateway) -> None:
    app = App("limits", task_time_limit=30)
    add = app.task(name="add", time_limit=60)(lambda: None)
    with pytest.raises(ConfigError, match="soft_time_limit 60 is not below the time_limit of the"):
        add.apply_async(soft_time_limit=60)
    with pytest.raises(ConfigError, match="of the task, 30, so"):
        app.send_task("other", soft_time_limit=40)
    add.apply_async(soft_time_limit=60, time_limit=70)
    add.apply_async(time_limit=5)
    assert [call.ext for call in gateway.calls] == [{"tl": [60_000, 70_000]}, {"tl": [0, 5_000]}]


@pytest.mark.parametrize(
    ("of_task", "of_call", "needs"),
    [
        ({}, {}, None),
        ({"resources": {"gpu": 1, "ram_mb": 4000}, "tags": ["x86", "cuda"]}, {},
         "gpu=1;ram_mb=4000;tag:cuda;tag:x86"),
        ({"resources": {"gpu": 1}}, {"resources": {"gpu": 2}}, "gpu=2"),
        ({"resources": {"gpu": 1}}, {"resources": {}}, None),
        ({"resources": {"gpu": 1}}, {"tags": {"cuda"}}, "gpu=1;tag:cuda"),
    ],
)  # fmt: skip
def test_what_a_worker_must_have_is_a_fact_of_the_kind(
    app: App, gateway: InlineGateway, of_task: Any, of_call: Any, needs: str | None
) -> None:
    add = app.task(name="add", **of_task)(lambda: None)
    add.apply_async(**of_call)
    assert dict(gateway.calls[-1].kind.ext).get("req") == needs
    app.send_task("other", **of_task | of_call)
    assert dict(gateway.calls[-1].kind.ext).get("req") == needs


def test_delay_asks_for_what_the_task_needs(app: App, gateway: InlineGateway) -> None:
    add = app.task(name="add", tags=["cuda"])(lambda: None)
    add.delay()
    add.delay()
    assert [dict(call.kind.ext)["req"] for call in gateway.calls] == ["tag:cuda"] * 2


def test_kinds_of_calls_with_ever_other_needs_do_not_pile_up(app: App) -> None:
    add = app.task(name="add")(lambda: None)
    for amount in range(1, 2500):
        add.apply_async(resources={"ram_mb": amount})
    assert len(add._kinds) <= 1000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"expires": 3}, "nobody would end it when it expires"),
        ({"tags": ["x"]}, "nobody would choose a worker that has the tags"),
        ({"autoretry_for": ValueError}, "nobody would retry it"),
    ],
)
def test_what_a_task_asks_for_may_contradict_at_most_once(
    app: App, options: Any, words: str
) -> None:
    add = app.task(name="add", **options)(lambda: None)
    with pytest.raises(ConfigError, match=words):
        add.apply_async(delivery="at_most_once")


def test_facts_of_a_task_are_its_own_or_the_settings() -> None:
    app = App("facts", task_time_limit=60, task_soft_time_limit=50, task_default_rate_limit="9/m")
    plain = app.task(name="plain")(lambda: None)
    own = app.task(
        name="own", time_limit=2.5, soft_time_limit=1, rate_limit=0.5, mesh_rate_limit="100/h"
    )(lambda: None)
    free = app.task(name="free", rate_limit=0)(lambda: None)
    assert app.rules.facts_of_task(plain) == TaskFacts(50_000, 60_000, "9/m", "")
    assert app.rules.facts_of_task(own) == TaskFacts(1000, 2500, "0.5", "100/h")
    assert app.rules.facts_of_task(free).rate == ""


def test_the_clock_is_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    before = time.time()
    assert before * 1000 - 1 <= timing.now_ms() <= time.time() * 1000


@pytest.mark.parametrize(
    ("setting", "of_task", "of_call", "ignored"),
    [
        (True, None, None, True),
        (True, False, None, False),
        (True, None, False, False),
        (False, True, None, True),
        (False, True, False, False),
        (False, None, True, True),
    ],
)
def test_call_task_and_setting_say_whether_a_result_is_kept(
    gateway: InlineGateway, setting: bool, of_task: Any, of_call: Any, ignored: bool
) -> None:
    app = App("shop", task_ignore_result=setting)
    task = app.task(name="add", ignore_result=of_task)(lambda: None)
    task.apply_async(ignore_result=of_call)
    if of_call is None:
        task.delay()
        task.delay_many([(), ()])
    assert {call.ext == {"ir": 1} for call in gateway.calls} == {ignored}


def test_calls_of_a_task_have_its_priority_where_that_is_wanted(gateway: InlineGateway) -> None:
    app = App("shop", task_inherit_parent_priority=True, task_default_priority=2)
    plain = app.task(name="plain")(lambda: None)
    urgent = app.task(name="urgent", priority=8)(lambda: None)

    @app.task(name="parent")
    def parent() -> None:
        plain.delay()
        plain.delay_many([()])
        plain.apply_async(priority=1)
        urgent.delay()

    plain.delay()
    for priority in (7, 0):
        set_running(RunTask(b"i" * 16, 1, "shop", "parent", "q", b"", b"", {"pri": priority}))
        parent()
        set_running(None)
    found = [(call.ext or {}).get("pri", 0) for call in gateway.calls]
    assert found == [2, 7, 7, 1, 8, 0, 0, 1, 8]
