"""What signals ask for, one after the other; processes obey them in tests/e2e/test_signals.py."""

from __future__ import annotations

import threading
from signal import SIGHUP, SIGINT, SIGTERM

import pytest

from zmqtasks.node.ossignals import Step, Wishes, stacks_text


@pytest.mark.parametrize(
    ("numbers", "steps", "restarts"),
    [
        (
            [SIGTERM, SIGINT, SIGTERM, SIGTERM],
            [Step.DRAIN, Step.HURRY, Step.KILL, Step.KILL],
            False,
        ),
        ([SIGHUP, SIGHUP], [Step.RESTART, Step.NOTHING], True),
        ([SIGHUP, SIGTERM, SIGTERM], [Step.RESTART, Step.DRAIN, Step.HURRY], False),
        ([SIGTERM, SIGHUP], [Step.DRAIN, Step.NOTHING], False),
    ],
)
def test_each_signal_asks_for_more_and_a_stop_is_stronger_than_a_restart(
    numbers: list[int], steps: list[Step], restarts: bool
) -> None:
    wishes = Wishes(has_terminal=False)
    assert [wishes.take(number, float(second)) for second, number in enumerate(numbers)] == steps
    assert wishes.wants_restart is restarts


def test_a_terminal_that_is_closed_stops_the_node() -> None:
    wishes = Wishes(has_terminal=True)
    assert wishes.take(SIGHUP, 0.0) is Step.DRAIN
    assert not wishes.wants_restart


def test_a_signal_that_comes_with_the_first_one_does_not_hurry() -> None:
    """``timeout`` and the like signal the process, then its group; so does Ctrl-C."""
    wishes = Wishes(has_terminal=False)
    assert wishes.take(SIGINT, 7.0) is Step.DRAIN
    assert wishes.take(SIGTERM, 7.001) is Step.NOTHING
    assert wishes.take(SIGTERM, 7.002) is Step.NOTHING
    assert wishes.take(SIGTERM, 7.5) is Step.HURRY
    assert wishes.take(SIGTERM, 7.501) is Step.KILL


def test_stacks_name_their_threads() -> None:
    waiting, done = threading.Event(), threading.Event()

    def wait_here() -> None:
        waiting.set()
        done.wait()

    thread = threading.Thread(target=wait_here, name="patient")
    thread.start()
    try:
        waiting.wait()
        text = stacks_text()
    finally:
        done.set()
        thread.join()
    assert "thread MainThread, most recent call last:\n" in text
    assert "wait_here" in text.partition("thread patient, ")[2]
