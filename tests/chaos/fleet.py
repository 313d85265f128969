"""Worker nodes that are hurt while a client gives them work."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.evidence import SOURCE, Evidence, Kill, Run, now_ns, value_of
from tests.e2e.harness import Mesh, NodeProcess, wait_for

#: Submits ``count`` calls, then more as long as the test wants them, never idle between;
#: at the end it stays until the test has asked the mesh about it.
_CLIENT = """
import json, time
from pathlib import Path
from tasks import work

folder = Path({folder!r})
done, open_sets, upto = [], [], 0

def submit(count):
    global upto
    open_sets.append(work.delay_many((number,) for number in range(upto, upto + count)))
    upto += count

submit({count})
while open_sets:
    if len(open_sets) < 2 and not (folder / "enough").exists():
        submit(300)
    done += open_sets.pop(0).get(timeout={limit_s})
(folder / "values.new").write_text(json.dumps(done))
(folder / "values.new").rename(folder / "values")
while not (folder / "leave").exists():
    time.sleep(0.01)
"""
#: A victim's task shall have this much left to run, or it ends before the signal comes.
_LEFT_NS_MIN = 4_000_000
#: A third death while a task runs would make it dead, which is not what is shown here.
_ATTEMPT_MAX = 2


@dataclass
class Worker:
    """One worker of the fleet and its present incarnation."""

    name: str
    flags: tuple[str, ...]
    node: NodeProcess
    starts: int = 1


class Fleet:
    """Workers of one mesh, the client and the log of their tasks."""

    def __init__(self, mesh: Mesh, evidence: Evidence, names: list[str], *flags: str) -> None:
        self.mesh = mesh
        self.evidence = evidence
        self.kills: list[Kill] = []
        self.workers: dict[str, Worker] = {}
        for name in names:
            self.workers[name] = Worker(name, flags, self._start(name, flags))
        for worker in self.workers.values():
            worker.node.wait_log("is up")

    def add(self, name: str, *flags: str) -> None:
        """One more worker."""
        self.workers[name] = Worker(name, flags, self._start(name, flags))
        self.workers[name].node.wait_log("is up")

    def _start(self, name: str, flags: tuple[str, ...]) -> NodeProcess:
        return self.mesh.start_node(*flags, name=name, ready=False, CHAOS_NODE=name)

    # --- the client -----------------------------------------------------------------------

    def feed(self, count: int, limit_s: float) -> NodeProcess:
        """Start a client that submits so many calls of ``work``, and goes on if need be."""
        code = _CLIENT.format(folder=str(self.mesh.folder), count=count, limit_s=limit_s)
        return self.mesh.start(code, name="client", CHAOS_NODE="client")

    def values(self, client: NodeProcess, limit_s: float) -> list[int]:
        """Let the client come to its end; the values that it got."""
        (self.mesh.folder / "enough").touch()
        path = self.mesh.folder / "values"

        def there() -> bool:
            assert client.process.poll() is None, f"the client ended:\n{client.log}"
            return path.exists()

        wait_for(there, "the client has all values", limit_s)
        values = json.loads(path.read_text())
        assert isinstance(values, list)
        return values

    def owner(self) -> dict[str, int]:
        """What `zmqtasks status` says of the client's tasks."""
        reports = json.loads(self.mesh.cli("status", "--json").stdout)["nodes"]
        owners = [report["producer"] for report in reports if "producer" in report]
        assert len(owners) == 1, reports
        owner = owners[0]
        assert isinstance(owner, dict)
        return owner

    # --- harm -----------------------------------------------------------------------------

    def pick(self) -> Run:
        """A run that has begun and is far from its end; waits for one."""

        def left_ns(run: Run) -> int:
            return run.start_ns + run.sleep_ns - now_ns()

        def found() -> Run | None:
            hopeful = [
                run
                for run in self.evidence.running()
                if run.attempt <= _ATTEMPT_MAX and run not in killed
            ]
            longest = max(hopeful, key=left_ns, default=None)
            return longest if longest is not None and left_ns(longest) > _LEFT_NS_MIN else None

        killed = [kill.run for kill in self.kills]
        self.evidence.look()
        run = wait_for(found, "a worker runs a task")
        assert run is not None
        return run

    def kill_worker(self) -> None:
        """SIGKILL a node that runs a task, and start it again."""
        run = self.pick()
        worker = self.workers[run.node]
        self._kill(worker.node.pid, run)
        worker.node.kill()
        worker.node = self._start(worker.name, worker.flags)
        worker.starts += 1

    def kill_child(self) -> None:
        """SIGKILL a pool child that runs a task; its node fills the slot again."""
        run = self.pick()
        self._kill(run.pid, run)

    def _kill(self, pid: int, run: Run) -> None:
        before_ns = now_ns()
        os.kill(pid, signal.SIGKILL)
        self.kills.append(Kill(before_ns, now_ns(), run))

    def tree(self, worker: str) -> list[int]:
        """The processes of a worker: its node, the fork server, the children."""
        found = [self.workers[worker].node.pid]
        parents = {pid: _parent(pid) for pid in self.mesh.pids()}
        for parent in found:
            found += [pid for pid, its_parent in parents.items() if its_parent == parent]
        return found

    def harm(self, hurt: Callable[[], None], every_s: float, until: Callable[[], bool]) -> None:
        """Do that at a steady pace until it is enough."""
        next_s = time.monotonic() + every_s
        while not until():
            time.sleep(max(0.0, next_s - time.monotonic()))
            hurt()
            next_s = max(next_s, time.monotonic()) + every_s
            self.evidence.look()

    @property
    def hits(self) -> int:
        """Kills that met a running task."""
        return sum(kill.hit for kill in self.kills)

    # --- the end --------------------------------------------------------------------------

    def check(self, values: list[int], owner: dict[str, int]) -> None:
        """Everything arrived, is right, and ran no more often than it had to."""
        wrong = [n for n, value in enumerate(values) if value != value_of(n)]
        assert not wrong, f"wrong values for {wrong[:10]}"
        assert owner["open"] == 0, owner
        self.evidence.check(range(len(values)), owner["redelivered"])

    def stop(self, client: NodeProcess) -> None:
        """End everything in good order; nothing may be left of anybody."""
        (self.mesh.folder / "leave").touch()
        assert client.wait() == 0, client.log
        nodes = [worker.node for worker in self.workers.values()]
        for node in nodes:
            node.signal(signal.SIGTERM)
        codes = {node.name: node.wait() for node in nodes}
        assert set(codes.values()) == {0}, f"{codes}\n{self.mesh.logs()}"
        wait_for(lambda: not self.mesh.pids(), f"processes end: {self.mesh.pids()}", 5.0)
        left = [*self.mesh.leftovers(), *(self.mesh.folder / "tmp").iterdir()]
        assert not left, f"files left: {left}"


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


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        # The name, which may contain anything, is in the first pair of brackets.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
