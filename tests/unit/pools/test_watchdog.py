from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from zmqtasks.errors import SoftTimeLimitExceeded
from zmqtasks.pools import softlimit
from zmqtasks.testing.pool_host import PATIENCE_S


@pytest.fixture(autouse=True)
def _watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softlimit, "_watchdog", [])
    softlimit.install_watchdog()


def in_thread(function: Callable[[], object]) -> object:
    """What a function gives or raises in a thread of its own."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as exc:  # noqa: BLE001 - it is what the test looks at
            found.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return found[0]


def spin() -> None:
    while True:
        pass


def test_function_in_any_thread_is_interrupted() -> None:
    found = in_thread(lambda: softlimit.call(spin, 20))
    assert isinstance(found, SoftTimeLimitExceeded)
    assert str(found) == "ran longer than its soft time limit of 0.02 s"
    assert softlimit._watchdog[0].targets == {}


def test_exception_looks_as_if_it_had_been_raised_by_hand() -> None:
    found = in_thread(lambda: softlimit.call(spin, 20))
    assert type(found).__qualname__ == SoftTimeLimitExceeded.__qualname__
    assert type(found).__module__ == SoftTimeLimitExceeded.__module__


def test_each_of_many_threads_has_its_own_limit() -> None:
    found: dict[int, object] = {}
    threads = [
        threading.Thread(
            target=lambda ms=ms: found.update(
                {ms: in_thread(lambda: softlimit.call(spin if ms % 2 else str, ms))}
            )
        )
        for ms in range(11, 31)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert {ms for ms, end in found.items() if isinstance(end, SoftTimeLimitExceeded)} == {
        ms for ms in range(11, 31) if ms % 2
    }


def test_what_is_shielded_is_not_interrupted_but_afterwards() -> None:
    steps: list[str] = []
    lock = threading.Lock()
    target_seen = threading.Event()

    def critical() -> None:
        with lock:
            dog = softlimit._watchdog[0]
            target = dog.targets[threading.get_ident()]
            # Until its time is over, which it must not feel here.
            while not target.is_deferred:
                target_seen.set()
            steps.append("done")

    def task() -> None:
        softlimit.shielded(critical)
        spin()

    found = in_thread(lambda: softlimit.call(task, 20))
    assert isinstance(found, SoftTimeLimitExceeded)
    assert steps == ["done"]
    assert not lock.locked()


def test_interruptions_never_leave_a_lock_behind() -> None:
    lock = threading.Lock()

    def held() -> None:
        lock.acquire()
        lock.release()

    def task() -> None:
        while True:
            softlimit.shielded(held)

    for _ in range(30):
        assert isinstance(in_thread(lambda: softlimit.call(task, 1)), SoftTimeLimitExceeded)
        assert not lock.locked()


def test_limits_that_were_kept_are_forgotten() -> None:
    """Each is for an hour; a worker has millions of them."""
    for _ in range(2_000):
        assert softlimit.call(str, 3_600_000, 1) == "1"
    assert isinstance(in_thread(lambda: softlimit.call(spin, 5)), SoftTimeLimitExceeded)
