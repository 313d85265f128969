"""Periodic tasks in a mesh in the process of a test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from zmqtasks import App, chain
from zmqtasks.errors import ConfigError
from zmqtasks.schedules import crontab
from zmqtasks.testing import VirtualMesh, mesh

START = datetime(2026, 3, 1, 12, tzinfo=UTC)

app = App("virtual.beats", set_as_current=False)


@app.task(name="virtual.beats.clean")
def clean(what: str = "all") -> str:
    return what


@app.task(name="virtual.beats.shout")
def shout(text: str) -> str:
    return text.upper()


app.conf.beat_schedule = {
    "nightly": {"task": "virtual.beats.clean", "schedule": crontab(hour=3, minute=30)},
    "hourly": {"task": "virtual.beats.clean", "schedule": 3600.0, "args": ("temporary",)},
}
app.add_periodic_task(crontab(minute=0, hour=12), chain(clean.s("noon"), shout.s()), name="noon")


@pytest.fixture
def net() -> Iterator[VirtualMesh]:
    with mesh(app, start=START + timedelta(seconds=1)) as found:
        yield found


def runs(net: VirtualMesh, *args: Any) -> list[datetime]:
    return [run.at for run in net.runs if run.args == args]


def test_periodic_tasks_are_called_when_they_are_due(net: VirtualMesh) -> None:
    beat = net.add_beat()
    net.advance(timedelta(days=2))
    assert beat.leads
    assert runs(net) == [datetime(2026, 3, day, 3, 30, tzinfo=UTC) for day in (2, 3)]
    assert len(runs(net, "temporary")) == 48
    noon = [(run.task, run.at) for run in net.runs if run.args == ("noon",)]
    assert noon == [
        (task.name, START + timedelta(days=day)) for day in (1, 2) for task in (clean, shout)
    ]
    assert {call.args for call in net.calls if call.task == clean.name} == {
        (), ("temporary",), ("noon",),
    }  # fmt: skip


def test_without_a_beat_nothing_is_called(net: VirtualMesh) -> None:
    net.advance(timedelta(days=2))
    assert not net.runs


def test_of_two_beats_one_calls_and_the_other_takes_over(net: VirtualMesh) -> None:
    first, second = net.add_beat(), net.add_beat()
    net.advance(timedelta(hours=5))
    assert (first.leads, second.leads) == (True, False)
    net.kill(first)
    net.advance(timedelta(hours=5))
    assert second.leads
    assert len(runs(net, "temporary")) == 10


def test_periodic_tasks_can_be_paused_and_run_now(net: VirtualMesh) -> None:
    net.add_beat()
    net.advance(10)
    app.control.beat.pause("hourly")
    net.advance(timedelta(hours=2))
    assert not runs(net, "temporary")
    app.control.beat.resume("hourly")
    app.control.beat.run("nightly")
    net.run_until_idle()
    assert runs(net) == [net.now]


def test_names_of_beats_are_unique(net: VirtualMesh) -> None:
    net.add_beat("one")
    with pytest.raises(ConfigError, match="there is a beat 'one'"):
        net.add_beat("one")
