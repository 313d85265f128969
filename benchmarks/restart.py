"""Restart of an owner: how long until a node is back at work with many open tasks.

::

    python benchmarks/restart.py [--tasks 100000] [--runs 3] [--json]

A script submits durable calls that no worker takes, and is killed. Then a worker is
launched on its host. Told are the times from there until it says that it has the tasks,
until the first of them has run (owners wait a second for workers that still have an
attempt), and until all of them have, which costs the same as without a restart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from cold_start import private_mesh

AIM_S = 10.0
_APP = """
import os
from zmqtasks import App

app = App("restart")
_file = os.open(os.environ["RAN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

@app.task
def mark(number: int) -> None:
    os.write(_file, b".")
"""
_SUBMIT = """
import sys, time
from tasks import app, mark
mark.delay_many((number,) for number in range(int(sys.argv[1])))
print("submitted", flush=True)
time.sleep(600)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the restart of an owner.")
    parser.add_argument("--tasks", type=int, default=100_000, help="open tasks (100000)")
    parser.add_argument("--runs", type=int, default=3, help="runs (3)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    runs = [measure(options.tasks) for _ in range(options.runs)]
    figures = {name: median(run[name] for run in runs) for name in runs[0]}
    if options.json:
        print(json.dumps(figures))
        return
    print(
        f"{options.tasks:,} open tasks, medians of {options.runs} runs; aim: at work in {AIM_S:g} s"
    )
    for name, value in figures.items():
        print(f"  {name:<12} {value:7.2f} s")


def measure(count: int) -> dict[str, float]:
    """One restart, in seconds from the launch of the worker."""
    with private_mesh(with_key=False) as folder:
        (folder / "tasks.py").write_text(_APP)
        ran = folder / "ran"
        ran.touch()
        os.environ.update(RAN=str(ran), ZMQTASKS_DURABILITY="disk", PYTHONUNBUFFERED="1")
        submit(folder, count)
        with (folder / "node.log").open("w+") as log, tempfile.TemporaryFile() as none:
            begun = time.monotonic()
            command = [sys.executable, "-m", "zmqtasks", "node", "--concurrency", "2"]
            node = subprocess.Popen(command, cwd=folder, stdin=none, stdout=log, stderr=log)
            try:
                text = f"goes on with {count:,} that were there"
                return {
                    "has them": until(lambda: text in (folder / "node.log").read_text(), begun),
                    "first ran": until(lambda: ran.stat().st_size > 0, begun),
                    "all ran": until(lambda: ran.stat().st_size >= count, begun),
                }
            finally:
                node.terminate()
                node.wait(60)


def submit(folder: Path, count: int) -> None:
    """Leave so many tasks in the journal of a killed script."""
    script = subprocess.Popen(
        [sys.executable, "-c", _SUBMIT, str(count)], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert script.stdout is not None
    with script:
        line = script.stdout.readline()
        script.kill()
    if line.strip() != "submitted":
        sys.exit(f"the script could not submit: {line}")


def until(condition: Callable[[], bool], begun: float, limit_s: float = 300.0) -> float:
    """Seconds from ``begun`` until the condition holds."""
    while not condition():
        if time.monotonic() - begun > limit_s:
            sys.exit(f"not within {limit_s} s")
        time.sleep(0.01)
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
