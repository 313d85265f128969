from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from zmqtasks.app.child_gateway import ChildGateway
from zmqtasks.errors import SubmitRejected
from zmqtasks.ids import owner_of
from zmqtasks.limits import CHILD_SUBMIT_BYTES_MAX, CHILD_SUBMIT_COUNT_MAX
from zmqtasks.node.gateway import UNKNOWN_STATUS, Call, Durability
from zmqtasks.pools.protocol import (
    Answer,
    ChildRequest,
    ForgetRequest,
    KeepRequest,
    QueryRequest,
    RunTask,
    StateUpdate,
    SubmitRequest,
)
from zmqtasks.pools.running import set_running
from zmqtasks.wire.messages import Kind, Outcome, StateRecord, TaskState, UpdateRecord

OWNER = b"o" * 8
TASK = RunTask(b"i" * 16, 2, "shop", "shop.add", "fast", OWNER, b"", None)
KIND = Kind("shop", "shop.add", "", "fast")


class FakeLink:
    """Answers by what the test says."""

    passes: tuple[type[BaseException], ...] = ()

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.told: list[ChildRequest] = []
        self.answer: Callable[[Any], Answer | None] = lambda asked: Answer(asked.request, "")

    def tell(self, request: ChildRequest) -> None:
        self.told.append(request)

    def ask(self, make: Callable[[int], Any], timeout_s: float | None = None) -> Answer | None:
        self.asked.append(make(len(self.asked) + 1))
        return self.answer(self.asked[-1])


class RecordingTicket:
    """Remembers what settled."""

    def __init__(self) -> None:
        self.outcomes: dict[bytes, Outcome] = {}
        self.arrived = threading.Semaphore(0)

    def settled(self, task_id: bytes, outcome: Outcome) -> None:
        self.outcomes[task_id] = outcome
        self.arrived.release()

    def updated(self, task_id: bytes, record: UpdateRecord) -> None: ...


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def gateway(link: FakeLink) -> Iterator[ChildGateway]:
    """A gateway while TASK runs."""
    set_running(TASK)
    yield ChildGateway(link)
    set_running(None)


def calls(count: int, body: bytes = b"") -> list[Call]:
    return [Call(n.to_bytes(16, "big"), KIND, body, None) for n in range(count)]


