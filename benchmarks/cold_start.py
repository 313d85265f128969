"""Cold start: how long until a fresh node, or a fresh script, has its first result.

::

    python benchmarks/cold_start.py [--runs 15] [--key] [--json]

* node: from launching ``zmqtasks node`` to the first value it computes, as seen by a
  client that runs already and has called a task.
* script: from launching ``python -c "…delay(…).get()"`` to its end, beside a warm node.

With ``--key`` the nodes have a mesh key, so CURVE, TCP and mDNS join in. What Python alone
needs to start is told as well: nothing can be below it. So is the processor time of a
script, which says more than the clock where other programs are busy.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

AIMS_MS = {"node": 1000, "script": 400}
_APP = """
from zmqtasks import App

app = App("cold-start")

@app.task
def add(x: int, y: int) -> int:
    return x + y
"""
_SCRIPT = "from tasks import add; assert add.delay(2, 3).get(timeout=30) == 5"
#: Asked over pipes: calls a task at each line it reads, and answers when it has the value.
_CLIENT = """
import sys
from tasks import add
for line in sys.stdin:
    handle = add.delay(2, 3)
    print("called", flush=True)
    assert handle.get(timeout=60) == 5
    print("got", flush=True)
"""


class Took(NamedTuple):
    """Milliseconds of one run; -1 for processor time that is not measured."""

    clock_ms: float
    processor_ms: float = -1


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how long a cold start takes.")
    parser.add_argument("--runs", type=int, default=15, help="runs of each kind (15)")
    parser.add_argument("--key", action="store_true", help="nodes have a mesh key")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    with private_mesh(with_key=options.key) as folder:
        runs = {
            "python": repeat(options.runs, lambda: time_script(folder, "pass")),
            "node": time_nodes(folder, options.runs),
            "script": time_scripts(folder, options.runs),
        }
    figures = {name: spread(took) for name, took in runs.items()}
    if options.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        line = (
            f"{name:<7} median {figure['p50_ms']:5.0f} ms   p90 {figure['p90_ms']:5.0f} ms   "
            f"best {figure['best_ms']:5.0f} ms"
        )
        if "processor_ms" in figure:
            line += f"   processor {figure['processor_ms']:4.0f} ms"
        if name in AIMS_MS:
            line += f"   aim: under {AIMS_MS[name]} ms"
        print(line)


@contextmanager
def private_mesh(*, with_key: bool) -> Iterator[Path]:
    """A folder with an app, and an environment that meets no other mesh."""
    with tempfile.TemporaryDirectory(prefix="zt-cold-") as name:  # short: it will hold sockets
        folder = Path(name)
        (folder / "tasks.py").write_text(_APP)
        for key in [key for key in os.environ if key.startswith("ZMQTASKS_")]:
            del os.environ[key]
        os.environ.update(
            ZMQTASKS_MESH="cold-start", ZMQTASKS_RUNTIME_DIR=f"{name}/run",
            ZMQTASKS_STATE_DIR=f"{name}/state", ZMQTASKS_CACHE_DIR=f"{name}/cache",
            ZMQTASKS_KEY_FILE="none",
            # Compiled modules are kept, as those of an installed package are.
            PYTHONPYCACHEPREFIX=f"{name}/compiled",
        )  # fmt: skip
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        # The package beside this folder, unless another one is installed.
        paths = [os.environ.get("PYTHONPATH", ""), str(Path(__file__).resolve().parents[1])]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if with_key:
            os.environ["ZMQTASKS_KEY_FILE"] = f"{name}/mesh.key"
            command = [sys.executable, "-m", "zmqtasks", "keygen", f"{name}/mesh.key"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        yield folder


@contextmanager
def started(folder: Path, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended afterwards."""
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.terminate()


def node(folder: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """A worker node."""
    return started(folder, ["-m", "zmqtasks", "node", "--app", "tasks", "--concurrency", "2"])


def time_nodes(folder: Path, count: int) -> list[Took]:
    """From the launch of a node to the first value it computes."""

    def once() -> Took:
        ask(client, "called")
        begun = time.perf_counter()
        with node(folder):
            answer(client, "got", folder)
            return Took((time.perf_counter() - begun) * 1000)

    with started(folder, ["-c", _CLIENT]) as client:
        return repeat(count, once)


def time_scripts(folder: Path, count: int) -> list[Took]:
    """From the launch of a script to its end, beside a warm node."""
    with node(folder):
        return repeat(count, lambda: time_script(folder, _SCRIPT))


def time_script(folder: Path, code: str) -> Took:
    """One run of a script; its processor time includes no other process."""
    begun, used = time.perf_counter(), children_s()
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    return Took((time.perf_counter() - begun) * 1000, (children_s() - used) * 1000)


def children_s() -> float:
    """Processor seconds of the processes that have ended so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ask(client: subprocess.Popen[str], expected: str) -> None:
    assert client.stdin is not None
    client.stdin.write("go\n")
    client.stdin.flush()
    answer(client, expected)


def answer(client: subprocess.Popen[str], expected: str, folder: Path | None = None) -> None:
    assert client.stdout is not None
    line = client.stdout.readline().strip()
    if line != expected:
        log = (folder / "log").read_text() if folder else ""
        sys.exit(f"the client said {line!r} and not {expected!r}\n{log}")


def repeat(count: int, once: Callable[[], Took]) -> list[Took]:
    """One run that fills the caches, then those that count."""
    once()
    return [once() for _ in range(count)]


def spread(runs: list[Took]) -> dict[str, float]:
    """Median, 90th percentile and best."""
    clock = sorted(took.clock_ms for took in runs)
    figure = {
        "runs": len(runs),
        "p50_ms": median(clock),
        "p90_ms": clock[math.ceil(0.9 * len(clock)) - 1],
        "best_ms": clock[0],
    }
    if runs[0].processor_ms >= 0:
        figure["processor_ms"] = median(took.processor_ms for took in runs)
    return figure


if __name__ == "__main__":
    main()
