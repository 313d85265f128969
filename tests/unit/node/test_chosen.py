"""Ids that callers choose: the same content is the same task, wherever it was submitted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.node.clients import Told, settings_in
from zmqtasks.core.calls import Call
from zmqtasks.core.effects import JournalWrite
from zmqtasks.core.owned import Durability
from zmqtasks.errors import SubmitRejected
from zmqtasks.node.client import Client
from zmqtasks.wire.content import content_digest
from zmqtasks.wire.messages import Kind, Outcome, Status
from zmqtasks.wire.payload import encode_arguments

KIND = Kind("shop", "tasks.add", "", "default")
ID = b"chosen by caller"


def _call(*args: object, task_id: bytes = ID) -> Call:
    body = encode_arguments(args, {})
    return Call(task_id, KIND, body, {"c": content_digest(KIND.app, KIND.name, body)})


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with closing(Client(settings_in(tmp_path))) as client:
        yield client


def _open_ids(client: Client) -> list[bytes]:
    return client.on_loop(lambda: list(client.dispatcher.tasks))


def _settle(client: Client, task_id: bytes) -> None:
    """As when its worker has said so."""
    outcome = Outcome(task_id, 1, Status.SUCCESS, 1, -1, 0, 0, 0, b"", None)

    def settle() -> None:
        task = client.dispatcher.tasks[task_id]
        client.dispatcher._settle(task, outcome, None)

    client.on_loop(settle)


def test_repeated_call_is_the_open_task_and_both_handles_are_told(client: Client) -> None:
    first, second = Told(), Told()
    client.submit([_call(1, 2)], first)
    client.submit([_call(1, 2)], second)
    assert _open_ids(client) == [ID]
    _settle(client, ID)
    assert first.wait() == second.wait() == ID


def test_repeated_call_of_a_settled_task_is_told_its_outcome(client: Client) -> None:
    first, second = Told(), Told()
    client.submit([_call(1, 2)], first)
    _settle(client, ID)
    first.wait()
    client.submit([_call(1, 2)], second)
    assert second.wait() == ID
    assert not _open_ids(client)


@pytest.mark.parametrize("is_settled", [False, True])
def test_other_content_is_refused_and_names_the_id(client: Client, is_settled: bool) -> None:
    told = Told()
    client.submit([_call(1, 2)], told)
    if is_settled:
        _settle(client, ID)
        told.wait()
    with pytest.raises(SubmitRejected, match=r"63686f73-656e-2062-7920-63616c6c6572 .* other"):
        client.submit([_call(1, 3)], Told())


def test_id_of_an_own_task_may_be_chosen_again(client: Client) -> None:
    """As Celery's users do who repeat a call with the id that it had."""
    told = Told()
    made = client.new_ids(1)[0]
    plain = _call(1, 2, task_id=made)._replace(ext=None)
    client.submit([plain], Told())
    client.submit([_call(1, 2, task_id=made)], told)
    with pytest.raises(SubmitRejected):
        client.submit([_call(1, 3, task_id=made)], Told())
    _settle(client, made)
    assert told.wait() == made


def test_task_of_another_process_is_the_same_task(tmp_path: Path, client: Client) -> None:
    client.submit([_call(1, 2)], Told())
    told = Told()
    with closing(Client(settings_in(tmp_path))) as other:
        other.submit([_call(1, 2)], told)
        assert not _open_ids(other)
        _settle(client, ID)
        assert told.wait() == ID


def test_other_content_in_another_process_is_refused(tmp_path: Path, client: Client) -> None:
    client.submit([_call(1, 2)], Told())
    with closing(Client(settings_in(tmp_path))) as other:
        with pytest.raises(SubmitRejected, match="other content"):
            other.submit([_call(1, 3)], Told())
        assert other.room.count == 0, "what was refused does not count"


def test_caller_that_cannot_wait_asks_nobody(tmp_path: Path, client: Client) -> None:
    client.submit([_call(1, 2)], Told())
    with closing(Client(settings_in(tmp_path))) as other:
        other.submit([_call(1, 2)], Told(), wait_s=0)
        assert _open_ids(other) == [ID]


def test_threads_that_repeat_a_call_at_once_submit_one_task(client: Client) -> None:
    told = [Told() for _ in range(4)]
    threads = [
        threading.Thread(
            target=client.submit,
            args=([_call(1, 2)], one),
            kwargs={"durability": Durability.DISK},
        )
        for one in told
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert _open_ids(client) == [ID]
    _settle(client, ID)
    assert {one.wait() for one in told} == {ID}


@pytest.mark.parametrize("second", [Durability.MEMORY, Durability.DISK])
def test_call_refused_along_with_that_of_another_thread_can_be_made_again(
    client: Client, monkeypatch: pytest.MonkeyPatch, second: Durability
) -> None:
    writes: list[JournalWrite] = []
    monkeypatch.setattr(client.journal, "write", writes.append)
    refused: list[SubmitRejected] = []

    def submit(durability: Durability) -> None:
        try:
            client.submit([_call(1, 2)], Told(), durability=durability)
        except SubmitRejected as exc:
            refused.append(exc)

    threads = [threading.Thread(target=submit, args=(how,)) for how in (Durability.DISK, second)]
    threads[0].start()
    while not client.on_loop(lambda: ID in client.tickets):
        pass  # until the first one waits for the disk
    threads[1].start()
    while not client.on_loop(lambda: ID in client.tickets._more):
        pass  # until the second one waits with it

    def refuse() -> None:
        while writes:
            client.runtime.mesh.journal_refused([writes.pop().batch], "full")

    while any(thread.is_alive() for thread in threads):
        client.on_loop(refuse)
    assert len(refused) == 2
    assert len(client.tickets) == 0
    client.submit([_call(1, 2)], Told())
    assert _open_ids(client) == [ID]
