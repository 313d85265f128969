"""Periodic tasks: what users write, what is refused, and what a beat gets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from zmqtasks import chain, chord, group, signature
from zmqtasks.app.app import App
from zmqtasks.errors import ConfigError
from zmqtasks.schedules import ScheduleEntry, crontab, schedule, solar, to_plain
from zmqtasks.signals import SetupSignal
from zmqtasks.zones import zone_of

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)


def add(x: int, y: int = 0) -> int:
    return x + y


@pytest.fixture
def shop(app: App) -> App:
    app.add_task(add, name="tasks.add")
    return app


def only(app: App) -> ScheduleEntry:
    (entry,) = app.periodic_tasks()
    return entry


class Weekly:
    """A schedule of somebody's own."""

    def next_after(self, moment: datetime) -> datetime:
        return NOON + ((moment - NOON) // timedelta(days=7) + 1) * timedelta(days=7)


class Odd:
    """One that answers with what this function makes of the moment."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def next_after(self, moment: datetime) -> Any:
        return self.answer(moment)


# --- beat_schedule ------------------------------------------------------------------------


def test_a_schedule_of_celery_is_understood_as_it_is(shop: App) -> None:
    shop.conf.beat_schedule = {
        "add-every-30-seconds": {"task": "tasks.add", "schedule": 30.0, "args": (16, 16)},
        "add-every-monday-morning": {
            "task": "tasks.add",
            "schedule": crontab(hour=7, minute=30, day_of_week=1),
            "args": [16],
            "kwargs": {"y": 2},
            "options": {"queue": "low", "expires": 60},
        },
        "add-at-melbourne-sunset": {
            "task": "tasks.add",
            "schedule": solar("sunset", -37.81753, 144.96715),
            "args": (1,),
        },
        "often": {"task": "tasks.add", "schedule": timedelta(minutes=1), "args": (1,)},
    }
    shop.conf.timezone = "Europe/Berlin"
    berlin = zone_of("Europe/Berlin")
    entries = {entry.name: entry for entry in shop.periodic_tasks()}
    assert list(entries) == sorted(entries)
    assert entries["add-every-30-seconds"] == ScheduleEntry(
        name="add-every-30-seconds", task="tasks.add", schedule=schedule(30), args=(16, 16)
    )
    monday = entries["add-every-monday-morning"]
    assert monday.schedule == crontab(30, 7, "1", timezone=berlin)
    assert (monday.args, monday.kwargs) == ((16,), {"y": 2})
    assert monday.options == {"queue": "low", "expires": 60}
    assert entries["add-at-melbourne-sunset"].schedule == solar("sunset", -37.81753, 144.96715)
    assert entries["often"].schedule == schedule(60)


def test_policies_of_an_entry_reach_the_beat(shop: App) -> None:
    shop.conf.beat_schedule = {
        "x": {
            "task": shop.tasks["tasks.add"],
            "args": (1,),
            "schedule": 3600,
            "relative": True,
            "timezone": "Asia/Kathmandu",
            "missed": "all",
            "overlap": "skip",
            "enabled": False,
        }
    }
    entry = only(shop)
    assert entry.task == "tasks.add"
    assert (entry.missed, entry.overlap, entry.enabled) == ("all", "skip", False)
    assert entry.schedule == schedule(3600, relative=True, timezone="Asia/Kathmandu")
    assert entry.schedule.next_after(NOON) == NOON + timedelta(minutes=15)


def test_a_custom_schedule_is_asked_as_it_is(shop: App) -> None:
    mine = Weekly()
    shop.conf.beat_schedule = {"x": {"task": "tasks.add", "args": (1,), "schedule": mine}}
    assert only(shop).schedule is mine


@pytest.mark.parametrize(
    ("own", "of_entry", "expected"),
    [
        (None, None, "Europe/Berlin"),
        (None, "Asia/Tokyo", "Asia/Tokyo"),
        ("America/Lima", None, "America/Lima"),
    ],
)
def test_the_timezone_is_that_of_the_schedule_of_the_entry_of_the_application(
    shop: App, own: str | None, of_entry: str | None, expected: str
) -> None:
    shop.conf.timezone = "Europe/Berlin"
    more = {"timezone": of_entry} if of_entry else {}
    daily = crontab(0, 8, timezone=own)
    shop.conf.beat_schedule = {"x": {"task": "tasks.add", "args": (1,), "schedule": daily, **more}}
    plain = to_plain(only(shop).schedule)
    assert plain is not None
    assert plain["timezone"] == expected


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (3, "an entry is a dict with task and schedule, not 3"),
        ({"schedule": 5}, "'task' is missing"),
        ({"task": "t"}, "'schedule' is missing"),
        ({"task": "t", "shedule": 5}, "there is no key 'shedule'; did you mean 'schedule'?"),
        ({"task": "t", "schedule": 5, 7: 1}, "there is no key 7; there are task, schedule"),
        ({"task": 5, "schedule": 5}, "task is the name of one, a task or a signature, not 5"),
        ({"task": " ", "schedule": 5}, "task is the name of one"),
        ({"task": {"no": 1}, "schedule": 5}, "task: signature(): a task's name is"),
        ({"task": "t", "schedule": 0}, "schedule: schedule: run_every=0 is less than 0.1 s"),
        ({"task": "t", "schedule": "5"}, "schedule='5': seconds, a timedelta, crontab(...)"),
        ({"task": "t", "schedule": True}, "schedule=True: seconds, a timedelta"),
        ({"task": "t", "schedule": Weekly}, "seconds, a timedelta, crontab(...)"),
        ({"task": "t", "schedule": 5, "args": "ab"}, "args is a tuple or list, not 'ab'"),
        ({"task": "t", "schedule": 5, "kwargs": [1]}, "kwargs is a dict with names as keys"),
        ({"task": "t", "schedule": 5, "kwargs": {1: 2}}, "kwargs is a dict with names as keys"),
        ({"task": "t", "schedule": 5, "options": 3}, "options is a dict with names as keys"),
        ({"task": "t", "schedule": 5, "options": {"queu": "x"}}, "did you mean 'queue'?"),
        ({"task": "t", "schedule": 5, "options": {"priority": 99}}, "from 0 to 9"),
        ({"task": "t", "schedule": 5, "options": {"task_id": "x"}}, "each tick has an id of its"),
        ({"task": "t", "schedule": 5, "options": {"eta": NOON}}, "'eta': the schedule says when"),
        ({"task": "t", "schedule": 5, "options": {"expires": NOON}}, "seconds from the tick on"),
        (
            {"task": "t", "schedule": 5, "options": {"delivery": "at_most_once"}},
            "a tick has a recorded outcome",
        ),
        ({"task": "t", "schedule": 5, "relative": 1}, "relative is True or False, not 1"),
        ({"task": "t", "schedule": crontab(), "relative": True}, "relative is about intervals"),
        ({"task": "t", "schedule": 5, "missed": "some"}, "missed is one of latest, all, skip"),
        ({"task": "t", "schedule": 5, "overlap": None}, "overlap is one of allow, skip, not None"),
        ({"task": "t", "schedule": 5, "enabled": "no"}, "enabled is True or False, not 'no'"),
        ({"task": "t", "schedule": 5, "timezone": "UTC"}, "timezone='UTC' says nothing about 5"),
        ({"task": "t", "schedule": crontab(), "timezone": "X/Y"}, "timezone 'X/Y' is not known"),
        (
            {"task": "t", "schedule": crontab(timezone="UTC"), "timezone": "Asia/Tokyo"},
            "which has its own or needs none",
        ),
    ],
)
def test_a_wrong_entry_is_refused_when_set_with_its_name_and_the_key(
    shop: App, entry: Any, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        shop.conf.beat_schedule = {"nightly": entry}
    assert str(caught.value).startswith("App('shop'): beat_schedule['nightly']: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", [3, "", " ", "a\nb", "n" * 201])
def test_a_name_must_be_one(shop: App, name: Any) -> None:
    with pytest.raises(ConfigError, match="a name "):
        shop.conf.beat_schedule = {name: {"task": "tasks.add", "schedule": 5}}


def test_a_schedule_that_only_celery_could_ask_says_what_it_needs(shop: App) -> None:
    class Celerys:
        def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
            return True, 1.0

    with pytest.raises(ConfigError, match=r"write next_after\(moment\)"):
        shop.conf.beat_schedule = {"x": {"task": "tasks.add", "schedule": Celerys()}}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda moment: moment + timedelta(days=7), "its moments must be the same whenever it is"),
        (lambda moment: moment, "which is not after it"),
        (lambda moment: moment.replace(year=2099, tzinfo=None), "must give a datetime with timez"),
        (lambda moment: 5, "must give a datetime with timezone or None, not 5"),
        (lambda moment: 1 // 0, "raised ZeroDivisionError: integer division"),
    ],
)
def test_a_custom_schedule_on_which_beats_could_not_agree_is_refused(
    shop: App, answer: Any, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        shop.add_periodic_task(Odd(answer), shop.tasks["tasks.add"].s(1), name="x")
    assert "'x': schedule: next_after(" in str(caught.value)
    assert words in str(caught.value)


def test_a_custom_schedule_may_be_over(shop: App) -> None:
    shop.add_periodic_task(Odd(lambda moment: None), shop.tasks["tasks.add"].s(1), name="x")
    assert only(shop).name == "x"


def test_what_changed_after_it_was_set_is_checked_again(shop: App) -> None:
    table: dict[str, Any] = {}
    shop.conf.beat_schedule = table
    table["x"] = {"task": "tasks.add"}
    with pytest.raises(ConfigError, match="periodic task 'x': 'schedule' is missing"):
        shop.periodic_tasks()


# --- what is called -----------------------------------------------------------------------


def test_arguments_that_do_not_fit_the_task_are_refused(shop: App) -> None:
    shop.conf.beat_schedule = {"x": {"task": "tasks.add", "schedule": 5, "args": (1, 2, 3)}}
    with pytest.raises(ConfigError, match=r"periodic task 'x': add\(\) takes"):
        shop.periodic_tasks()


def test_arguments_that_cannot_travel_are_refused(shop: App) -> None:
    shop.conf.beat_schedule = {"x": {"task": "tasks.add", "schedule": 5, "args": (object(),)}}
    with pytest.raises(ConfigError, match="periodic task 'x'"):
        shop.periodic_tasks()


def test_a_task_that_is_not_here_may_be_called_by_name(shop: App) -> None:
    shop.conf.beat_schedule = {"x": {"task": "other.one", "schedule": 5, "args": (1, 2, 3)}}
    assert only(shop).task == "other.one"


def test_a_signature_brings_its_arguments_and_options(shop: App) -> None:
    task = shop.tasks["tasks.add"]
    shop.add_periodic_task(10.0, task.s(2).set(queue="low"), (1,), priority=3)
    entry = only(shop)
    assert entry.name == "tasks.add(1, 2)"
    assert (entry.args, entry.kwargs) == ((1, 2), {})
    assert entry.options == {"queue": "low", "priority": 3}
    assert entry.signature is None


@pytest.mark.parametrize("shape", ["chain", "group", "chord"])
def test_a_workflow_travels_as_plain_data(shop: App, shape: str) -> None:
    one = shop.tasks["tasks.add"].s(1, 2)
    two = shop.tasks["tasks.add"].s(3)
    body = shop.tasks["tasks.add"].si(3)
    shapes: dict[str, Any] = {
        "chain": chain(one, two),
        "group": group([one, one]),
        "chord": chord([one, one], body),
    }
    made = shapes[shape]
    shop.add_periodic_task(10.0, made, name="x")
    entry = only(shop)
    assert entry.task == f"zmqtasks.{shape}"
    assert entry.signature is not None
    assert signature(entry.signature) == made
    assert (entry.args, entry.kwargs, entry.options) == ((), {}, {})


def test_a_group_of_a_generator_is_made_once_and_called_often(shop: App) -> None:
    task = shop.tasks["tasks.add"]
    shop.add_periodic_task(10.0, group(task.s(i, i) for i in range(3)), name="x")
    for _ in range(2):
        found = only(shop).signature
        assert found is not None
        assert [each.args for each in found["kwargs"]["tasks"]] == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("iterator", [False, True])
def test_chunks_of_an_iterator_are_refused_since_it_is_used_up(shop: App, iterator: bool) -> None:
    pairs = [(1, 2), (3, 4)]
    made = shop.tasks["tasks.add"].chunks(iter(pairs) if iterator else pairs, 1)
    if not iterator:
        assert shop.add_periodic_task(10.0, made, name="x") == "x"
        return
    with pytest.raises(ConfigError, match="a chunks of an iterator can be called once; make it of"):
        shop.add_periodic_task(10.0, made, name="x")


def test_a_signature_that_has_an_id_already_is_refused(shop: App) -> None:
    frozen = shop.tasks["tasks.add"].s(1, 2)
    frozen.freeze()
    with pytest.raises(ConfigError, match="option 'task_id': each tick has an id of its own"):
        shop.add_periodic_task(10.0, frozen)


# --- add_periodic_task --------------------------------------------------------------------


def test_it_is_added_when_the_configuration_is_complete(shop: App) -> None:
    @shop.on_after_configure.connect
    def setup(sender: App, **_: Any) -> None:
        sender.conf.timezone = "Europe/Berlin"
        daily = crontab(0, 8)
        assert sender.add_periodic_task(daily, sender.tasks["tasks.add"].s(1), name="x") == "x"

    assert only(shop).schedule == crontab(0, 8, timezone="Europe/Berlin")
    assert [entry.name for entry in shop.periodic_tasks()] == ["x"]


def test_the_configuration_cannot_change_once_the_application_is_finalized(shop: App) -> None:
    caught: list[str] = []

    @shop.on_after_finalize.connect
    def setup(sender: App, **_: Any) -> None:
        try:
            sender.conf.timezone = "Europe/Berlin"
        except ConfigError as exc:
            caught.append(str(exc))

    _ = shop.settings
    assert "the application is in use" in caught[0]


@pytest.mark.parametrize("name", ["on_after_configure", "on_after_finalize"])
def test_a_module_that_is_imported_late_adds_its_tasks_all_the_same(shop: App, name: str) -> None:
    assert shop.periodic_tasks() == []
    signal: SetupSignal = getattr(shop, name)

    @signal.connect
    def setup(sender: App, **_: Any) -> None:
        sender.add_periodic_task(5, sender.tasks["tasks.add"], (1,))

    assert only(shop).name == "tasks.add"


def test_a_setup_that_fails_is_told_to_the_beat_and_not_only_logged(shop: App) -> None:
    @shop.on_after_configure.connect
    def setup(sender: App, **_: Any) -> None:
        raise KeyError("PERIOD")

    _ = shop.settings
    with pytest.raises(ConfigError, match=r"setup, connected to on_after_configure, raised KeyE"):
        shop.periodic_tasks()


def test_policies_are_arguments_and_all_others_are_options(shop: App) -> None:
    task = shop.tasks["tasks.add"]
    shop.add_periodic_task(
        60, task, (1,), {"y": 2}, "x", missed="skip", overlap="skip", enabled=False, expires=30
    )
    entry = only(shop)
    assert (entry.missed, entry.overlap, entry.enabled) == ("skip", "skip", False)
    assert (entry.args, entry.kwargs, entry.options) == ((1,), {"y": 2}, {"expires": 30})


def test_an_unknown_argument_is_refused_where_it_is_given(shop: App) -> None:
    with pytest.raises(ConfigError, match=r"App\('shop'\).add_periodic_task\(\): 'x': .*'expirez'"):
        shop.add_periodic_task(60, shop.tasks["tasks.add"], (1,), name="x", expirez=3)


def test_two_with_one_name_are_refused_and_the_same_twice_is_not(shop: App) -> None:
    task = shop.tasks["tasks.add"]
    shop.add_periodic_task(60, task.s(1))
    shop.add_periodic_task(60, task.s(1))
    assert len(shop.periodic_tasks()) == 1
    with pytest.raises(ConfigError, match=r"another periodic task named 'tasks.add\(1\)'; give"):
        shop.add_periodic_task(30, task.s(1))


def test_a_name_in_both_places_is_refused(shop: App) -> None:
    shop.conf.beat_schedule = {"x": {"task": "tasks.add", "schedule": 5, "args": (1,)}}
    shop.add_periodic_task(60, shop.tasks["tasks.add"].s(1), name="x")
    with pytest.raises(ConfigError, match="'x' is in beat_schedule, and the name of another"):
        shop.periodic_tasks()


def test_a_beat_schedule_is_shown_by_inspect_conf_as_plain_data(shop: App) -> None:
    shop.conf.beat_schedule = {"x": {"task": "tasks.add", "schedule": crontab(), "args": (1,)}}
    shown: Any = shop.conf.for_people["beat_schedule"]
    assert shown["x"]["task"] == "tasks.add"
    assert "crontab" in shown["x"]["schedule"]
