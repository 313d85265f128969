"""The contract of ``zmqtasks.stores.base`` as tests.

Subclass the suites that your store's promises name and give them a fixture
``make_store``: a function that returns a store which is not open yet. It may be called
several times in a test; with :class:`DurableStoreContract` all stores that it makes in
one test share their content, otherwise only one is used at a time.

No test sleeps, goes by the clock or needs a plug-in of pytest.
"""

# ruff: noqa: D102 - the names of the tests are sentences

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from zmqtasks.core.rows import OutcomeRow, VerdictRow, final_row
from zmqtasks.errors import StoreError
from zmqtasks.limits import PAYLOAD_BYTES_MAX, STORE_EXPIRE_ROWS_MAX, STORE_READ_IDS_PER_CALL_MAX
from zmqtasks.stores.base import Store
from zmqtasks.testing.store_rows import (
    FAR_FUTURE_MS,
    NOW_MS,
    RandomBatch,
    StoreModel,
    outcome,
    task_id,
    verdict,
)
from zmqtasks.wire.messages import Status, Verdict

_T = TypeVar("_T")

#: Makes a store that is not open yet.
MakeStore = Callable[[], Store]

_SEEDS = range(12)
_STEPS_COUNT = 60


def run(make_store: MakeStore, scenario: Callable[[Store], Awaitable[_T]]) -> _T:
    """Open a store, play the scenario with it in an event loop of its own, close it."""

    async def play() -> _T:
        store = make_store()
        await store.open()
        try:
            return await scenario(store)
        finally:
            await store.close()

    return asyncio.run(play())


async def rows_of(store: Store, number: int) -> list[OutcomeRow]:
    """What the store has of task ``number``."""
    return (await store.get_batch([task_id(number)])).get(task_id(number), [])


async def verdict_of(store: Store, number: int, attempt: int = 1) -> int:
    """The verdict of one attempt that the store must have."""
    (found,) = [row.verdict for row in await rows_of(store, number) if row.attempt == attempt]
    return found


