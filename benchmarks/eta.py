"""What tasks cost that wait for their time: memory at their owner and at the worker.

::

    python benchmarks/eta.py [--folder DIR] [--tasks 1000000] [--json]

A script calls ``apply_async(countdown=3600)`` so many times; a worker is there. The figures are
bytes of resident memory for each task, of the script, with all that a caller has of it (its
handle included), and of the worker with its children; and the time until what waits is in the
journal of the script (write-behind), with its size. Then one more task shows how long a short
one takes beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from durable_submit import private_mesh, worker

_APP = """
from zmqtasks import App

app = App("eta")

@app.task
def add(x: int, y: int) -> int:
    return x + y
"""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what tasks cost that wait.")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the journal lies (.)")
    parser.add_argument("--tasks", type=int, default=1_000_000, help="(1000000)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    many = {"ZMQTASKS_OPEN_TASKS_MAX": "10000000"}
    with private_mesh(options.folder, _APP, **many) as folder, worker(folder) as node:
        figures = measure(options.tasks, folder, node)
    print(json.dumps(figures) if options.json else described(figures))
    # What is still open is of no use to anybody: the folder is gone.
    sys.stdout.flush()
    os._exit(0)


def measure(count: int, folder: Path, node: int) -> dict[str, Any]:
    """All figures."""
    from tasks import add  # type: ignore[import-not-found]  # written by private_mesh

    from zmqtasks.app.current import gateway

    add.delay(1, 2).get(timeout=30)
    owner_before, worker_before = resident_bytes([os.getpid()]), resident_bytes(family(node))
    begun = time.perf_counter()
    for number in range(count):
        add.apply_async((number, 1), countdown=3_600)
    submitted_s = time.perf_counter() - begun
    client: Any = gateway(add.app)
    while client.on_loop(lambda: client.dispatcher.unwritten_count):
        time.sleep(0.5)
    written_s = time.perf_counter() - begun
    owner, at_worker = resident_bytes([os.getpid()]), resident_bytes(family(node))
    begun = time.perf_counter()
    add.delay(1, 2).get(timeout=60)
    return {
        "tasks": count,
        "owner_bytes_per_task": (owner - owner_before) / count,
        "worker_bytes_per_task": (at_worker - worker_before) / count,
        "submit_s": submitted_s,
        "written_s": written_s,
        "journal_bytes_per_task": size_of(folder / "state") / count,
        "short_task_ms": (time.perf_counter() - begun) * 1_000,
    }


def described(figures: dict[str, Any]) -> str:
    """The figures for people."""
    return "\n".join((
        f"{figures['tasks']:,} tasks that wait for an hour",
        f"owner    {figures['owner_bytes_per_task']:8,.0f} bytes of memory each, handle included",
        f"worker   {figures['worker_bytes_per_task']:8,.2f} bytes each",
        f"journal  {figures['journal_bytes_per_task']:8,.0f} bytes each",
        f"submitted in {figures['submit_s']:.1f} s, written after {figures['written_s']:.1f} s",
        f"a short task beside them: {figures['short_task_ms']:.1f} ms",
    ))  # fmt: skip


def resident_bytes(pids: list[int]) -> int:
    """Memory of these processes."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * _PAGE_BYTES


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def size_of(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
