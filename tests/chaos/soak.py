"""A steady mixed load on nodes of three kinds, and what their processes take of the system."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.e2e.harness import Mesh, NodeProcess

#: {pool, which is the name of its node and of its queue, too: tasks at once}
SLOTS = {"process": 3, "thread": 4, "asyncio": 20}

APP = '''
import asyncio, time
from zmqtasks import App

app = App("soak")
_hoard = []


@app.task(bind=True, max_retries=5)
def work(self, number: int, retries: int = 0) -> int:
    """Take up to 10 ms, once more for each retry."""
    time.sleep(number % 11 / 1000)
    if self.request.retries < retries:
        raise self.retry(countdown=0.05)
    return number * 7 + 1


@app.task(bind=True, max_retries=5)
async def awork(self, number: int, retries: int = 0) -> int:
    """As ``work``."""
    await asyncio.sleep(number % 11 / 1000)
    if self.request.retries < retries:
        raise self.retry(countdown=0.05)
    return number * 7 + 1


@app.task
def nap() -> str:
    """Run until something ends it; a pool of threads can only ask it to end."""
    while not nap.is_aborted():
        time.sleep(0.01)
    return "asked to end"


@app.task
async def anap() -> None:
    await asyncio.sleep(600)


@app.task
def hoard(mib: int) -> int:
    """Keep so much memory until this process is replaced."""
    _hoard.append(b"x" * (mib << 20))
    return mib
'''

#: Kinds of calls that the client makes.
CASES_COUNT = 8
#: Submits at a steady pace, reads every outcome and compares it; rests while it is told to.
#: What owners remember by design has bounds that minutes do not fill: here they are low, or
#: what is remembered would be taken for a leak.
CLIENT = """
from zmqtasks import limits
limits.STORIES_COUNT_MAX = limits.SETTLED_KEPT_COUNT_MAX = limits.CANCELLED_TOLD_MAX = 100

import json, threading, time
from collections import Counter, deque
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tasks import anap, app, awork, hoard, nap, work

folder, pools = Path({folder!r}), {pools!r}
handles, doomed = deque(), deque()
counts, wrong, is_over = Counter(), [], False


