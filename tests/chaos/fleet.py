"""Worker nodes that are hurt while a client gives them work."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.evidence import SOURCE, Evidence, Kill, Run, now_ns, value_of
from tests.e2e.harness import Mesh, NodeProcess, wait_for

#: Submits at a steady pace, at least ``count`` calls and until the test has enough. Then
#: it waits for the values, writes them down and stays until the test has asked the mesh
#: about it.
_CLIENT = """
{before}
import json, time
from pathlib import Path
from tasks import {task} as task

folder = Path({folder!r})
open_sets, upto, begun_s = [], 0, time.monotonic()
while upto < {count} or not (folder / "enough").exists():
    due = int((time.monotonic() - begun_s) * {rate}) + 1
    if due > upto:
        open_sets.append(task.delay_many((number,) for number in range(upto, due)))
        upto = due
    time.sleep(0.02)
values = [value for results in open_sets for value in results.get(timeout={wait_s})]
ids = [handle.id for results in open_sets for handle in results]
(folder / "values.new").write_text(json.dumps([values, ids]))
(folder / "values.new").rename(folder / "values")
while not (folder / "leave").exists():
    time.sleep(0.01)
"""
#: Reads results by their ids alone.
_READER = """
import json
from pathlib import Path
from tasks import app
from zmqtasks import ResultSet

