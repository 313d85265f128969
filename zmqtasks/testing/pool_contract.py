"""What every pool promises, as tests.

Subclass :class:`PoolContract` and give it a static method ``make_pool`` that takes a
:class:`~zmqtasks.pools.base.PoolConfig` and returns a pool that is not started. What a pool
does not have among its ``features`` it must refuse; that is tried instead.
``docs/reference/pools.md`` is made from what is marked here with ``behaviour``.
"""

# ruff: noqa: D102 - the names of the tests are sentences

from __future__ import annotations

import pytest

from zmqtasks.errors import PayloadTooLarge, PayloadTypeError, SubmitRejected, TaskFailed
from zmqtasks.ids import format_task_id, owner_of, parse_task_id
from zmqtasks.pools import base
from zmqtasks.pools.protocol import Answer, QueryRequest, SubmitRequest
from zmqtasks.testing.pool_features import (
    PAYLOAD_BYTES_MAX,
    SLOTS_COUNT,
    TASKS,
    Behaviour,
    PoolFeatures,
    behaviour,
)
from zmqtasks.testing.pool_host import OWNER, Rig
from zmqtasks.testing.pool_tasks import ShopClosed
from zmqtasks.wire.messages import StateRecord, Status, TaskState
from zmqtasks.wire.payload import decode_arguments, decode_value


def behaviours() -> list[Behaviour]:
    """All rows of the matrix, in the order of the suite."""
    tests = [*vars(PoolContract).values(), *vars(PoolFeatures).values()]
    found = [getattr(test, "behaviour", None) for test in tests]
    return list(dict.fromkeys(row for row in found if row is not None))


