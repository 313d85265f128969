from __future__ import annotations

import pytest

from zmqtasks.pools.spawner import exit_reason


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-11, "killed by signal 11 (SIGSEGV)"),
        (-9, "killed by signal 9 (SIGKILL; out of memory?)"),
        (-63, "killed by signal 63 (unknown)"),
        ("cannot start: no memory", "cannot start: no memory"),
    ],
)
def test_exit_status_reads_well(status: object, reason: str) -> None:
    assert exit_reason(status) == reason
