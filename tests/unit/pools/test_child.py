from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import pytest

from zmqtasks.errors import AppLoadError
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.capture import Capture
from zmqtasks.pools.child import ChildLink, load_function, load_program
from zmqtasks.pools.page import CANCELS
from zmqtasks.pools.protocol import (
    Answer,
    CancelTask,
    ChildOutcome,
    FromChild,
    LogRecord,
    QueryRequest,
    RunTask,
    StopChild,
    ToChild,
)
from zmqtasks.pools.stream import encode_batch, from_child_reader
from zmqtasks.testing.pool_host import PATIENCE_S
from zmqtasks.wire.messages import Status

SERIAL = 3
LINE = LogRecord(id=b"", name="", stream="stdout", level=20, logger="", text="line")


class NodeEnd:
    """The node's end of the socketpair, blocking."""

    def __init__(self, sock: socket.socket, page: list[int]) -> None:
        self._sock = sock
        self._page = page
        self._reader = from_child_reader(1_000_000)
        self._batches: list[list[FromChild]] = []

    def send(self, *messages: ToChild) -> None:
        self._sock.sendall(encode_batch(messages))
        self._page[CANCELS] += sum(isinstance(message, CancelTask) for message in messages)

    def receive(self) -> list[FromChild]:
        """The next batch."""
        while not self._batches:
            data = self._sock.recv(65536)
            assert data
            self._batches += self._reader.feed(data)
        return self._batches.pop(0)


@pytest.fixture
def ends() -> Iterator[tuple[ChildLink, NodeEnd]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_S)
    page = [0, 0, 0, 0]
    link = ChildLink(theirs, SERIAL, 1_000_000, page)
    yield link, NodeEnd(ours, page)
    link.detach()
    link._wakes.put(None)  # ends its thread
    ours.close()


def run_task(number: int, attempt: int = 1) -> RunTask:
    return RunTask(
        number.to_bytes(16, "big"), attempt, "shop", "shop.f", "default", b"o" * 8, b"", None
    )


def query(number: int, task_id: bytes = b"") -> QueryRequest:
    return QueryRequest(request=number, ids=[task_id], wait=False)


def done(task: RunTask, run_us: int = 0) -> ChildOutcome:
    return ChildOutcome(task.id, task.attempt, 0, 0, run_us, b"", "")


def serve(link: ChildLink, execute: Callable[[RunTask], ChildOutcome]) -> threading.Thread:
    thread = threading.Thread(target=link.serve, args=(execute, Capture(link.tell)))
    thread.start()
    return thread


def numbers(batch: list[FromChild]) -> list[int]:
    return [int.from_bytes(m.id, "big") for m in batch if isinstance(m, ChildOutcome)]


class TestServing:
    def test_batch_of_short_tasks_is_answered_at_once(
        self, ends: tuple[ChildLink, NodeEnd]
    ) -> None:
        link, node = ends
        node.send(*[run_task(n) for n in range(50)], StopChild())
        thread = serve(link, done)
        found: list[int] = []
        while len(found) < 50:
            found += numbers(node.receive())
        assert found == list(range(50))
        thread.join(PATIENCE_S)

    def test_long_task_is_reported_without_those_after_it(
        self, ends: tuple[ChildLink, NodeEnd]
    ) -> None:
        link, node = ends
        node.send(*[run_task(n) for n in range(3)], StopChild())
        thread = serve(link, partial(done, run_us=2_000))
        assert [numbers(node.receive()) for _ in range(3)] == [[0], [1], [2]]
        thread.join(PATIENCE_S)

    def test_suspect_starts_with_nothing_unanswered_before_it(
        self, ends: tuple[ChildLink, NodeEnd]
    ) -> None:
        link, node = ends
        let_go = threading.Event()

        def execute(task: RunTask) -> ChildOutcome:
            if task.attempt > 1:
                let_go.wait(PATIENCE_S)
            return done(task)

        node.send(run_task(1))
        node.send(run_task(2, attempt=2))
        node.send(StopChild())
        thread = serve(link, execute)
        assert numbers(node.receive()) == [1]
        let_go.set()
        assert numbers(node.receive()) == [2]
        thread.join(PATIENCE_S)

    def test_cancelled_attempt_that_waits_never_starts(
        self, ends: tuple[ChildLink, NodeEnd]
    ) -> None:
        link, node = ends
        started = []

        def execute(task: RunTask) -> ChildOutcome:
            started.append(task.attempt)
            return done(task)

        task = run_task(1, attempt=2)
        node.send(CancelTask(id=task.id, attempt=2), task, run_task(1, attempt=3), StopChild())
        thread = serve(link, execute)
        outcomes: list[FromChild] = []
        while len(outcomes) < 2:
            outcomes += node.receive()
        thread.join(PATIENCE_S)
        assert [o.status for o in outcomes if isinstance(o, ChildOutcome)] == [
            Status.CANCELLED,
            Status.SUCCESS,
        ]
        assert started == [3]

    def test_stop_comes_after_what_was_sent_before(self, ends: tuple[ChildLink, NodeEnd]) -> None:
        link, node = ends
        node.send(StopChild())
        thread = serve(link, done)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


