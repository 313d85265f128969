"""The inside of a process that has several slots."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from zmqtasks.pools.capture import Capture
from zmqtasks.pools.child import ChildLink
from zmqtasks.pools.hosting import ThreadHost
from zmqtasks.pools.protocol import ChildOutcome, FromChild, RunTask, StopChild, ToChild
from zmqtasks.pools.running import running_task
from zmqtasks.pools.stream import encode_batch, from_child_reader
from zmqtasks.testing.pool_host import PATIENCE_S


def run_task(number: int, slot: int) -> RunTask:
    task = RunTask(number.to_bytes(16, "big"), 1, "shop", "shop.f", "default", b"o" * 8, b"", None)
    task.slot = slot
    return task


def test_threads_end_when_their_slot_has_nothing_and_start_with_its_next_task() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_S)
    link = ChildLink(theirs, 1, 1_000_000, [0] * 20)
    names: defaultdict[int, list[threading.Thread]] = defaultdict(list)
    ended = threading.Semaphore(0)

    def execute(task: RunTask) -> ChildOutcome:
        assert running_task() is task
        names[task.slot].append(threading.current_thread())
        return ChildOutcome(task.id, task.attempt, 0, 0, 0, b"", "")

    program: Any = SimpleNamespace(execute=execute, end_thread=ended.release)
    host = ThreadHost(link, program, Capture(link.tell), [0] * 20, idle_s=0.01)
    server = threading.Thread(target=host.serve)
    server.start()
    reader = from_child_reader(1_000_000)

    def send(*messages: ToChild) -> None:
        ours.sendall(encode_batch(messages))

    def receive(count: int) -> list[FromChild]:
        found: list[FromChild] = []
        while len(found) < count:
            found += [message for batch in reader.feed(ours.recv(65536)) for message in batch]
        return found

    for number in (1, 2):
        send(run_task(number, 0), run_task(10 + number, 3))
        outcomes = receive(2)
        assert {o.slot for o in outcomes if isinstance(o, ChildOutcome)} == {0, 3}
        for _ in range(2):
            assert ended.acquire(timeout=PATIENCE_S)
    send(StopChild())
    server.join(PATIENCE_S)
    assert not server.is_alive()
    assert all(first is not second for first, second in names.values())
    link.detach()
    ours.close()