ids = json.loads(Path({path!r}).read_text())
print(json.dumps(ResultSet([app.AsyncResult(id) for id in ids]).get(timeout=15)))
"""
#: The client waits so long for the values of what it has submitted.
_WAIT_S = 90.0
#: What a node says of tasks in the journal of an ended process, and in its own.
_FOUND = re.compile(r"took over ([\d,]+) tasks? that|goes on with ([1-9][\d,]*) that were there")
#: A victim's task shall have this much left to run, or it ends before the signal comes.
_LEFT_NS_MIN = 4_000_000
#: A third death while a task runs would make it dead, which is not what is shown here.
_ATTEMPT_MAX = 2
_LOOK_EVERY_S = 0.02


@dataclass
class Worker:
    """One worker of the fleet and its present incarnation."""

    name: str
    flags: tuple[str, ...]
    node: NodeProcess
    starts: int = 1
    #: When it is to be started again (``time.monotonic``), None while it is there.
    due_s: float | None = None


class Fleet:
    """Workers of one mesh, the client and the log of their tasks."""

    def __init__(self, mesh: Mesh, evidence: Evidence, names: list[str], *flags: str) -> None:
        self.mesh = mesh
        self.evidence = evidence
        self.kills: list[Kill] = []
        #: Task ids of the client, in the order of its numbers; there with its values.
        self.ids: list[str] = []
        self.client: NodeProcess | None = None
        #: The store node, if there is one.
        self.store: NodeProcess | None = None
        self.workers: dict[str, Worker] = {}
        for name in names:
            self.workers[name] = Worker(name, flags, self._start(name, flags))
        for worker in self.workers.values():
            worker.node.wait_log("is up")

    def add(self, name: str, *flags: str) -> None:
        """One more worker."""
        self.workers[name] = Worker(name, flags, self._start(name, flags))
        self.workers[name].node.wait_log("is up")

    def add_store(self) -> None:
        """A node that keeps results in a file."""
        self.store = self.mesh.start_node(roles="store", name="store")

    def _start(self, name: str, flags: tuple[str, ...]) -> NodeProcess:
        return self.mesh.start_node(*flags, name=name, ready=False, CHAOS_NODE=name)

    # --- the client -----------------------------------------------------------------------

    def feed(
        self, count: int, rate: int, task: str = "work", before: str = "", **env: str
    ) -> NodeProcess:
        """Start a client that submits so many calls, so many a second, or more if need be.

        Args:
            before: what it does first of all.
        """
        code = client_code(self.mesh.folder, count, rate, task, before)
        self.client = self.mesh.start(code, name="client", CHAOS_NODE="client", **env)
        return self.client

    def _check_client(self) -> None:
        client = self.client
        assert client is None or client.process.poll() is None, f"it ended:\n{client.log}"

    def values(self, limit_s: float) -> list[Any]:
        """Let the client come to its end; the values that it got."""
        (self.mesh.folder / "enough").touch()
        path = self.mesh.folder / "values"

        def there() -> bool:
            self._check_client()
            self.restart_due()
            return path.exists()

        wait_for(there, "the client has all values", limit_s)
        values, self.ids = json.loads(path.read_text())
        assert isinstance(values, list)
        return values

    def owner(self, runtime_dir: str = "") -> dict[str, Any]:
        """What `zmqtasks status` says of the client's tasks.

        Args:
            runtime_dir: of the client, where it is not that of the workers.
        """
        return owner_of(nodes_of(self.mesh, runtime_dir))

    # --- harm -----------------------------------------------------------------------------

    def pick(self, but_of: frozenset[str] = frozenset()) -> Run:
        """A run that has begun and is far from its end; waits for one.

        Args:
            but_of: workers that are spared.
        """

        def left_ns(run: Run) -> int:
            return run.start_ns + run.sleep_ns - now_ns()

        def found() -> Run | None:
            hopeful = [
                run
                for run in self.evidence.running()
                if run.attempt <= _ATTEMPT_MAX and run.node not in but_of and run not in killed
            ]
            longest = max(hopeful, key=left_ns, default=None)
            return longest if longest is not None and left_ns(longest) > _LEFT_NS_MIN else None

        killed = [kill.run for kill in self.kills[-50:]]
        self.evidence.look()
        run = wait_for(found, "a worker runs a task")
        assert run is not None
        return run

    def kill_worker(self, away_s: float = 0.0) -> None:
        """SIGKILL a node that runs a task, and start it again after a while."""
        run = self.pick(self._away())
        worker = self.workers[run.node]
        self._kill(worker.node.pid, run)
        worker.node.kill()
        worker.due_s = time.monotonic() + away_s
        self.restart_due()

    def kill_child(self) -> None:
        """SIGKILL a pool child that runs a task; its node fills the slot again."""
        run = self.pick()
        self._kill(run.pid, run)

    def _kill(self, pid: int, run: Run) -> None:
        before_ns = now_ns()
        os.kill(pid, signal.SIGKILL)
        self.kills.append(Kill(before_ns, now_ns(), run))

    def _away(self) -> frozenset[str]:
        return frozenset(name for name, worker in self.workers.items() if worker.due_s is not None)

    def restart_due(self) -> None:
        """Start the killed workers whose time has come."""
        self._restart(time.monotonic())

    def _restart(self, now_s: float) -> None:
        for worker in self.workers.values():
            if worker.due_s is not None and now_s >= worker.due_s:
                worker.due_s = None
                worker.node = self._start(worker.name, worker.flags)
                worker.starts += 1

    def drain_worker(self) -> int:
        """SIGTERM a node that runs a task and start it again when it has ended.

        Returns:
            Its exit code.
        """
        worker = self.workers[self.pick().node]
        code = worker.node.stop()
        worker.due_s = 0.0
        self.restart_due()
        return code

    def tree(self, worker: str) -> list[int]:
        """The processes of a worker: its node, the fork server, the children."""
        found = [self.workers[worker].node.pid]
        parents = {pid: _parent(pid) for pid in self.mesh.pids()}
        for parent in found:
            found += [pid for pid, its_parent in parents.items() if its_parent == parent]
        return found

    def harm(
        self, hurt: Callable[[], None], every_count: int, until: Callable[[], bool],
        limit_s: float,
    ) -> None:  # fmt: skip
        """Do that each time so many tasks have come to their end, until it is enough."""
        give_up_s = time.monotonic() + limit_s
        next_count, times = every_count, 0
        while not until():
            self.evidence.look()
            assert time.monotonic() < give_up_s, (
                f"harmed only {times} times after {limit_s:g} s; by then "
                f"{self.evidence.ended_count} tasks had come to their end"
            )
            if self.evidence.ended_count >= next_count:
                hurt()
                times += 1
                next_count += every_count
            else:
                self._check_client()
                self.restart_due()
                time.sleep(_LOOK_EVERY_S)

    @property
    def hits(self) -> int:
        """Kills that met a running task."""
        return sum(kill.hit for kill in self.kills)

    # --- the end --------------------------------------------------------------------------

    def check(self, values: list[Any], owner: dict[str, Any]) -> None:
        """Everything arrived, is right, and ran no more often than it had to."""
        wrong = [n for n, value in enumerate(values) if value != value_of(n)]
        assert not wrong, f"wrong values for {wrong[:10]}"
        assert owner["open"] == 0, owner
        self.evidence.check(range(len(values)), owner["redelivered"])

    def stop(self, client: NodeProcess) -> None:
        """End everything in good order; nothing may be left of anybody."""
        self.leave(client)
        self.close()

    def leave(self, client: NodeProcess) -> None:
        """The client ends."""
        (self.mesh.folder / "leave").touch()
        assert client.wait() == 0, client.log

    def stored(self, ids: list[str]) -> list[Any]:
        """What the store holds of these tasks, when the client and the workers are gone."""
        self._stop_workers()
        return stored_values(self.mesh, ids)

    def close(self) -> None:
        """All nodes end in good order; nothing may be left of anybody."""
        self._stop_workers()
        if self.store is not None:
            assert self.store.stop() == 0, self.store.log
        wait_for(lambda: not self.mesh.pids(), f"processes end: {self.mesh.pids()}", 5.0)
        left = [*self.mesh.leftovers(), *(self.mesh.folder / "tmp").iterdir()]
        assert not left, f"files left: {left}"

    def _stop_workers(self) -> None:
        self._restart(math.inf)
        for worker in self.workers.values():
            worker.node.wait_log("is up")
            worker.node.signal(signal.SIGTERM)
        codes = {worker.name: worker.node.wait() for worker in self.workers.values()}
        assert set(codes.values()) <= {0}, f"{codes}\n{self.mesh.logs()}"
        self.workers.clear()


@contextlib.contextmanager
def running_fleet(folder: Path, names: list[str], *flags: str) -> Iterator[Fleet]:
    """A fleet on a mesh of its own, temporary files included."""
    log, temporary = folder / "runs.log", folder / "tmp"
    log.touch()
    temporary.mkdir()
    mesh = Mesh(
        folder, name="chaos", source=SOURCE,
        env={"CHAOS_LOG": str(log), "TMPDIR": str(temporary)},
    )  # fmt: skip
    evidence = Evidence(log)
    try:
        yield Fleet(mesh, evidence, names, *flags)
    finally:
        evidence.close()
        mesh.close()


def nodes_of(mesh: Mesh, runtime_dir: str = "") -> list[dict[str, Any]]:
    """What `zmqtasks status` says of each node.

    Args:
        runtime_dir: of one that sees them all, where it is not that of the mesh.
    """
    seen = mesh.cli("status", "--json", ZMQTASKS_RUNTIME_DIR=runtime_dir or str(mesh.runtime))
    nodes = json.loads(seen.stdout)["nodes"]
    assert isinstance(nodes, list)
    return nodes


def sum_of(mesh: Mesh, key: str) -> int:
    """The sum over all owners that are there now, as of ``redelivered``."""
    return sum(node["producer"][key] for node in nodes_of(mesh) if "producer" in node)


def found_in_journals(nodes: Iterable[NodeProcess]) -> list[int]:
    """How many tasks these nodes found in each journal that an ended process had left with
    some, by their logs; their own from before they were started again among them."""
    return [
        int(next(filter(None, found.groups())).replace(",", ""))
        for node in nodes
        for found in _FOUND.finditer(node.log)
    ]


def owner_of(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """What the one client among these nodes says of its tasks."""
    owners = [report["producer"] for report in reports if "producer" in report["roles"]]
    assert len(owners) == 1, reports
    owner = owners[0]
    assert isinstance(owner, dict)
    return owner


def client_code(folder: Path, count: int, rate: int, task: str = "work", before: str = "") -> str:
    """The program of a client; see ``Fleet.feed``."""
    return _CLIENT.format(
        folder=str(folder), count=count, rate=rate, task=task, before=before, wait_s=_WAIT_S
    )


def stored_values(mesh: Mesh, ids: list[str]) -> list[Any]:
    """What a process that knows nothing but these ids is told of them."""
    path = mesh.folder / "ids"
    path.write_text(json.dumps(ids))
    values = json.loads(mesh.run(_READER.format(path=str(path))).stdout)
    assert isinstance(values, list)
    return values


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        # The name, which may contain anything, is in the first pair of brackets.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
