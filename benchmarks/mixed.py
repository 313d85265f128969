"""Short tasks beside long ones: does any wait behind a long one while a slot is free?

::

    python benchmarks/mixed.py [--seconds 30] [--long-s 60] [--rate 100] [--json]

Two unequal workers, of one slot and of three. Three scripts submit tasks of 1 ms, each so many
a second, and one after the other, a second apart, each submits a task of 60 s while the short
ones flow. So one slot stays free for the short ones, and nobody knows beforehand which tasks are
long. Told are the milliseconds from the call of a short task to its start.

Then the late joiner: every slot is taken, long tasks wait, one more worker comes. Told is the
time from its launch until it has begun the first of what waits.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from durable_submit import private_mesh

AIM_JOINED_S = 1.0
SLOTS = {"small": 1, "big": 3}
PRODUCERS = 3
#: The clock of all of them: one for all processes of a Linux host.
_APP = """
import os, time
from zmqtasks import App

app = App("mixed")

@app.task
def short() -> int:
    begun_ns = time.monotonic_ns()
    time.sleep(0.001)
    return begun_ns

@app.task
def long(seconds: float) -> None:
    with open(os.environ["BEGUN"], "a") as file:
        file.write(f"{os.environ['NODE']} {time.monotonic_ns()}\\n")
    time.sleep(seconds)
"""
_PRODUCER = """
import json, sys, time
from tasks import long, short

seconds, rate, long_s, long_at_s = map(float, sys.argv[1:])
short.apply_async(require_worker=30).get(timeout=30)
print("ready", flush=True)
sys.stdin.readline()
begun_s, calls, is_long_due = time.monotonic(), [], True
while (passed_s := time.monotonic() - begun_s) < seconds:
    if is_long_due and passed_s >= long_at_s:
        long.delay(long_s)
        is_long_due = False
    called_ns = time.monotonic_ns()
    calls.append((called_ns, short.delay()))
    time.sleep(max(0.0, len(calls) / rate - (time.monotonic() - begun_s)))
print(json.dumps([(handle.get(timeout=120) - called_ns) / 1e6 for called_ns, handle in calls]),
      flush=True)
sys.stdin.readline()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure short tasks beside long ones.")
    parser.add_argument("--seconds", type=float, default=30.0, help="that scripts submit (30)")
    parser.add_argument("--long-s", type=float, default=60.0, help="seconds of a long task (60)")
    parser.add_argument("--rate", type=float, default=100.0, help="calls/s of each script (100)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    with private_mesh(Path(), _APP) as folder:
        os.environ["BEGUN"] = str(folder / "begun")
        figures = {**beside_long_ones(options, folder), "joined_s": late_joiner(folder)}
    print(json.dumps(figures) if options.json else described(figures))
    # What is still open is of no use to anybody: the folder is gone.
    sys.stdout.flush()
    os._exit(0)


def beside_long_ones(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Milliseconds from the call of a short task to its start."""
    with ExitStack() as stack:
        for name, slots in SLOTS.items():
            stack.enter_context(worker(folder, name, slots))
        scripts = [
            stack.enter_context(producer(folder, options, number)) for number in range(PRODUCERS)
        ]
        for script in scripts:
            assert script.stdin is not None
            script.stdin.write("go\n")
            script.stdin.flush()
        waits_ms = sorted(ms for script in scripts for ms in json.loads(line_of(script)))
    begun = len((folder / "begun").read_text().splitlines())
    if begun != PRODUCERS:
        sys.exit(f"{begun} long tasks have begun where {PRODUCERS} were submitted")
    return {
        "tasks": len(waits_ms),
        "p50_ms": median(waits_ms),
        "p99_ms": waits_ms[math.ceil(0.99 * len(waits_ms)) - 1],
        "max_ms": waits_ms[-1],
    }


def late_joiner(folder: Path) -> float:
    """Seconds until a worker that comes last is busy."""
    from tasks import long  # type: ignore[import-not-found]  # written by private_mesh

    begun = folder / "begun"
    begun.unlink()
    with worker(folder, "first", 2):
        for _ in range(20):
            long.delay(5.0)
        wait_until(lambda: begun.exists() and len(begun.read_text().splitlines()) == 2)
        launched_ns = time.monotonic_ns()
        with worker(folder, "late", 2):
            wait_until(lambda: "late" in begun.read_text())
    first = next(line for line in begun.read_text().splitlines() if line.startswith("late"))
    return (int(first.split()[1]) - launched_ns) / 1e9


@contextmanager
def worker(folder: Path, name: str, slots: int) -> Iterator[None]:
    """A node that runs the tasks, and is up."""
    log = folder / f"{name}.log"
    with log.open("w") as file:
        node = subprocess.Popen(
            [sys.executable, "-m", "zmqtasks", "node", "--app", "tasks", "--name", name,
             "--concurrency", str(slots)],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            env=os.environ | {"NODE": name},
        )  # fmt: skip
    try:
        wait_until(lambda: "is up" in log.read_text())
        yield
    finally:
        node.kill()
        node.wait()


@contextmanager
def producer(
    folder: Path, options: argparse.Namespace, number: int
) -> Iterator[subprocess.Popen[str]]:
    """A script that is ready to submit."""
    args = (options.seconds, options.rate, options.long_s, number + 1)
    script = subprocess.Popen(
        [sys.executable, "-c", _PRODUCER, *map(str, args)],
        cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        line_of(script)
        yield script
    finally:
        script.kill()
        script.communicate()


def line_of(script: subprocess.Popen[str]) -> str:
    """What it prints next."""
    assert script.stdout is not None
    return script.stdout.readline()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look every few milliseconds, for at most 30 s."""
    for _ in range(6_000):
        if is_so():
            return
        time.sleep(0.005)
    sys.exit("it does not happen")


def described(figures: dict[str, float]) -> str:
    """The figures for people."""
    return "\n".join((
        f"{figures['tasks']:,.0f} short tasks beside {PRODUCERS} long ones on "
        f"{sum(SLOTS.values())} slots, from call to start:",
        f"p50 {figures['p50_ms']:.1f} ms   p99 {figures['p99_ms']:.1f} ms   "
        f"max {figures['max_ms']:.1f} ms",
        f"late joiner busy {figures['joined_s']:.2f} s after its launch   aim: {AIM_JOINED_S:g} s",
    ))  # fmt: skip


if __name__ == "__main__":
    main()
