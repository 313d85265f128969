"""A store that is away, slow or full: no result is lost, and nobody else waits for it.

The memory for results is made small, so that what these tests produce must go to the disk.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.e2e.harness import Mesh, NodeProcess, wait_for
from zmqtasks.limits import PUB_AHEAD_BYTES_MAX, REPLAY_WINDOW_BYTES

pytestmark = pytest.mark.e2e

_MIB = 1024 * 1024
#: Memory for results of each node.
_MEMORY = 4 * _MIB
_COUNT = 1_000
_SIZE = 200_000
#: Beside that memory: what is published ahead of the store, and windows of two peers, which
#: libzmq has a second time; half as much again for the allocator. All results weigh 190 MiB.
_GROWTH_MAX = 3 * (_MEMORY + PUB_AHEAD_BYTES_MAX + 4 * REPLAY_WINDOW_BYTES) // 2
_PATIENCE_S = 60.0

_TASKS = """
from zmqtasks import App

app = App("shop")


@app.task
def big(number: int, size: int) -> bytes:
    return number.to_bytes(4, "big") * (size // 4)
"""
#: Runs tasks and gets all their results; prints their ids.
_CALLER = f"""
from tasks import big
from zmqtasks import ResultSet

handles = [big.delay(number, {_SIZE}) for number in range({{count}})]
for number, handle in enumerate(handles):
    value = handle.get(timeout=30)
    assert value == number.to_bytes(4, "big") * ({_SIZE} // 4), number
print(*[handle.id for handle in handles])
"""


class _Trouble:
    """A worker, a store that has stored something, and what to look at."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        mesh.write("tasks.py", _TASKS)
        mesh.env["ZMQTASKS_RESULT_LOG_BYTES_MAX"] = str(_MEMORY)
        self.path = mesh.folder / "results.db"
        self.worker = mesh.start_node(name="w1")
        self.store = self.start_store("s1")
        self.ids = self.call(20)
        self.wait_stored()
        self.before = _memory(self.worker)

    def start_store(self, name: str) -> NodeProcess:
        return self.mesh.start_node("--store", f"sqlite:///{self.path}", roles="store", name=name)

    def call(self, count: int = _COUNT) -> list[str]:
        """A process that wants results, gets them and ends."""
        done = self.mesh.run(_CALLER.format(count=count), seconds=_PATIENCE_S)
        return done.stdout.split()

    def outage(self) -> None:
        """Results come while the store does not take them."""
        self.ids += self.call()
        self.worker.wait_log("waits on the disk for it")
        assert self.worker_results()["spilled"] > 0

    def worker_results(self) -> dict[str, int]:
        """What the worker says of its log of results."""
        done = self.mesh.cli("status", "--json")
        nodes = json.loads(done.stdout)["nodes"]
        return next(node["results"] for node in nodes if node["name"] == "w1")

    def wait_stored(self) -> None:
        """All outcomes are in the store, settled and whole."""
        wait_for(
            lambda: _stored(self.path) == dict.fromkeys(self.ids, (1, _SIZE)),
            f"{len(self.ids)} outcomes are stored",
            _PATIENCE_S,
        )

    def check(self) -> None:
        """Once the store is back: nothing was lost, and memory was kept."""
        self.wait_stored()
        wait_for(lambda: self.worker_results()["spilled"] == 0, "the disk is given back")
        results = self.worker_results()
        assert (results["missed"], results["spill_lost"]) == (0, 0)
        assert "dropped" not in self.worker.log
        grown = _memory(self.worker) - self.before
        assert grown < _GROWTH_MAX, f"the worker's memory grew by {grown} bytes"


@pytest.fixture
def trouble(mesh: Mesh) -> _Trouble:
    return _Trouble(mesh)


def _stored(path: Path) -> dict[str, tuple[int, int]]:
    """{task id: (verdict, bytes of its value)} of all rows in a store."""
    if not path.exists():
        return {}
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.1) as db:
        try:
            rows = db.execute("SELECT task_id, verdict, length(body) FROM outcomes").fetchall()
        except sqlite3.OperationalError:  # locked, or not made yet
            return {}
    db.close()
    # Serializer and length of the value take some bytes of the body.
    return {_uuid(task_id): (verdict, size // 4 * 4 - 4) for task_id, verdict, size in rows}


def _uuid(task_id: bytes) -> str:
    text = task_id.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _memory(node: NodeProcess) -> int:
    """The most memory that a process ever had, in bytes."""
    status = Path(f"/proc/{node.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def test_store_that_is_frozen(trouble: _Trouble) -> None:
    trouble.store.signal(signal.SIGSTOP)
    trouble.outage()
    trouble.store.signal(signal.SIGCONT)
    trouble.check()


def test_store_that_is_killed_comes_back_and_is_killed_while_it_catches_up(
    trouble: _Trouble,
) -> None:
    trouble.store.kill()
    trouble.outage()
    store = trouble.start_store("s2")
    half = len(trouble.ids) // 2
    wait_for(lambda: len(_stored(trouble.path)) > half, "half of them are stored", _PATIENCE_S)
    store.kill()
    trouble.start_store("s3")
    trouble.check()


def test_store_that_was_stopped_for_an_upgrade(trouble: _Trouble) -> None:
    assert trouble.store.stop() == 0
    trouble.outage()
    trouble.start_store("s2")
    trouble.check()


def test_store_whose_database_another_program_has_locked(trouble: _Trouble) -> None:
    db = sqlite3.connect(trouble.path, isolation_level=None, timeout=_PATIENCE_S)
    db.execute("BEGIN EXCLUSIVE")
    trouble.outage()
    trouble.store.wait_log("trying again until it works")
    db.execute("ROLLBACK")
    db.close()
    trouble.check()


def test_store_whose_disk_is_full_for_a_while(trouble: _Trouble) -> None:
    pid = trouble.store.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (16 * _MIB, hard))
    trouble.outage()
    trouble.store.wait_log("trying again until it works")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
    trouble.check()
    trouble.store.wait_log("store.recovered")


def test_result_is_found_by_others_while_it_waits_on_the_disk(trouble: _Trouble) -> None:
    trouble.store.kill()
    trouble.outage()
    first = trouble.ids[20]
    done = trouble.mesh.run(f"""
        from tasks import app
        print(len(app.AsyncResult({first!r}).get(timeout=20)))
    """)
    assert done.stdout == f"{_SIZE}\n"


def test_worker_that_drains_waits_for_its_store(trouble: _Trouble) -> None:
    trouble.store.kill()
    trouble.outage()
    trouble.worker.signal(signal.SIGTERM)
    trouble.worker.wait_log("draining")
    trouble.start_store("s2")
    assert trouble.worker.wait() == 0
    trouble.wait_stored()
    assert "in no store" not in trouble.worker.log


def test_worker_that_is_stopped_at_once_says_what_no_store_has(trouble: _Trouble) -> None:
    trouble.store.kill()
    trouble.outage()
    trouble.worker.signal(signal.SIGTERM)
    trouble.worker.wait_log("draining")
    trouble.worker.signal_again(signal.SIGTERM)
    assert trouble.worker.wait() == 0
    trouble.worker.wait_log("results that are in no store end with this node")


def test_store_that_joins_late_gets_what_has_been_kept(mesh: Mesh) -> None:
    mesh.write("tasks.py", _TASKS)
    worker = mesh.start_node(name="w1")
    done = mesh.run(_CALLER.format(count=100))
    path = mesh.folder / "late.db"
    mesh.start_node("--store", f"sqlite:///{path}", roles="store", name="s1")
    expected = dict.fromkeys(done.stdout.split(), (1, _SIZE))
    wait_for(lambda: _stored(path) == expected, "all is stored", _PATIENCE_S)
    assert "dropped" not in worker.log


def test_without_room_on_the_disk_what_is_lost_is_said(mesh: Mesh) -> None:
    mesh.env["ZMQTASKS_RESULT_SPILL_BYTES_MAX"] = str(20 * _MIB)
    trouble = _Trouble(mesh)
    trouble.store.kill()
    trouble.outage()
    trouble.worker.wait_log("result_spill_bytes_max is")
    trouble.worker.wait_log("outcomes dropped before a store had them")
    results = trouble.worker_results()
    assert results["missed"] > 0
    assert "dropped or lost before a store had them" in mesh.cli("status").stdout
    assert results["spilled_bytes"] <= 20 * _MIB
    trouble.start_store("s2")
    wait_for(lambda: trouble.worker_results()["spilled"] == 0, "the rest is stored", _PATIENCE_S)
    stored = _stored(trouble.path)
    assert len(stored) >= len(trouble.ids) - results["missed"]
