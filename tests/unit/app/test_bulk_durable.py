"""Durable batches of ``delay_many``: the next one is made while the disk works on the last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app import batches
from zmqtasks.app.app import App
from zmqtasks.errors import MeshOverloaded, SubmitRejected, SubmitUnknown
from zmqtasks.node.gateway import Call, Pending, Ticket
from zmqtasks.node.room import Place

BATCH = 3


class _SlowDisk(InlineGateway):
    """Writes down in which order batches begin and are waited for; fails as told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        #: {number of a batch: how its ``wait`` ends}.
        self.fails: dict[int, Exception] = {}
        #: Number of the batch for which there is no room.
        self.full_at = -1
        self.count = 0

    def begin(
        self, calls: Sequence[Call], ticket: Ticket, *, after: Pending | None = None,
        wait_s: float | Place | None = None,
    ) -> Pending:  # fmt: skip
        number, self.count = self.count, self.count + 1
        if number == self.full_at:
            raise MeshOverloaded("full")
        self.events.append(f"begin {number}")
        before = after.error if isinstance(after, _Waited) else None
        error = before or self.fails.get(number)
        if error is None:
            for call in calls:
                self._settle(call, ticket)
        return _Waited(self, number, error)


class _Waited:
    def __init__(self, disk: _SlowDisk, number: int, error: Exception | None) -> None:
        self.disk = disk
        self.number = number
        self.error = error

    def wait(self) -> None:
        self.disk.events.append(f"wait {self.number}")
        if self.error is not None:
            raise self.error

    def forget(self) -> None:
        self.disk.events.append(f"forget {self.number}")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[_SlowDisk]:
    from zmqtasks.app import current

    monkeypatch.setattr(batches, "BATCH_COUNT", BATCH)
    gateway = _SlowDisk()
    current.install(gateway)
    yield gateway
    current.install(None)


@pytest.fixture
def keep(disk: _SlowDisk) -> Any:
    app = App("bulk")

    @app.task(durability="disk")
    def keep(x: int) -> int:
        return x

    return keep


def _many(count: int) -> list[tuple[int]]:
    return [(number,) for number in range(count)]


def test_two_batches_are_under_way_while_the_next_is_made(disk: _SlowDisk, keep: Any) -> None:
    assert keep.delay_many(_many(4 * BATCH)).get(timeout=1) == list(range(4 * BATCH))
    assert disk.events == [
        "begin 0", "begin 1", "begin 2", "wait 0", "begin 3", "wait 1", "wait 2", "wait 3",
    ]  # fmt: skip


def test_refused_batch_takes_all_later_ones_with_it(disk: _SlowDisk, keep: Any) -> None:
    disk.fails[1] = SubmitRejected("the disk is full")
    with pytest.raises(SubmitRejected, match="the disk is full") as raised:
        keep.delay_many(_many(9 * BATCH))
    assert raised.value.accepted.get(timeout=1) == list(range(BATCH))  # type: ignore[attr-defined]
    assert any("first 3 calls were submitted" in note for note in raised.value.__notes__)
    assert disk.events[-3:] == ["forget 1", "forget 2", "forget 3"]


def test_batch_of_which_nobody_knows_says_how_many_may_run(disk: _SlowDisk, keep: Any) -> None:
    disk.fails[1] = SubmitUnknown("no answer")
    with pytest.raises(SubmitUnknown) as raised:
        keep.delay_many(_many(3 * BATCH))
    assert len(raised.value.accepted) == BATCH  # type: ignore[attr-defined]
    assert any("the 6 calls after them may run too" in note for note in raised.value.__notes__)


def test_batches_before_one_without_room_are_waited_for(disk: _SlowDisk, keep: Any) -> None:
    disk.full_at = 2
    with pytest.raises(MeshOverloaded) as raised:
        keep.delay_many(_many(9 * BATCH))
    assert disk.events[-2:] == ["wait 0", "wait 1"]
    assert len(raised.value.accepted) == 2 * BATCH  # type: ignore[attr-defined]


def test_error_of_the_iterable_waits_for_what_was_submitted(disk: _SlowDisk, keep: Any) -> None:
    def calls() -> Iterator[tuple[int]]:
        yield from _many(BATCH)
        raise KeyError("no more")

    with pytest.raises(KeyError) as raised:
        keep.delay_many(calls())
    assert disk.events == ["begin 0", "wait 0"]
    assert len(raised.value.accepted) == BATCH  # type: ignore[attr-defined]


def test_refusal_before_an_error_of_the_iterable_is_told_with_it(
    disk: _SlowDisk, keep: Any
) -> None:
    def calls() -> Iterator[tuple[int]]:
        yield from _many(BATCH)
        raise KeyError("no more")

    disk.fails[0] = SubmitRejected("the disk is full")
    with pytest.raises(KeyError) as raised:
        keep.delay_many(calls())
    assert "delay_many: before that, the disk is full" in raised.value.__notes__
    assert len(raised.value.accepted) == 0  # type: ignore[attr-defined]


def test_coroutine_does_the_same_in_threads(disk: _SlowDisk, keep: Any) -> None:
    async def main() -> None:
        results = await keep.adelay_many(_many(3 * BATCH))
        assert await results.aget(timeout=1) == list(range(3 * BATCH))
        disk.fails[4] = SubmitRejected("the disk is full")
        with pytest.raises(SubmitRejected) as raised:
            await keep.adelay_many(_many(3 * BATCH))
        assert len(raised.value.accepted) == BATCH  # type: ignore[attr-defined]

    asyncio.run(main())
