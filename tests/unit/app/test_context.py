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
    request = context.request_of("shop", "shop.add")
    assert request.called_directly
    assert (request.id, request.root_id, request.parent_id) == (None, None, None)
    assert (request.name, request.queue, request.hostname, request.app_name) == ("", "", "", "")
    assert (request.args, request.kwargs, request.headers, request.ext) == ([], {}, {}, {})
    assert "outside of a task" in repr(request)


@pytest.mark.usefixtures("running")
def test_running_task_is_described() -> None:
    request = context.request_of("shop", "shop.add")
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


EXT = {
    "n": 2, "rq": 1, "pri": 7, "eta": 1_800_000_000_000, "exp": 1_800_000_060_000, "o": b"\1" * 8,
    "h": {"customer": 17}, "ar": "(...)", "kr": "{...}", "sh": "sum", "ir": 1,
}  # fmt: skip


def test_request_tells_what_the_caller_asked_for() -> None:
    set_running(
        RunTask(b"i" * 16, 4, "shop", "shop.add", "fast", b"o" * 8, TASK.body, EXT, False, 1500, 0)
    )
    try:
        request = context.request_of("shop", "shop.add")
        assert (request.retries, request.redelivered) == (2, False)
        assert request.delivery_info == {
            "queue": "fast", "routing_key": "fast", "priority": 7, "redelivered": False,
        }  # fmt: skip
        assert request.eta == "2027-01-15T08:00:00+00:00"
        assert request.expires == "2027-01-15T08:01:00+00:00"
        assert request.timelimit == (None, 1.5)
        assert request.origin == "01" * 8
        assert (request.argsrepr, request.kwargsrepr) == ("(...)", "{...}")
        assert (request.shadow, request.ignore_result) == ("sum", True)
        assert (request.correlation_id, request.is_eager, request.group) == (
            request.id, False, None,
        )  # fmt: skip
        with pytest.raises(AttributeError, match=r"headers are in request.headers\['customer'\]"):
            _ = request.customer
        assert request.get("customer", 5) == 5
        assert request.get("retries") == 2
    finally:
        set_running(None)


@pytest.mark.parametrize(
    ("attempt", "ext", "redelivered"),
    [
        (1, None, False),
        (2, None, True),
        (2, {"n": 1}, False),
        (3, {"n": 1}, True),
        (3, {"n": 1, "rq": 1}, False),
        (2, {"n": "odd"}, True),
        (1, {"n": 5}, False),
    ],
)
def test_an_attempt_that_asked_for_another_one_was_not_lost(
    attempt: int, ext: dict[str, object] | None, redelivered: bool
) -> None:
    run = RunTask(b"i" * 16, attempt, "shop", "shop.add", "fast", b"o" * 8, b"", ext)
    assert context.TaskContext(run).redelivered == redelivered


@pytest.mark.usefixtures("running")
def test_arguments_are_shown_as_they_are_when_the_caller_says_nothing() -> None:
    request = context.request_of("shop", "shop.add")
    assert (request.argsrepr, request.kwargsrepr) == ("(1,)", "{'y': 2}")
    assert (request.shadow, request.ignore_result) == (None, False)
    assert (request.eta, request.expires, request.timelimit) == (None, None, (None, None))
    assert request.origin == (b"o" * 8).hex()


@pytest.mark.usefixtures("running")
def test_a_function_called_by_another_task_has_no_request_of_its_own() -> None:
    assert context.request_of("shop", "shop.total") is context.DIRECT
    assert context.request_of("other", "shop.add") is context.DIRECT


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chord", "'chord': Celery has it, and it is not supported yet"),
        ("retires", "there are app_name, args, argsrepr, attempt"),
        ("__wrapped__", "__wrapped__"),
    ],
)
def test_attributes_that_do_not_exist_have_a_hint(name: str, words: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(context.DIRECT, name)
    assert words in str(caught.value)
