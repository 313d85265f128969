"""What ``durability="disk"`` costs: one ``delay()``, many at once, and one bare fsync beside it.

::

    python benchmarks/durable_submit.py [--folder DIR] [--tasks 100000] [--threads 8] [--worker]
                                        [--json]

* fsync: write 4 KiB over what is there, then fdatasync; the least that "on the disk" can cost.
* one: a single durable ``delay()``, from the call to its return.
* threads: the same from several threads at once, which share commits.
* bulk: ``delay_many`` of the given number of tasks, from the call to its return.
* memory: the same bulk with ``durability="memory"``, for comparison.

The journal lies in DIR (the present folder by default): choose the disk that is meant. With
``--worker`` a node runs the tasks while they are submitted, as it mostly is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

AIM_BULK_PER_S = 20_000
_PAGE = b"\0" * 4096
_APP = """
from zmqtasks import App

app = App("durable-submit")

@app.task
def add(x: int, y: int) -> int:
    return x + y

@app.task(durability="disk")
def keep(x: int, y: int) -> int:
    return x + y
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what durable calls cost.")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the journal lies (.)")
    parser.add_argument("--tasks", type=int, default=100_000, help="of the bulk (100000)")
    parser.add_argument("--runs", type=int, default=300, help="single calls, and fsyncs (300)")
    parser.add_argument("--threads", type=int, default=8, help="that call at once (8)")
    parser.add_argument("--worker", action="store_true", help="a node runs the tasks meanwhile")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    with private_mesh(options.folder, _APP) as folder, disk_page(folder, options.runs) as sync_page:
        if options.worker:
            with worker(folder):
                figures = measure(options, sync_page)
        else:
            figures = measure(options, sync_page)
    print(json.dumps(figures) if options.json else described(figures))
    # What is still open is of no use to anybody: the folder is gone.
    sys.stdout.flush()
    os._exit(0)


def measure(options: argparse.Namespace, sync_page: Callable[[], None]) -> dict[str, Any]:
    """All figures."""
    from tasks import add, keep  # type: ignore[import-not-found]  # written by private_mesh

    keep.delay(0, 0)  # opens the client and its journal
    # In turns, since other programs use the disk too, and disks have moods.
    fsync, one = time_in_turns(options.runs, sync_page, lambda: keep.delay(1, 2))
    return {
        "fsync": spread(fsync),
        "one": spread(one),
        "threads": {
            "threads": options.threads,
            "tasks_per_s": time_threads(options.threads, options.runs, lambda: keep.delay(1, 2)),
        },
        "bulk": time_bulk(options.tasks, keep.delay_many),
        "memory": time_bulk(options.tasks, add.delay_many),
    }


def described(figures: dict[str, Any]) -> str:
    """The figures for people."""
    fsync, one, threads = figures["fsync"], figures["one"], figures["threads"]
    bulk, memory = figures["bulk"]["tasks_per_s"], figures["memory"]["tasks_per_s"]
    return "\n".join((
        f"fsync    {_times(fsync)}",
        f"one      {_times(one)}   = {one['p50_ms'] / fsync['p50_ms']:.1f} fsyncs",
        f"threads  {threads['tasks_per_s']:>9,.0f} tasks/s from {threads['threads']} threads",
        f"bulk     {bulk:>9,.0f} tasks/s   aim: {AIM_BULK_PER_S:,} at least",
        f"memory   {memory:>9,.0f} tasks/s",
    ))  # fmt: skip


def _times(figure: dict[str, float]) -> str:
    return "   ".join(f"{name} {figure[f'{name}_ms']:7.3f} ms" for name in ("p50", "p90", "best"))


@contextmanager
def private_mesh(where: Path, app: str, **settings: str) -> Iterator[Path]:
    """A folder with an app, and an environment that meets no other mesh.

    Args:
        where: the folder is made in this one.
        app: the source of its ``tasks.py``.
        settings: of the environment, with their values.
    """
    with (
        tempfile.TemporaryDirectory(prefix="zt-bench-", dir=where.resolve()) as state,
        tempfile.TemporaryDirectory(prefix="zt-") as sockets,  # short paths
    ):
        folder = Path(state)
        (folder / "tasks.py").write_text(app)
        for key in [key for key in os.environ if key.startswith("ZMQTASKS_")]:
            del os.environ[key]
        os.environ.update(
            ZMQTASKS_MESH="bench", ZMQTASKS_RUNTIME_DIR=sockets,
            ZMQTASKS_STATE_DIR=f"{state}/state", ZMQTASKS_CACHE_DIR=f"{state}/cache",
            ZMQTASKS_KEY_FILE="none", **settings,
        )  # fmt: skip
        package = str(Path(__file__).resolve().parents[1])
        sys.path[:0] = [str(folder), package]
        paths = [os.environ.get("PYTHONPATH", ""), package]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        yield folder


@contextmanager
def worker(folder: Path) -> Iterator[int]:
    """A node that runs the tasks, ``add`` among them; gives its pid."""
    from tasks import add

    with (folder / "log").open("w") as log:
        node = subprocess.Popen(
            [sys.executable, "-m", "zmqtasks", "node", "--app", "tasks", "--concurrency", "2"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        add.apply_async((1, 2), require_worker=30).get(timeout=30)
        yield node.pid
    finally:
        node.kill()
        node.wait()


@contextmanager
def disk_page(folder: Path, count: int) -> Iterator[Callable[[], None]]:
    """A function that writes a page over what is there and waits until it is on the disk."""
    fd = os.open(folder / "fsync", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(fd, _PAGE * count, 0)
        os.fsync(fd)
        places = itertools.cycle(range(0, count * len(_PAGE), len(_PAGE)))

        def sync_page() -> None:
            os.pwrite(fd, os.urandom(len(_PAGE)), next(places))
            os.fdatasync(fd)

        yield sync_page
    finally:
        os.close(fd)


def time_threads(threads: int, count: int, call: Callable[[], object]) -> float:
    """Calls a second of all threads together."""
    running = [
        threading.Thread(target=lambda: [call() for _ in range(count)]) for _ in range(threads)
    ]
    begun = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return threads * count / (time.perf_counter() - begun)


def time_bulk(count: int, delay_many: Callable[[Any], object]) -> dict[str, float]:
    """Tasks a second, until all of them are accepted."""
    begun = time.perf_counter()
    delay_many((number, 1) for number in range(count))
    return {"tasks": count, "tasks_per_s": count / (time.perf_counter() - begun)}


def time_in_turns(count: int, *functions: Callable[[], object]) -> list[list[float]]:
    """Seconds of each run of each function, after one that does not count."""
    took: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(count):
        for function, seconds in zip(functions, took, strict=True):
            begun = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - begun)
    return took


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 90th percentile and best, in milliseconds."""
    ordered = sorted(1000 * second for second in seconds)
    return {
        "p50_ms": median(ordered),
        "p90_ms": ordered[math.ceil(0.9 * len(ordered)) - 1],
        "best_ms": ordered[0],
    }


if __name__ == "__main__":
    main()
