"""The contracts of what a store may promise beyond ``Store``: durability and queries."""

# ruff: noqa: D102 - the names of the tests are sentences

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, cast

import pytest

from zmqtasks.core.rows import OutcomeRow
from zmqtasks.errors import StoreError
from zmqtasks.stores.base import Queryable, Store
from zmqtasks.testing.store_contract import MakeStore, StoreContract, rows_of, run, verdict_of
from zmqtasks.testing.store_rows import NOW_MS, outcome, task_id, verdict
from zmqtasks.wire.messages import Status, Verdict


class _QueryableStore(Store, Queryable, Protocol):
    pass


class DurableStoreContract(StoreContract):
    """What a store must do whose content outlives it."""

    def test_content_and_order_outlive_the_store(self, make_store: MakeStore) -> None:
        async def before(store: Store) -> None:
            await store.put_batch([outcome(1, 3, ext={"w": "x"}), outcome(1, 1)], [verdict(1, 3)])

        async def after(store: Store) -> None:
            await store.put_batch([outcome(1, 2), outcome(1, 1, body=b"other")], [])
            assert await rows_of(store, 1) == [
                outcome(1, 3, ext={"w": "x"}, verdict=Verdict.SETTLED),
                outcome(1, 1),
                outcome(1, 2),
            ]

        run(make_store, before)
        run(make_store, after)

    def test_verdicts_that_came_first_outlive_the_store(self, make_store: MakeStore) -> None:
        async def before(store: Store) -> None:
            await store.put_batch([], [verdict(1, 1, Verdict.REFUSED)])

        async def after(store: Store) -> None:
            await store.put_batch([outcome(1)], [verdict(1)])
            assert await verdict_of(store, 1) == Verdict.REFUSED

        run(make_store, before)
        run(make_store, after)

    def test_what_was_dropped_stays_dropped(self, make_store: MakeStore) -> None:
        async def before(store: Store) -> None:
            await store.put_batch([outcome(1), outcome(2, stored_ms=1), outcome(3)], [])
            await store.delete([task_id(1)])
            await store.expire(2)

        async def after(store: Store) -> None:
            found = await store.get_batch([task_id(1), task_id(2), task_id(3)])
            assert set(found) == {task_id(3)}

        run(make_store, before)
        run(make_store, after)

    def test_two_stores_on_one_content_agree(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            other = make_store()
            await other.open()
            try:
                for number in range(20):
                    await asyncio.gather(
                        store.put_batch([outcome(number)], [verdict(number + 5)]),
                        other.put_batch([outcome(number)], [verdict(number)]),
                    )
                ids = [task_id(number) for number in range(20)]
                found = await store.get_batch(ids)
                assert found == await other.get_batch(ids)
                assert found == {
                    task_id(number): [outcome(number, verdict=Verdict.SETTLED)]
                    for number in range(20)
                }
            finally:
                await other.close()

        run(make_store, scenario)


class QueryableContract:
    """What a store must do that can list (``capabilities`` has "queryable")."""

    def _listed(
        self, make_store: MakeStore, rows: Sequence[OutcomeRow], **filters: Any
    ) -> list[tuple[int, int]]:
        """``(task number, attempt)`` of what a store with these rows lists."""

        async def scenario(store: Store) -> list[OutcomeRow]:
            assert "queryable" in store.capabilities
            await store.put_batch(rows, [])
            return await cast("_QueryableStore", store).list(**filters)

        return [
            (int.from_bytes(row.task_id[5:], "big"), row.attempt)
            for row in run(make_store, scenario)
        ]

    def test_an_empty_store_lists_nothing(self, make_store: MakeStore) -> None:
        assert self._listed(make_store, []) == []

    def test_newest_rows_come_first(self, make_store: MakeStore) -> None:
        rows = [
            outcome(1, stored_ms=NOW_MS + 1),
            outcome(2, stored_ms=NOW_MS + 3),
            outcome(3, stored_ms=NOW_MS + 2),
            outcome(4, stored_ms=NOW_MS + 2),
        ]
        # Of the same millisecond, the last stored is the newest.
        assert self._listed(make_store, rows) == [(2, 1), (4, 1), (3, 1), (1, 1)]

    def test_the_limit_cuts_off_the_oldest(self, make_store: MakeStore) -> None:
        rows = [outcome(number, stored_ms=NOW_MS + number) for number in range(120)]
        assert self._listed(make_store, rows, limit=2) == [(119, 1), (118, 1)]
        assert self._listed(make_store, rows, limit=0) == []
        assert len(self._listed(make_store, rows)) == 100

    def test_it_filters_by_status_name_and_time(self, make_store: MakeStore) -> None:
        rows = [
            outcome(1, status=Status.FAILURE, stored_ms=NOW_MS + 1),
            outcome(2, name="tasks.mul", stored_ms=NOW_MS + 2),
            outcome(3, status=Status.FAILURE, name="tasks.mul", stored_ms=NOW_MS + 3),
            outcome(4, stored_ms=NOW_MS + 4),
        ]
        assert self._listed(make_store, rows, status=Status.FAILURE) == [(3, 1), (1, 1)]
        assert self._listed(make_store, rows, status=Status.SUCCESS) == [(4, 1), (2, 1)]
        assert self._listed(make_store, rows, name="tasks.mul") == [(3, 1), (2, 1)]
        assert self._listed(make_store, rows, name="tasks") == []
        assert self._listed(make_store, rows, since_ms=NOW_MS + 3) == [(4, 1), (3, 1)]
        both = self._listed(make_store, rows, status=Status.FAILURE, name="tasks.mul")
        assert both == [(3, 1)]

    def test_only_the_final_attempt_of_a_task_is_listed(self, make_store: MakeStore) -> None:
        settled, refused = Verdict.SETTLED, Verdict.REFUSED
        rows = [
            outcome(1, 2),
            outcome(1, 1, stored_ms=NOW_MS + 1),
            outcome(2, 1),
            outcome(2, 2, verdict=settled),
            outcome(3, 1, verdict=refused),
            outcome(4, 1, verdict=refused),
            outcome(4, 2),
            outcome(5, 1, verdict=settled),
            outcome(5, 2, verdict=settled),
        ]
        listed = self._listed(make_store, rows)
        assert sorted(listed) == [(1, 2), (2, 2), (4, 2), (5, 1)]

    def test_a_filter_never_shows_an_attempt_that_is_not_final(self, make_store: MakeStore) -> None:
        rows = [outcome(1, 1, status=Status.FAILURE), outcome(1, 2, verdict=Verdict.SETTLED)]
        assert self._listed(make_store, rows, status=Status.FAILURE) == []

    def test_a_closed_store_does_not_list(self, make_store: MakeStore) -> None:
        async def scenario(store: Store) -> None:
            await store.close()
            with pytest.raises(StoreError):
                await cast("_QueryableStore", store).list()

        run(make_store, scenario)