class TestAsking:
    def test_requests_are_numbered_from_the_serial(self, ends: tuple[ChildLink, NodeEnd]) -> None:
        link, node = ends
        thread = threading.Thread(target=link.ask, args=(query,))
        thread.start()
        (request,) = node.receive()
        assert isinstance(request, QueryRequest)
        assert request.request >> 32 == SERIAL
        node.send(Answer(request=request.request, error=""))
        thread.join(PATIENCE_S)

    def test_no_answer_in_time_is_none(self, ends: tuple[ChildLink, NodeEnd]) -> None:
        link, node = ends
        assert link.ask(query, timeout_s=0.0) is None
        (late,) = node.receive()
        assert isinstance(late, QueryRequest)
        # The late answer is dropped and the next question gets its own.
        node.send(Answer(request=late.request, error="late"))
        node.send(Answer(request=late.request + 1, error="next"))
        answer = link.ask(query, timeout_s=PATIENCE_S)
        assert answer is not None
        assert answer.error == "next"

    def test_threads_get_their_own_answers_in_any_order(
        self, ends: tuple[ChildLink, NodeEnd]
    ) -> None:
        link, node = ends
        found: dict[bytes, str] = {}

        def ask(task_id: bytes) -> None:
            answer = link.ask(partial(query, task_id=task_id))
            assert answer is not None
            found[task_id] = answer.error

        threads = [threading.Thread(target=ask, args=(bytes([n]),)) for n in range(4)]
        for thread in threads:
            thread.start()
        requests: list[FromChild] = []
        while len(requests) < 4:
            requests += node.receive()
        for request in reversed(requests):
            assert isinstance(request, QueryRequest)
            node.send(Answer(request=request.request, error=f"for {request.ids[0].hex()}"))
        for thread in threads:
            thread.join(PATIENCE_S)
        assert found == {bytes([n]): f"for {n:02x}" for n in range(4)}

    def test_tasks_that_come_before_an_answer_are_kept(
        self, ends: tuple[ChildLink, NodeEnd]
    ) -> None:
        link, node = ends

        def execute(task: RunTask) -> ChildOutcome:
            if task.id == run_task(1).id:
                assert link.ask(query) is not None
            return done(task)

        thread = serve(link, execute)
        node.send(run_task(1))
        (request,) = node.receive()
        assert isinstance(request, QueryRequest)
        node.send(run_task(2))
        node.send(Answer(request=request.request, error=""), StopChild())
        found: list[int] = []
        while len(found) < 2:
            found += numbers(node.receive())
        assert found == [1, 2]
        thread.join(PATIENCE_S)

    def test_forked_process_cannot_ask(self, ends: tuple[ChildLink, NodeEnd]) -> None:
        link, _ = ends
        link.detach()
        with pytest.raises(RuntimeError, match="forked by a task"):
            link.ask(query)

    def test_telling_sends_at_once(self, ends: tuple[ChildLink, NodeEnd]) -> None:
        link, node = ends
        link.tell(LINE)
        assert node.receive() == [LINE]

    def test_telling_while_another_thread_sends_does_not_block(
        self, ends: tuple[ChildLink, NodeEnd]
    ) -> None:
        link, node = ends
        with link._send_lock:
            link.tell(LINE)
        assert node.receive() == [LINE]


def good_program(_link: object, _config: object) -> object:
    return SimpleNamespace(catalog=[], conf={"concurrency": 3}, facts={}, has_hooks=False)


def unloadable_program(_link: object, _config: object) -> None:
    raise AppLoadError("no such app", "the traceback")


def exiting_program(_link: object, _config: object) -> None:
    raise SystemExit(3)


class TestLoading:
    def load(self, ends: tuple[ChildLink, NodeEnd], name: str) -> tuple[str, str]:
        program, ready = load_program(ends[0], PoolConfig(app="x", program=f"{__name__}:{name}"))
        assert (program is None) == bool(ready.error)
        return ready.error, ready.traceback

    def test_program_is_loaded_by_name(self, ends: tuple[ChildLink, NodeEnd]) -> None:
        assert self.load(ends, "good_program") == ("", "")
        _, ready = load_program(ends[0], PoolConfig(app="x", program=f"{__name__}:good_program"))
        assert ready.conf == {"concurrency": 3}
        assert load_function("os.path:join")("a", "b") == "a/b"

    def test_load_error_keeps_its_traceback(self, ends: tuple[ChildLink, NodeEnd]) -> None:
        assert self.load(ends, "unloadable_program") == ("no such app", "the traceback")

    def test_anything_else_is_reported_as_well(self, ends: tuple[ChildLink, NodeEnd]) -> None:
        error, trace = self.load(ends, "exiting_program")
        assert "SystemExit: 3" in error
        assert "exiting_program" in trace