class PoolContract(PoolFeatures):
    """Most tests use the first slot of a pool that they share."""

    def test_start_gives_the_tasks_of_the_application(self, rig: Rig) -> None:
        found = {entry.name: entry for entry in rig.catalog}
        entry = found[TASKS + ".add"]
        assert entry.app == "pooltest"
        assert entry.digest
        assert "x" in entry.signature

    @behaviour("Tasks of a slot run and are answered in order")
    def test_batch_is_answered_in_order(self, rig: Rig) -> None:
        outcomes = rig.run(*[rig.task("add", n, 1) for n in range(1000)])
        assert [decode_value(outcome.body) for outcome in outcomes] == list(range(1, 1001))
        assert all(outcome.error == "" for outcome in outcomes)
        assert all(outcome.started_ms > 0 and outcome.run_us >= 0 for outcome in outcomes)

    def test_batches_sent_ahead_run_one_after_the_other(self, rig: Rig) -> None:
        batches = [[rig.task("echo", (b, n)) for n in range(5)] for b in range(40)]
        for batch in batches:
            rig.pool.run(0, batch)
        sent = [task.id for batch in batches for task in batch]
        rig.host.until(lambda: len(rig.host.outcomes) == len(sent))
        assert [outcome.id for outcome in rig.host.outcomes] == sent

    @behaviour("Large arguments and results")
    def test_arguments_and_results_above_every_buffer_pass(self, rig: Rig) -> None:
        blob = bytes(range(256)) * 4096
        tasks = [rig.task("echo", blob) for _ in range(6)]
        assert all(decode_value(outcome.body) == blob for outcome in rig.run(*tasks))

    @behaviour("Errors with their type and traceback")
    def test_error_comes_as_its_own_type_with_traceback(self, rig: Rig) -> None:
        outcome = rig.run(rig.task("fail", "until monday"))[0]
        assert outcome.error == "ShopClosed: until monday"
        error = rig.error("fail", "until monday")
        assert isinstance(error, ShopClosed)
        assert str(error) == "until monday"
        trace = error.remote_traceback  # type: ignore[attr-defined]
        assert "in fail" in trace
        assert "childmain" not in trace

    def test_slot_lives_on_after_an_error(self, rig: Rig) -> None:
        rig.error("fail", "x")
        assert rig.value("add", 1, 2) == 3

    @behaviour("`sys.exit()` in a task is its error")
    def test_system_exit_is_an_error_of_the_task(self, rig: Rig) -> None:
        error = rig.error("leave", 3)
        assert isinstance(error, TaskFailed)
        assert "SystemExit" in str(error)
        assert rig.value("add", 1, 2) == 3
        assert rig.host.died == []

    def test_keyboard_interrupt_raised_by_a_task_is_its_error(self, rig: Rig) -> None:
        error = rig.error("interrupt")
        assert isinstance(error, TaskFailed)
        assert "KeyboardInterrupt" in str(error)
        assert rig.value("add", 1, 2) == 3

    def test_wrong_arguments_are_an_error_of_the_task(self, rig: Rig) -> None:
        assert isinstance(rig.error("add", 1), TypeError)

    def test_unknown_task_is_named_with_those_known(self, rig: Rig) -> None:
        error = rig.error("no_such_task")
        assert "no_such_task" in str(error)
        assert TASKS + ".add" in str(error)

    def test_unserialisable_result_names_the_path_and_type(self, rig: Rig) -> None:
        error = rig.error("unserialisable")
        assert isinstance(error, PayloadTypeError)
        assert "['bad'][0]" in str(error)
        assert "object" in str(error)

    def test_result_over_the_limit_says_both_sizes(self, rig: Rig) -> None:
        error = rig.error("big", PAYLOAD_BYTES_MAX + 1)
        assert isinstance(error, PayloadTooLarge)
        assert f"{PAYLOAD_BYTES_MAX:,}" in str(error)

    def test_signal_of_the_node_that_nobody_wants_changes_nothing(self, rig: Rig) -> None:
        rig.pool.fire("worker_ready", {})
        assert rig.value("add", 1, 2) == 3
        assert rig.host.logs == []

    @behaviour("`async def` tasks")
    def test_coroutine_runs_and_sees_its_own_context(self, rig: Rig) -> None:
        first, second = rig.task("slow_add", 1, 2), rig.task("slow_add", 3, 4)
        values = [decode_value(outcome.body) for outcome in rig.run(first, second)]
        assert values == [(3, format_task_id(first.id)), (7, format_task_id(second.id))]

    @behaviour("`self.request`")
    def test_context_tells_a_task_about_itself(self, rig: Rig) -> None:
        parent, root = b"p" * 16, b"r" * 16
        task = rig.task("about_me", attempt=2, h={"trace": "abc"}, p=parent, r=root)
        assert decode_value(rig.run(task)[0].body) == {
            "id": format_task_id(task.id),
            "attempt": 2,
            "name": task.name,
            "queue": "default",
            "hostname": "worker-1",
            "headers": {"trace": "abc"},
            "retries": 0,
            "parent_id": format_task_id(parent),
            "root_id": format_task_id(root),
            "args": [],
            "direct": False,
        }

    @behaviour("Output and logs with the task's name and id")
    def test_what_a_task_writes_comes_with_its_name_and_id(self, rig: Rig) -> None:
        task = rig.task("talk", "hello")
        rig.run(task)
        assert [(r.stream, r.text, r.logger) for r in rig.host.logs] == [
            ("stdout", "hello", ""),
            ("stderr", "hello to stderr", ""),
            ("logging", "logged hello", "shop"),
            ("stdout", "hello as bytes", ""),
            ("stdout", "hello unfinished", ""),
        ]
        assert {(r.id, r.name) for r in rig.host.logs} == {(task.id, task.name)}

    def test_silent_task_writes_nothing(self, rig: Rig) -> None:
        rig.value("add", 1, 2)
        assert rig.host.requests == []

    def test_outcome_does_not_wait_for_the_next_task_of_its_batch(self, rig: Rig) -> None:
        first, second = rig.task("add", 1, 2), rig.task("state_of", format_task_id(b"x" * 16))
        rig.pool.run(0, [first, second])
        rig.host.until(lambda: rig.host.outcomes)
        assert [outcome.id for outcome in rig.host.outcomes] == [first.id]
        # Only now can the second one end.
        query = rig.request(QueryRequest)
        rig.answer(Answer(request=query.request, error=""))
        rig.host.until(lambda: len(rig.host.outcomes) == 2)

    def test_state_is_asked_of_the_node(self, rig: Rig) -> None:
        rig.pool.run(0, [rig.task("state_of", format_task_id(b"x" * 16))])
        query = rig.request(QueryRequest)
        assert query.ids == [b"x" * 16]
        assert not query.wait
        started = StateRecord(b"x" * 16, TaskState.STARTED, {}, None)
        rig.answer(Answer(request=query.request, error="", states=[started]))
        rig.host.until(lambda: rig.host.outcomes)
        assert decode_value(rig.host.outcomes[0].body) == "STARTED"

    def test_waiting_for_a_task_in_a_task_is_refused(self, rig: Rig) -> None:
        error = rig.error("wait_in_task", format_task_id(b"x" * 16))
        assert isinstance(error, RuntimeError)

    @behaviour("Tasks that call tasks")
    def test_task_submits_through_its_owner(self, rig: Rig) -> None:
        parent = rig.task("submit", 2, r=b"r" * 16)
        rig.pool.run(0, [parent])
        ids = []
        for n in range(2):
            request = rig.request(SubmitRequest)
            assert (request.parent, request.attempt) == (parent.id, 1)
            assert [kind.name for kind in request.kinds] == [TASKS + ".add"]
            (kind, task_id, body, ext), *others = request.calls
            assert (kind, others) == (0, [])
            assert owner_of(task_id) == OWNER
            assert decode_arguments(body) == ([n, 1], {})
            assert ext == {"p": parent.id, "r": b"r" * 16}
            ids.append(task_id)
            # The parent's outcome comes after the owner has all that it submitted.
            assert rig.host.outcomes == []
            rig.answer(Answer(request=request.request, error=""))
        rig.host.until(lambda: rig.host.outcomes)
        handles = decode_value(rig.host.outcomes[0].body)
        assert [parse_task_id(handle) for handle in handles] == ids

    def test_refused_submit_raises_in_the_task(self, rig: Rig) -> None:
        rig.pool.run(0, [rig.task("submit", 1)])
        request = rig.request(SubmitRequest)
        rig.answer(Answer(request=request.request, error="the owner is full"))
        rig.host.until(lambda: rig.host.outcomes)
        assert rig.host.outcomes[0].error.startswith("SubmitRejected")
        assert "the owner is full" in rig.host.outcomes[0].error

    def test_delivery_that_the_owner_cannot_promise_is_refused(self, rig: Rig) -> None:
        error = rig.error("submit_at_most_once")
        assert isinstance(error, SubmitRejected)
        assert "at_most_once" in str(error)

    def test_answer_nobody_waits_for_changes_nothing(self, rig: Rig) -> None:
        rig.answer(Answer(request=999_999_999, error=""))
        assert rig.value("add", 1, 2) == 3

    @behaviour("Cancelling a task that waits")
    def test_cancelled_task_that_waits_ends_with_the_status_given(self, rig: Rig) -> None:
        first, second, third = (rig.task("echo", 1), rig.task("add", 1, 1), rig.task("add", 2, 2))
        held = rig.task("state_of", format_task_id(b"x" * 16))
        rig.pool.run(0, [held, first, second])
        query = rig.request(QueryRequest)
        rig.pool.run(0, [third])
        # In the batch that runs, and in one behind it.
        rig.pool.cancel(0, second.id, 1, Status.CANCELLED, 0)
        rig.pool.cancel(0, third.id, 1, Status.EXPIRED, 0)
        rig.pool.cancel(0, third.id, 2, Status.CANCELLED, 0)
        rig.answer(Answer(request=query.request, error=""))
        rig.host.until(lambda: len(rig.host.outcomes) == 4)
        assert [(outcome.id, outcome.status) for outcome in rig.host.outcomes] == [
            (held.id, Status.SUCCESS),
            (first.id, Status.SUCCESS),
            (second.id, Status.CANCELLED),
            (third.id, Status.EXPIRED),
        ]
        assert rig.value("add", 1, 2) == 3

    @behaviour("A running task can ask whether it was cancelled")
    def test_task_that_runs_can_ask_whether_it_was_cancelled(self, rig: Rig) -> None:
        task = rig.task("wait_until_cancelled")
        rig.pool.run(0, [task])
        rig.host.until(lambda: rig.host.logs)
        rig.pool.cancel(0, task.id, 1, Status.CANCELLED, 0)
        rig.host.until(lambda: rig.host.outcomes)
        assert decode_value(rig.host.outcomes[0].body) == "cancelled"

    def test_cancelling_what_is_not_there_changes_nothing(self, rig: Rig) -> None:
        task = rig.task("add", 1, 2)
        rig.pool.cancel(0, task.id, 1, Status.CANCELLED, 0)
        assert decode_value(rig.run(task)[0].body) == 3
        rig.pool.cancel(0, task.id, 1, Status.CANCELLED, 0)
        rig.pool.cancel(9, task.id, 1, Status.CANCELLED, 0)
        assert rig.value("add", 3, 4) == 7

    def test_killed_slot_says_so_and_comes_back(self, rig: Rig) -> None:
        rig.pool.run(0, [rig.task("spin")])
        rig.host.until(lambda: rig.host.logs)
        rig.pool.kill(0)
        rig.host.until(lambda: rig.host.ready)
        assert [slot for slot, _ in rig.host.died] == [0]
        assert "request" in rig.host.died[0][1]
        assert rig.host.outcomes == []
        assert rig.value("add", 1, 2) == 3

    def test_killed_slot_forgets_what_was_sent_ahead(self, rig: Rig) -> None:
        rig.pool.run(0, [rig.task("spin"), rig.task("add", 1, 1)])
        rig.pool.run(0, [rig.task("add", 2, 2)])
        rig.host.until(lambda: rig.host.logs)
        rig.pool.kill(0)
        rig.host.until(lambda: rig.host.ready)
        assert rig.value("add", 3, 4) == 7
        assert len(rig.host.outcomes) == 1

    def test_output_of_tasks_side_by_side_is_not_mixed(self, rig: Rig) -> None:
        tasks = [rig.task("say_in_pieces", f"task {slot}") for slot in range(rig.pool.slots)]
        for slot, task in enumerate(tasks):
            rig.pool.run(slot, [task])
        rig.host.until(lambda: len(rig.host.logs) == len(tasks))
        for slot, task in enumerate(tasks):
            rig.pool.cancel(slot, task.id, 1, Status.CANCELLED, 0)
        rig.host.until(lambda: len(rig.host.outcomes) == len(tasks))
        said = {(r.id, r.text) for r in rig.host.logs if r.stream == "stdout"}
        assert said == {(t.id, f"task {n} of task {n}") for n, t in enumerate(tasks)}

    @behaviour("Coroutines that call tasks, without keeping others from running")
    def test_coroutine_submits_without_blocking_its_loop(self, rig: Rig) -> None:
        rig.pool.run(0, [rig.task("add_later", 3)])
        # The second is asked for before the first is answered.
        requests = [rig.request(SubmitRequest) for _ in range(2)]
        for request in requests:
            rig.answer(Answer(request=request.request, error=""))
        rig.answer(Answer(request=rig.request(SubmitRequest).request, error=""))
        rig.host.until(lambda: rig.host.outcomes)
        assert len(decode_value(rig.host.outcomes[0].body)) == 3

    @behaviour("Several tasks at once", base.MANY)
    @pytest.mark.parametrize("name", ["wait_until_cancelled", "wait_until_cancelled_async"])
    def test_slots_run_side_by_side(self, rig: Rig, name: str) -> None:
        tasks = [rig.task(name) for _ in range(SLOTS_COUNT)]
        for slot, task in enumerate(tasks):
            rig.pool.run(slot, [task])
        rig.host.until(lambda: len(rig.host.logs) == SLOTS_COUNT)
        for slot, task in reversed(list(enumerate(tasks))):
            rig.pool.cancel(slot, task.id, 1, Status.CANCELLED, 0)
        rig.host.until(lambda: len(rig.host.outcomes) == SLOTS_COUNT)
        assert {decode_value(outcome.body) for outcome in rig.host.outcomes} == {"cancelled"}
