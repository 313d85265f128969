"""What a command prints of a task that has ended, and its exit code."""

from __future__ import annotations

import pytest

from zmqtasks.app.app import App
from zmqtasks.app.result import AsyncResult
from zmqtasks.cli.errors import EXIT_FAILED
from zmqtasks.cli.showing import show_outcome
from zmqtasks.ids import format_task_id
from zmqtasks.wire.messages import Outcome, Status
from zmqtasks.wire.payload import encode_value


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (Status.SUCCESS, encode_value(5), 0, "5"),
        (Status.IGNORED, b"", 0, "null"),
        (Status.REJECTED, b"", EXIT_FAILED, "TaskRejected"),
        (Status.CANCELLED, None, EXIT_FAILED, "TaskRevokedError"),
    ],
)
def test_exit_code_tells_whether_get_would_raise(
    capsys: pytest.CaptureFixture[str], status: Status, body: bytes | None, code: int, words: str
) -> None:
    task_id = b"i" * 16
    handle: AsyncResult[object] = AsyncResult(format_task_id(task_id), App("shop"))
    handle.settled(task_id, Outcome(task_id, 1, status, 1, 0, 0, 0, 0, body))
    assert show_outcome(handle, with_json=False) == code
    printed = capsys.readouterr()
    assert words in printed.out + printed.err