def submit(number):
    pool, turn = pools[number % len(pools)], number // len(pools)
    task, args, options, wanted = (work, awork)[turn // 3 % 2], (number,), {{}}, [number * 7 + 1]
    case, end_s = "plain", 0.0
    if turn % 60 == 5:
        case, end_s, options, wanted = "cancelled, waits", 0.3, {{"countdown": 60}}, ["Revoked"]
    elif turn % 60 == 25:
        case, end_s, task, args = "cancelled, runs", 0.5, anap if pool == "asyncio" else nap, ()
        wanted = ["Revoked", "asked to end"]
    elif turn % 60 == 35:
        case, task, args, options = "soft limit", nap, (), {{"soft_time_limit": 0.2}}
        wanted = ["SoftTimeLimitExceeded"]
    elif turn % 60 == 45 and pool == "process":
        case, task, args, options = "hard limit", nap, (), {{"time_limit": 0.3}}
        wanted = ["TimeLimitExceeded"]
    elif turn % 60 == 15:
        case, task, args, wanted = "hoard", hoard, (8,), [8]
    elif turn % 20 == 8:
        case, options = "eta", {{"eta": datetime.now(timezone.utc) + timedelta(seconds=1.2)}}
    elif turn % 10 == 2:
        case, args = "retried", (number, 2)
    handle = task.apply_async(args, queue=pool, **options)
    counts[case] += 1
    handles.append((case, handle, wanted))
    if end_s:
        doomed.append((time.monotonic() + end_s, handle.id))


def read():
    while handles or not is_over:
        if not handles:
            time.sleep(0.005)
            continue
        case, handle, wanted = handles[0]
        value = handle.get(timeout=60, propagate=False)
        if isinstance(value, Exception):
            value = "Revoked" if handle.state == "REVOKED" else type(value).__name__
        if value not in wanted:
            wrong.append([case, handle.id, repr(value), wanted])
        handles.popleft()


def end_some():
    while not is_over:
        now_s, ids = time.monotonic(), []
        while doomed and doomed[0][0] <= now_s:
            ids.append(doomed.popleft()[1])
        if ids:
            app.control.revoke(ids, terminate=True)
        time.sleep(0.05)


def rest():
    while handles:
        time.sleep(0.005)
    (folder / "rests").touch()
    while (folder / "rest").exists():
        time.sleep(0.01)
    (folder / "rests").unlink()


threads = [threading.Thread(target=read), threading.Thread(target=end_some, daemon=True)]
for thread in threads:
    thread.start()
number = 0
while not (folder / "leave").exists():
    number += 1
    submit(number)
    if len(counts) == {cases_count}:
        (folder / "all").touch()
    time.sleep(1 / {rate})
    if (folder / "rest").exists():
        rest()
is_over = True
for thread in threads:
    thread.join()
(folder / "counts").write_text(json.dumps([counts, wrong]))
"""


class Taken(NamedTuple):
    """What a node, or the client, has of the system at one moment."""

    at_s: float
    processes: int
    #: File descriptors and threads of its main process, and of its fork server.
    main_fds: int
    main_threads: int
    server_fds: int
    server_threads: int
    #: The most that one of the processes has that tasks run in, which are replaced.
    child_fds: int
    child_threads: int
    #: Memory of its main process.
    main_mib: float
    #: Memory of all of its processes, what they share counted once.
    tree_mib: float


#: Of what lives as long as the node: nothing of it may change for good.
COUNTS = ("processes", "main_fds", "main_threads", "server_fds", "server_threads")
#: Folders of a process below /proc.
_WHAT = ("fd", "task")


def taken(mesh: Mesh, node: NodeProcess) -> Taken:
    """Look at a node and its processes, some of which may end meanwhile."""
    tree = [node.pid, *mesh.children_of(node)]
    seen = {pid: look for pid in tree if (look := _look(pid)) is not None}
    main = seen.pop(node.pid)
    server, child = (0, 0), (0, 0)
    for parent, fds, threads in seen.values():
        if parent == node.pid:
            server = server[0] + fds, server[1] + threads
        else:
            child = max(child[0], fds), max(child[1], threads)
    return Taken(
        time.monotonic(), 1 + len(seen), *main[1:], *server, *child, _kib(node.pid, "Rss") / 1024,
        sum(_kib(pid, "Pss") for pid in (node.pid, *seen)) / 1024,
    )  # fmt: skip


def _look(pid: int) -> tuple[int, int, int] | None:
    """Parent, file descriptors and threads of a process; None when it is gone."""
    with contextlib.suppress(OSError):
        fds, threads = (sum(1 for _ in Path(f"/proc/{pid}/{what}").iterdir()) for what in _WHAT)
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        # One that has ended and was not waited for yet has a thread and nothing else.
        return (parent, fds, threads) if fds else None
    return None


def _kib(pid: int, what: str) -> int:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found = re.search(rf"^{what}:\s+(\d+) kB$", text, re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def slope_mib(looks: Sequence[Taken]) -> float:
    """By how much the memory of the main process grows, in MiB a minute (least squares)."""
    line = statistics.linear_regression(
        [look.at_s / 60 for look in looks], [look.main_mib for look in looks]
    )
    return line.slope


def thirds(looks: Sequence[Taken], what: str) -> tuple[float, float]:
    """The median in the first third and in the last."""
    values = [getattr(look, what) for look in looks]
    size = max(1, len(values) // 3)
    return statistics.median(values[:size]), statistics.median(values[-size:])


def table(looks: dict[str, list[Taken]]) -> str:
    """A line for each node: of every count the least, first and last median, and the most."""
    rows = [["", *COUNTS, "main MiB", "MiB/min", "tree MiB"]]
    for name, its in looks.items():
        row = [name]
        for what in COUNTS:
            first, last = thirds(its, what)
            values = [getattr(look, what) for look in its]
            row.append(f"{min(values)} {first:g} {last:g} {max(values)}")
        row += [f"{its[0].main_mib:.1f} {its[-1].main_mib:.1f}", f"{slope_mib(its):+.2f}"]
        rows.append([*row, f"{its[0].tree_mib:.0f} {its[-1].tree_mib:.0f}"])
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def client_code(folder: Path, rate: int) -> str:
    """The program of the client."""
    return CLIENT.format(folder=str(folder), pools=list(SLOTS), rate=rate, cases_count=CASES_COUNT)


def start_nodes(mesh: Mesh, tasks_max: int) -> dict[str, NodeProcess]:
    """A node for each pool, whose processes are replaced after so many tasks, and by memory."""
    nodes = {
        pool: mesh.start_node(
            "--pool", pool, "--concurrency", str(slots), "--queues", pool,
            "--max-tasks-per-child", str(tasks_max), "--max-memory-per-child", str(96 * 1024),
            name=pool, ready=False, ZMQTASKS_RESULT_LOG_BYTES_MAX=str(256 * 1024),
        )
        for pool, slots in SLOTS.items()
    }  # fmt: skip
    for node in nodes.values():
        node.wait_log("is up")
    return nodes


def sample(seconds: float, every_s: float, look: Callable[[], None]) -> None:
    """Look every so often, for so long."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        look()
        time.sleep(every_s)