class TestSubmitting:
    def test_ids_name_the_owner_and_differ(self, gateway: ChildGateway) -> None:
        ids = gateway.new_ids(1000) + gateway.new_ids(1)
        assert len(set(ids)) == 1001
        assert {owner_of(task_id) for task_id in ids} == {OWNER}

    def test_used_up_maker_is_replaced(
        self, gateway: ChildGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def used_up() -> bytes:
            raise OverflowError

        gateway._makers[OWNER] = used_up
        assert len(gateway.new_ids(2)) == 2

    def test_call_carries_parent_and_root(self, gateway: ChildGateway, link: FakeLink) -> None:
        call = Call(b"c" * 16, KIND, b"body", {"h": {"a": 1}})
        gateway.submit([call], RecordingTicket())
        assert link.asked == [
            SubmitRequest(
                request=1,
                parent=TASK.id,
                attempt=2,
                kinds=[KIND],
                calls=[(0, b"c" * 16, b"body", {"h": {"a": 1}, "p": TASK.id, "r": TASK.id})],
            )
        ]

    def test_durability_travels_with_each_call(self, gateway: ChildGateway, link: FakeLink) -> None:
        sent = [Call(b"c" * 16, KIND, b"", {"c": b"digest"}), *calls(1)]
        gateway.submit(sent, RecordingTicket(), durability=Durability.DISK)
        gateway.submit(sent, RecordingTicket(), durability=Durability.MEMORY)
        on_disk, in_memory = ([call[3] for call in request.calls] for request in link.asked)
        line = {"p": TASK.id, "r": TASK.id}
        assert on_disk == [{**line, "dur": 1, "c": b"digest"}, {**line, "dur": 1}]
        assert in_memory == [{**line, "c": b"digest"}, line]

    def test_many_calls_go_in_bounded_requests(self, gateway: ChildGateway, link: FakeLink) -> None:
        sent = calls(2 * CHILD_SUBMIT_COUNT_MAX + 1)
        gateway.submit(sent, RecordingTicket())
        assert [len(request.calls) for request in link.asked] == [
            CHILD_SUBMIT_COUNT_MAX,
            CHILD_SUBMIT_COUNT_MAX,
            1,
        ]
        found = [call[1] for request in link.asked for call in request.calls]
        assert found == [call.id for call in sent]

    def test_large_calls_go_in_bounded_requests(
        self, gateway: ChildGateway, link: FakeLink
    ) -> None:
        gateway.submit(calls(5, bytes(CHILD_SUBMIT_BYTES_MAX // 2)), RecordingTicket())
        assert [len(request.calls) for request in link.asked] == [2, 2, 1]

    def test_nothing_to_submit_asks_nobody(self, gateway: ChildGateway, link: FakeLink) -> None:
        gateway.submit([], RecordingTicket())
        assert link.asked == []

    def test_refusal_in_the_middle_says_how_many_were_accepted(
        self, gateway: ChildGateway, link: FakeLink
    ) -> None:
        link.answer = lambda asked: Answer(asked.request, "" if asked.request == 1 else "full")
        with pytest.raises(SubmitRejected, match="did not accept 500 of 1500 calls: full"):
            gateway.submit(calls(1500), RecordingTicket())

    @pytest.mark.parametrize("options", [{"delivery": "at_most_once"}, {"require_worker_s": 1.0}])
    def test_options_that_the_owner_cannot_keep_are_refused(
        self, gateway: ChildGateway, link: FakeLink, options: dict[str, Any]
    ) -> None:
        with pytest.raises(SubmitRejected, match="inside a task"):
            gateway.submit(calls(1), RecordingTicket(), **options)
        assert link.asked == []

    def test_outside_of_a_task_nothing_is_submitted(self, link: FakeLink) -> None:
        for gateway in (ChildGateway(link), ChildGateway(None)):
            with pytest.raises(SubmitRejected, match="no task runs here"):
                gateway.new_ids(1)


class TestAsking:
    def test_states_not_answered_are_pending(self, gateway: ChildGateway, link: FakeLink) -> None:
        known = StateRecord(b"a" * 16, TaskState.STARTED, {}, None)
        link.answer = lambda asked: Answer(asked.request, "", [known])
        found = gateway.states([b"a" * 16, b"b" * 16], 1.0)
        assert found[b"a" * 16] is known
        assert found[b"b" * 16].state == TaskState.PENDING
        link.answer = lambda asked: None
        assert gateway.states([b"a" * 16], 0.0)[b"a" * 16].state == TaskState.PENDING

    def test_description_has_state_and_reason(self, gateway: ChildGateway, link: FakeLink) -> None:
        waits = StateRecord(b"a" * 16, TaskState.PENDING, {"why": "no worker"}, None)
        link.answer = lambda asked: Answer(asked.request, "", [waits])
        assert gateway.describe(b"a" * 16) == "its state is PENDING (no worker)"
        set_running(None)
        assert "nothing is known" in gateway.describe(b"a" * 16)

    def test_watched_tasks_tell_the_ticket(self, gateway: ChildGateway, link: FakeLink) -> None:
        outcome = Outcome(b"a" * 16, 1, 0, 1, 0, 0, 0, 0, b"")
        states = [
            StateRecord(b"a" * 16, TaskState.SETTLED, {}, outcome),
            StateRecord(b"b" * 16, TaskState.UNKNOWN, {}, None),
        ]
        link.answer = lambda asked: Answer(asked.request, "", states)
        ticket = RecordingTicket()
        gateway.watch([b"a" * 16, b"b" * 16], ticket)
        for _ in states:
            assert ticket.arrived.acquire(timeout=20)
        assert ticket.outcomes[b"a" * 16] is outcome
        assert ticket.outcomes[b"b" * 16].status == UNKNOWN_STATUS
        assert link.asked == [QueryRequest(request=1, ids=[b"a" * 16, b"b" * 16], wait=True)]

    def test_forgetting_and_states_of_one_s_own_are_told(
        self, gateway: ChildGateway, link: FakeLink
    ) -> None:
        gateway.forget([b"a" * 16])
        gateway.keep(KIND, b"g" * 16, b"value", timeout_s=1)
        gateway.tell_update("HALFWAY", b"meta", -1)
        assert link.told == [
            ForgetRequest(ids=[b"a" * 16]),
            KeepRequest(KIND, b"g" * 16, b"value"),
            StateUpdate(id=TASK.id, attempt=2, state="HALFWAY", meta=b"meta"),
        ]