class StoreContract:
    """What every store must do."""

    def test_it_names_only_capabilities_that_it_has(self, make_store: MakeStore) -> None:
        store = make_store()
        assert store.capabilities <= {"queryable", "blobs"}
        assert ("queryable" in store.capabilities) <= hasattr(store, "list")
        assert ("blobs" in store.capabilities) <= hasattr(store, "put_blob")

    # --- what is put comes back -------------------------------------------------------

    def test_every_field_comes_back_as_it_was(self, make_store: MakeStore) -> None:
        row = OutcomeRow(
            task_id=bytes(range(16)),
            attempt=3,
            status=Status.TIME_LIMIT,
            verdict=Verdict.REFUSED,
            publisher=b"\x00\xff\x00\xff\x01\x02\x03\x04",
            epoch=(1 << 23) - 1,
            position=(1 << 63) - 1,
            app="läden 店",
            name="pkg.mod.tâche'; --",
            queue='q"1',
            worker="h\u00f6st-\U0001f40d",
            started_ms=0,
            run_us=1 << 40,
            stored_ms=NOW_MS,
            body=bytes(range(256)),
            ext={"e": "ValueError: x", "n": {"deep": [1, None, True, 2.5]}, "b": b"\x00"},
        )

        async def scenario(store: Store) -> None:
            await store.put_batch([row], [])
            assert await store.get_batch([row.task_id]) == {row.task_id: [row]}

        run(make_store, scenario)

    def test_empty_values_come_back_empty(self, make_store: MakeStore) -> None:
        row = outcome(1, app="", name="", queue="", worker="", publisher=b"", body=b"")

        async def scenario(store: Store) -> None:
            await store.put_batch([row], [])
            assert await rows_of(store, 1) == [row]

        run(make_store, scenario)

    @pytest.mark.parametrize("size", [1, 64 * 1024 + 1, PAYLOAD_BYTES_MAX])
    def test_large_bodies_come_back_whole(self, make_store: MakeStore, size: int) -> None:
        body = (bytes(range(251)) * (size // 251 + 1))[:size]

        async def scenario(store: Store) -> None:
            await store.put_batch([outcome(1, body=body), outcome(2)], [])
            await store.put_batch([], [verdict(1)])
            (row,) = await rows_of(store, 1)
            assert row.body == body
            assert row.verdict == Verdict.SETTLED
            assert await rows_of(store, 2) == [outcome(2)]

        run(make_store, scenario)

    def test_a_big_batch_is_read_in_one_call(self, make_store: MakeStore) -> None:
        count = 2 * STORE_READ_IDS_PER_CALL_MAX + 1
        rows = [outcome(number) for number in range(count)]

        async def scenario(store: Store) -> None:
            await store.put_batch(rows, [verdict(number) for number in range(count)])
            found = await store.get_batch([task_id(number) for number in range(count + 5)])
            assert len(found) == count
            assert all(found[row.task_id][0].body == row.body for row in rows)
            assert all(found[row.task_id][0].verdict == Verdict.SETTLED for row in rows)

        run(make_store, scenario)

    def test_unknown_ids_are_left_out(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            assert await store.get_batch([task_id(1)]) == {}
            await store.put_batch([outcome(1)], [])
            assert set(await store.get_batch([task_id(2), task_id(1)])) == {task_id(1)}

        run(make_store, scenario)

    def test_an_id_asked_for_twice_is_answered_once(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([outcome(1)], [])
            assert await store.get_batch([task_id(1)] * 3) == {task_id(1): [outcome(1)]}

        run(make_store, scenario)

    def test_empty_calls_do_nothing(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([], [])
            await store.delete([])
            assert await store.get_batch([]) == {}
            assert await store.expire(FAR_FUTURE_MS) == 0

        run(make_store, scenario)

    def test_rows_are_copied_in_and_out(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            given = outcome(1, ext={"w": "a"})
            await store.put_batch([given], [])
            given.body = b"changed"
            given.ext["w"] = "changed"
            (taken,) = await rows_of(store, 1)
            taken.verdict = Verdict.REFUSED
            taken.ext["w"] = "changed"
            assert await rows_of(store, 1) == [outcome(1, ext={"w": "a"})]

        run(make_store, scenario)

    # --- repetition -------------------------------------------------------------------

    def test_putting_the_same_again_changes_nothing(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            for _ in range(3):
                await store.put_batch([outcome(1), outcome(2)], [verdict(1)])
            assert await rows_of(store, 1) == [outcome(1, verdict=Verdict.SETTLED)]
            assert await rows_of(store, 2) == [outcome(2)]

        run(make_store, scenario)

    def test_the_first_content_of_an_attempt_stays(self, make_store: MakeStore) -> None:
        first = outcome(1, body=b"first", status=Status.FAILURE)

        async def scenario(store: Store) -> None:
            await store.put_batch([first], [])
            await store.put_batch([outcome(1, body=b"second", stored_ms=NOW_MS + 9)], [])
            assert await rows_of(store, 1) == [first]

        run(make_store, scenario)

    def test_the_first_of_two_in_one_batch_stays(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([outcome(1, body=b"a"), outcome(1, body=b"b")], [])
            assert await rows_of(store, 1) == [outcome(1, body=b"a")]

        run(make_store, scenario)

    # --- verdicts ---------------------------------------------------------------------

    @pytest.mark.parametrize("value", [Verdict.SETTLED, Verdict.REFUSED])
    def test_a_verdict_comes_to_its_outcome(self, make_store: MakeStore, value: int) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([outcome(1), outcome(1, 2), outcome(2)], [])
            await store.put_batch([], [verdict(1, 2, value)])
            assert await rows_of(store, 1) == [outcome(1), outcome(1, 2, verdict=value)]
            assert await verdict_of(store, 2) == Verdict.NONE

        run(make_store, scenario)

    @pytest.mark.parametrize("value", [Verdict.SETTLED, Verdict.REFUSED])
    def test_a_verdict_may_come_first(self, make_store: MakeStore, value: int) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([], [verdict(1, 2, value)])
            assert await store.get_batch([task_id(1)]) == {}
            await store.put_batch([outcome(1), outcome(1, 2)], [])
            assert await rows_of(store, 1) == [outcome(1), outcome(1, 2, verdict=value)]

        run(make_store, scenario)

    def test_a_verdict_may_come_with_its_outcome(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([outcome(1)], [verdict(1)])
            assert await verdict_of(store, 1) == Verdict.SETTLED

        run(make_store, scenario)

    def test_a_repeated_row_may_bring_the_verdict(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([outcome(1)], [])
            await store.put_batch([outcome(1, verdict=Verdict.SETTLED, body=b"other")], [])
            assert await rows_of(store, 1) == [outcome(1, verdict=Verdict.SETTLED)]

        run(make_store, scenario)

    @pytest.mark.parametrize(
        ("first", "second"),
        [(Verdict.SETTLED, Verdict.REFUSED), (Verdict.REFUSED, Verdict.SETTLED)],
    )
    def test_a_verdict_never_changes(self, make_store: MakeStore, first: int, second: int) -> None:
        batches: list[tuple[int, list[OutcomeRow], list[VerdictRow]]] = [
            # (task, first batch's outcomes, its verdicts); the second verdict follows.
            (1, [outcome(1)], [verdict(1, 1, first)]),
            (2, [outcome(2, verdict=first)], []),
            (3, [outcome(3)], [verdict(3, 1, first), verdict(3, 1, second)]),
            (4, [outcome(4, verdict=first)], [verdict(4, 1, second)]),
            (5, [], [verdict(5, 1, first)]),
            (6, [], [verdict(6, 1, first), verdict(6, 1, second)]),
        ]

        async def scenario(store: Store) -> None:
            for number, outcomes, verdicts in batches:
                await store.put_batch(outcomes, verdicts)
                await store.put_batch([], [verdict(number, 1, second)])
                await store.put_batch([outcome(number, verdict=second)], [])
                await store.put_batch([], [verdict(number, 1, Verdict.NONE)])
                assert await verdict_of(store, number) == first, f"task {number}"

        run(make_store, scenario)

    def test_one_attempt_of_a_task_is_settled(self, make_store: MakeStore) -> None:
        second: list[tuple[int, list[OutcomeRow], list[VerdictRow]]] = [
            (1, [], [verdict(1, 1)]),
            (2, [outcome(2, 1, verdict=Verdict.SETTLED)], []),
            (3, [outcome(3, 3, verdict=Verdict.SETTLED)], []),
            (4, [outcome(4, 3)], [verdict(4, 3)]),
            (5, [outcome(5, 1, verdict=Verdict.SETTLED)], [verdict(5, 1)]),
        ]

        async def scenario(store: Store) -> None:
            await store.put_batch([], [verdict(3, 3)])
            for number, outcomes, verdicts in second:
                await store.put_batch([outcome(number, 1), outcome(number, 2)], [])
                await store.put_batch([], [verdict(number, 2)])
                await store.put_batch(outcomes, verdicts)
                rows = await rows_of(store, number)
                settled = [row.attempt for row in rows if row.verdict == Verdict.SETTLED]
                assert settled == [2], f"task {number}"

        run(make_store, scenario)

    def test_none_is_no_verdict(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([], [verdict(1, 1, Verdict.NONE)])
            await store.put_batch([outcome(1)], [verdict(1, 1, Verdict.NONE)])
            assert await verdict_of(store, 1) == Verdict.NONE
            await store.put_batch([], [verdict(1)])
            assert await verdict_of(store, 1) == Verdict.SETTLED

        run(make_store, scenario)

    # --- order ------------------------------------------------------------------------

    def test_attempts_stand_in_the_order_first_stored(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([], [verdict(1, 2)])
            await store.put_batch([outcome(1, 3), outcome(1, 1)], [])
            # A repetition, a later time and a verdict do not move a row.
            await store.put_batch(
                [outcome(1, 4, stored_ms=NOW_MS - 99), outcome(1, 3), outcome(1, 2)],
                [verdict(1, 3, Verdict.REFUSED)],
            )
            assert [row.attempt for row in await rows_of(store, 1)] == [3, 1, 4, 2]

        run(make_store, scenario)

    def test_order_holds_across_deletions(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([outcome(1, 2), outcome(2)], [])
            await store.delete([task_id(2)])
            await store.put_batch([outcome(1, 1)], [])
            assert [row.attempt for row in await rows_of(store, 1)] == [2, 1]

        run(make_store, scenario)

    def test_the_settled_attempt_is_final_else_the_first(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([outcome(1, 2), outcome(1, 1), outcome(1, 3)], [])
            assert final_row(await rows_of(store, 1)) == outcome(1, 2)
            await store.put_batch([], [verdict(1, 2, Verdict.REFUSED)])
            assert final_row(await rows_of(store, 1)) == outcome(1, 1)
            await store.put_batch([], [verdict(1, 3)])
            assert final_row(await rows_of(store, 1)) == outcome(1, 3, verdict=Verdict.SETTLED)

        run(make_store, scenario)

    # --- deleting and expiring --------------------------------------------------------

    def test_delete_drops_all_attempts_of_these_tasks(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([outcome(1), outcome(1, 2), outcome(2)], [verdict(1)])
            await store.delete([task_id(1), task_id(9)])
            await store.delete([task_id(1)])
            assert set(await store.get_batch([task_id(1), task_id(2)])) == {task_id(2)}

        run(make_store, scenario)

    def test_delete_drops_verdicts_that_came_first(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([], [verdict(1)])
            await store.delete([task_id(1)])
            await store.put_batch([outcome(1)], [])
            assert await verdict_of(store, 1) == Verdict.NONE

        run(make_store, scenario)

    def test_a_deleted_attempt_may_be_stored_anew(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([outcome(1, body=b"old")], [verdict(1)])
            await store.delete([task_id(1)])
            await store.put_batch([outcome(1, body=b"new")], [])
            assert await rows_of(store, 1) == [outcome(1, body=b"new")]

        run(make_store, scenario)

    def test_expire_drops_what_is_older_and_nothing_else(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch(
                [
                    outcome(1, stored_ms=NOW_MS - 1),
                    outcome(2, stored_ms=NOW_MS),
                    outcome(3, stored_ms=NOW_MS + 1),
                    # By row, not by task.
                    outcome(4, 1, stored_ms=NOW_MS - 1),
                    outcome(4, 2, stored_ms=NOW_MS),
                ],
                [verdict(1), verdict(2)],
            )
            assert await store.expire(NOW_MS - 1) == 0
            assert await store.expire(NOW_MS) == 2
            assert await store.expire(NOW_MS) == 0
            found = await store.get_batch([task_id(number) for number in range(1, 5)])
            assert set(found) == {task_id(2), task_id(3), task_id(4)}
            assert [row.attempt for row in found[task_id(4)]] == [2]
            assert found[task_id(2)][0].verdict == Verdict.SETTLED
            assert await store.expire(NOW_MS + 2) == 3

        run(make_store, scenario)

    def test_expire_drops_more_than_one_piece(self, make_store: MakeStore) -> None:
        count = 2 * STORE_EXPIRE_ROWS_MAX + 1

        async def scenario(store: Store) -> None:
            rows = [outcome(number, stored_ms=NOW_MS + number % 2) for number in range(2 * count)]
            await store.put_batch(rows, [])
            assert await store.expire(NOW_MS + 1) == count
            assert len(await store.get_batch([row.task_id for row in rows])) == count

        run(make_store, scenario)

    def test_expire_drops_verdicts_whose_outcome_never_came(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([], [verdict(1), verdict(2)])
            await store.expire(1)
            await store.put_batch([outcome(1)], [])
            assert await verdict_of(store, 1) == Verdict.SETTLED
            assert await store.expire(FAR_FUTURE_MS) == 1
            await store.put_batch([outcome(2)], [])
            assert await verdict_of(store, 2) == Verdict.NONE

        run(make_store, scenario)

    # --- at the same time -------------------------------------------------------------

    def test_a_reader_sees_all_of_a_batch_or_nothing(self, make_store: MakeStore) -> None:
        batches, size = 20, 50

        async def scenario(store: Store) -> None:
            ids = [task_id(number) for number in range(batches * size)]
            written = asyncio.Event()

            async def write() -> None:
                for start in range(0, batches * size, size):
                    numbers = range(start, start + size)
                    await store.put_batch(
                        [outcome(number) for number in numbers],
                        [verdict(number) for number in numbers],
                    )
                written.set()

            async def read() -> None:
                seen = 0
                while not written.is_set():
                    found = await store.get_batch(ids)
                    assert len(found) % size == 0
                    assert len(found) >= seen
                    assert all(rows[0].verdict == Verdict.SETTLED for rows in found.values())
                    seen = len(found)
                    await asyncio.sleep(0)

            await asyncio.gather(write(), read(), read())
            assert len(await store.get_batch(ids)) == batches * size

        run(make_store, scenario)

    def test_the_same_row_put_at_the_same_time_is_stored_once(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await asyncio.gather(
                *(store.put_batch([outcome(1), outcome(2)], [verdict(1)]) for _ in range(8)),
                *(store.get_batch([task_id(1)]) for _ in range(8)),
            )
            assert await rows_of(store, 1) == [outcome(1, verdict=Verdict.SETTLED)]
            assert await rows_of(store, 2) == [outcome(2)]

        run(make_store, scenario)

    def test_putting_goes_on_while_expiring(self, make_store: MakeStore) -> None:
        old = [outcome(number, stored_ms=1) for number in range(3 * STORE_EXPIRE_ROWS_MAX)]
        new = [outcome(10_000 + number) for number in range(10)]

        async def scenario(store: Store) -> None:
            await store.put_batch(old, [])
            dropped, *_ = await asyncio.gather(
                store.expire(2), *(store.put_batch([row], []) for row in new)
            )
            assert dropped == len(old)
            assert len(await store.get_batch([row.task_id for row in old + new])) == len(new)

        run(make_store, scenario)

    @pytest.mark.parametrize("seed", _SEEDS)
    def test_it_does_what_a_plain_model_does(self, make_store: MakeStore, seed: int) -> None:
        batch = RandomBatch(seed)
        model = StoreModel()

        async def step(store: Store) -> None:
            choice = batch.random.random()
            if choice < 0.8:
                outcomes, verdicts = batch.outcomes(), batch.verdicts()
                await store.put_batch(outcomes, verdicts)
                model.put_batch(outcomes, verdicts)
            elif choice < 0.9:
                ids = [batch.task()]
                await store.delete(ids)
                model.delete(ids)
            else:
                before_ms = batch.time_ms()
                assert await store.expire(before_ms) == model.expire(before_ms)

        async def scenario(store: Store) -> None:
            ids = [task_id(number) for number in range(RandomBatch.TASKS_COUNT)]
            for _ in range(_STEPS_COUNT):
                await step(store)
                assert await store.get_batch(ids) == model.get_batch(ids)

        run(make_store, scenario)

    # --- opening and closing ----------------------------------------------------------

    def test_opening_twice_is_harmless(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.put_batch([outcome(1)], [])
            await store.open()
            assert await rows_of(store, 1) == [outcome(1)]

        run(make_store, scenario)

    def test_closing_twice_is_harmless(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.close()
            await store.close()

        run(make_store, scenario)

    def test_closing_a_store_that_was_never_opened_is_harmless(self, make_store: MakeStore) -> None:
        asyncio.run(_close(make_store()))

    def test_a_closed_store_says_so(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.close()
            with pytest.raises(StoreError):
                await store.put_batch([outcome(1)], [])
            with pytest.raises(StoreError):
                await store.get_batch([task_id(1)])
            with pytest.raises(StoreError):
                await store.delete([task_id(1)])
            with pytest.raises(StoreError):
                await store.expire(1)

        run(make_store, scenario)


async def _close(store: Store) -> None:
    await store.close()
