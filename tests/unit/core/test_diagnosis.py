"""What people are told of tasks that nobody can run."""

from __future__ import annotations

from tests.support.machines import ADD, WORKER, worker_hello
from zmqtasks.app.commands import command_name
from zmqtasks.core.diagnosis import explain_waiting, is_command
from zmqtasks.core.requirements import announced
from zmqtasks.wire.messages import Hello, Kind


def needing(req: str, **ext: str) -> Kind:
    return Kind(ADD.app, ADD.name, ADD.digest, ADD.queue, (("req", req), *ext.items()))


def having(node: bytes = WORKER, **resources: float) -> Hello:
    hello = worker_hello(node)
    hello.ext = announced(["x86"], resources)
    return hello


def test_commands_of_applications_are_no_tasks_that_somebody_may_have_meant() -> None:
    assert is_command(command_name("control", "set_level"))
    assert is_command(command_name("inspect", "level"))
    command = Kind(ADD.app, "zmqtasks.control.set_level", "", ADD.queue)
    wanted = Kind(ADD.app, "tasks.sub", "", ADD.queue)
    text = explain_waiting(wanted, [worker_hello(WORKER, kinds=(ADD, command))])
    assert "they know 'tasks.add'" in text
    assert "set_level" not in text


def test_missing_tag_is_named_with_those_that_there_are() -> None:
    text = explain_waiting(needing("tag:cuda"), [having(), having(b"worker-2")])
    assert "needs a worker with tag 'cuda'" in text
    assert "they have 'x86'" in text


def test_missing_resource_is_named_with_the_most_that_there_is() -> None:
    text = explain_waiting(needing("gpu=4"), [having(gpu=2), having(b"worker-2", gpu=1)])
    assert "needs gpu=4, and the most that one has is 2" in text


def test_only_workers_of_the_queue_count() -> None:
    strong = having(b"worker-2", gpu=8)
    strong.queues = ["elsewhere"]
    text = explain_waiting(needing("gpu=4"), [having(gpu=2), strong])
    assert "the most that one has is 2" in text


def test_node_that_is_wanted_and_not_there_is_named() -> None:
    text = explain_waiting(needing("", to="77" * 8), [having()])
    assert f"for node {'77' * 8} only" in text
