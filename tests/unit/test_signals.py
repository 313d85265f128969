"""Signals: who is connected is called, with what Celery's receivers expect."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from zmqtasks import signals
from zmqtasks.errors import ConfigError
from zmqtasks.signals import SetupSignal, Signal


@pytest.fixture
def signal() -> Signal:
    return Signal("something")


class Sender:
    def __init__(self, name: str) -> None:
        self.name = name


def test_receivers_are_told_who_sent_what(signal: Signal) -> None:
    told: list[dict[str, Any]] = []

    @signal.connect
    def receiver(**named: Any) -> str:
        told.append(named)
        return "yes"

    assert signal.send(sender="s", x=1) == [(receiver, "yes")]
    assert told == [{"signal": signal, "sender": "s", "x": 1}]


def test_decorator_takes_options(signal: Signal) -> None:
    @signal.connect(sender="tasks.add")
    def receiver(**named: Any) -> None: ...

    assert signal.send("tasks.add")
    assert not signal.send("tasks.sub")
    assert signal.has_listeners("tasks.add")
    assert not signal.has_listeners("tasks.sub")
    assert signal.has_listeners()


def test_sender_is_a_task_or_its_name(signal: Signal) -> None:
    add = Sender("tasks.add")

    @signal.connect(sender=add)
    def receiver(**named: Any) -> None: ...

    assert signal.send("tasks.add")
    assert signal.send(Sender("tasks.add"))  # of another application, or after a reload
    assert not signal.send(Sender("tasks.sub"))
    assert not signal.send(None)


def test_receiver_that_is_gone_is_not_called(signal: Signal) -> None:
    def receiver(**named: Any) -> None: ...

    signal.connect(receiver)
    del receiver
    gc.collect()
    assert not signal.send(None)
    assert not signal.has_listeners()
    assert not signal.receivers


def test_method_of_an_object_that_is_gone_is_not_called(signal: Signal) -> None:
    class Holder:
        def receive(self, **named: Any) -> None: ...

    holder = Holder()
    signal.connect(holder.receive)
    assert signal.send(None)
    assert signal.disconnect(holder.receive)
    signal.connect(holder.receive)
    del holder
    gc.collect()
    assert not signal.send(None)


def test_strong_connection_keeps_its_receiver(signal: Signal) -> None:
    signal.connect(lambda **named: 7, weak=False)
    gc.collect()
    assert [answer for _, answer in signal.send(None)] == [7]


def test_same_receiver_is_connected_once(signal: Signal) -> None:
    def receiver(**named: Any) -> None: ...

    def another(**named: Any) -> None: ...

    for _ in range(2):
        signal.connect(receiver)
    assert len(signal.send(None)) == 1
    signal.connect(receiver, dispatch_uid="one")
    signal.connect(another, dispatch_uid="one")
    assert [found for found, _ in signal.send(None)] == [receiver, receiver]


def test_disconnect_takes_what_connect_took(signal: Signal) -> None:
    def receiver(**named: Any) -> None: ...

    signal.connect(receiver, sender="a")
    signal.connect(receiver, dispatch_uid=3)
    assert not signal.disconnect(receiver)
    assert signal.disconnect(receiver, sender="a")
    assert signal.disconnect(dispatch_uid=3)
    assert not signal.send("a")


def test_receiver_that_raises_is_logged_and_the_others_are_called(
    signal: Signal, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("bad")

    @signal.connect
    def first(**named: Any) -> None:
        raise error

    @signal.connect
    def second(**named: Any) -> str:
        return "called"

    with caplog.at_level(logging.ERROR, "zmqtasks.signals"):
        assert signal.send(None) == [(first, error), (second, "called")]
    assert "of signal something raised" in caplog.text


def test_coroutine_function_that_nobody_would_await_is_refused(signal: Signal) -> None:
    async def receiver(**named: Any) -> None: ...

    with pytest.raises(ValueError, match=r"signal something: .* async def .*; connect a plain one"):
        signal.connect(receiver)


@pytest.mark.parametrize("receiver", [lambda x: x, "no function"])
def test_receiver_that_takes_no_keywords_is_refused(signal: Signal, receiver: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a function that takes \*\*kwargs"):
        signal.connect(receiver)


@pytest.mark.parametrize("name", ["task_received", "task_revoked", "celeryd_init", "setup_logging"])
def test_signal_of_celery_that_does_not_fire_says_so_and_what_to_do(name: str) -> None:
    found: Signal = getattr(signals, name)
    with pytest.raises(ConfigError, match=rf"^signal {name}: .*; |^signal {name}: .*configure"):
        found.connect(lambda **named: None)


@pytest.fixture
def changes() -> Iterator[list[str]]:
    told: list[str] = []

    class Watcher:
        def hooks_changed(self) -> None:
            told.append("changed")

    watcher = Watcher()
    signals.watch(watcher)
    yield told
    del watcher


def test_who_made_plans_is_told_when_hooks_come_and_go(signal: Signal, changes: list[str]) -> None:
    def receiver(**named: Any) -> None: ...

    signal.connect(receiver)
    signal.disconnect(receiver)
    assert changes == ["changed", "changed"]


def test_who_connects_to_a_setup_signal_too_late_is_called_at_once() -> None:
    setup = SetupSignal("on_after_something")
    told: list[tuple[str, dict[str, Any]]] = []

    @setup.connect
    def early(**named: Any) -> None:
        told.append(("early", named))

    setup.send(sender="s", x=1)

    @setup.connect(weak=False)
    def late(**named: Any) -> None:
        told.append(("late", named))

    found = {"signal": setup, "sender": "s", "x": 1}
    assert told == [("early", found), ("late", found)]


def test_who_waits_for_a_beat_is_told_what_fires_in_its_process() -> None:
    with pytest.raises(ConfigError, match=r"signal beat_init: use app.on_after_finalize"):
        signals.beat_init.connect(lambda **_: None)
