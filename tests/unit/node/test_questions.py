"""What a process asks of others, and for how long."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

from tests.unit.node.clients import PATIENCE_S, Told, settings_in
from zmqtasks.core.calls import Call
from zmqtasks.node.client import Client
from zmqtasks.wire.messages import Kind

NOBODY_RUNS = Kind("shop", "tasks.add", "", "default")


def wait_for(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_question_ends_when_nobody_holds_the_handle_any_more(tmp_path: Path) -> None:
    """Each handle that had waited in vain left a question behind, for ever."""
    owner, asker = Client(settings_in(tmp_path)), Client(settings_in(tmp_path))
    try:
        (task_id,) = owner.new_ids(1)
        owner.submit([Call(task_id, NOBODY_RUNS, b"", None)], Told())
        questions = asker.runtime.mesh.inquiry.questions
        tickets = [Told(), Told()]
        for ticket in tickets:
            asker.watch([task_id], ticket)
        wait_for(lambda: len(questions) == 2)
        del ticket, tickets[0]
        gc.collect()
        wait_for(lambda: len(questions) == 1)
    finally:
        owner.close()
        asker.close()
