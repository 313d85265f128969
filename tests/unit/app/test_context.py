from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from zmqtasks.app import context
from zmqtasks.ids import format_task_id
from zmqtasks.pools.protocol import RunTask
from zmqtasks.pools.running import set_running
from zmqtasks.wire.payload import encode_arguments

TASK = RunTask(
    b"i" * 16, 2, "shop", "shop.add", "fast", b"o" * 8, encode_arguments((1,), {"y": 2}), None
)


@pytest.fixture
def running() -> Iterator[None]:
    set_running(TASK)
    context.set_node_name("worker-1")
    yield
    set_running(None)
    context.set_node_name("")


def test_outside_of_tasks_there_is_no_context() -> None:
    assert context.current() is None
    request = context.request()
    assert request.called_directly
    assert (request.id, request.root_id, request.parent_id) == (None, None, None)
    assert (request.name, request.queue, request.hostname, request.app_name) == ("", "", "", "")
    assert (request.args, request.kwargs, request.headers, request.ext) == ([], {}, {}, {})
    assert "outside of a task" in repr(request)


@pytest.mark.usefixtures("running")
def test_running_task_is_described() -> None:
    request = context.request()
    assert not request.called_directly
    assert request.id == request.root_id == format_task_id(TASK.id)
    assert request.parent_id is None
    assert (request.name, request.task, request.app_name) == ("shop.add", "shop.add", "shop")
    assert (request.queue, request.hostname) == ("fast", "worker-1")
    assert (request.attempt, request.redelivered, request.retries) == (2, True, 0)
    assert (request.args, request.kwargs) == ([1], {"y": 2})
    assert request is context.current()


@pytest.mark.usefixtures("running")
def test_threads_of_a_task_see_it_too() -> None:
    seen = []
    thread = threading.Thread(target=lambda: seen.append(context.current()))
    thread.start()
    thread.join()
    assert seen == [context.current()]


@pytest.mark.usefixtures("running")
def test_next_attempt_has_its_own_context() -> None:
    first = context.current()
    set_running(RunTask(b"j" * 16, 1, "shop", "shop.add", "fast", b"o" * 8, b"", {"h": "odd"}))
    second = context.current()
    assert second is not first
    assert second is not None
    assert second.id == format_task_id(b"j" * 16)
    # Headers that are no map come from a foreign client.
    assert second.headers == {}
