"""``zmqtasks bench``: no-op tasks through the public API, end to end.

The figures say what the queue costs, not what it can do for real tasks. Every value that
comes back is compared with what was sent.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click

from zmqtasks.cli.options import CLIENT_KEYS, setting_options
from zmqtasks.cli.session import FIND_S, session
from zmqtasks.cli.showing import as_json
from zmqtasks.errors import ConfigError, NoWorkers
from zmqtasks.node.client import Client
from zmqtasks.version import __version__
from zmqtasks.wire.messages import Hello

_APP = "zmqtasks.cli.bench_tasks"
_APP_NAME = "zmqtasks-bench"
_ROUNDS = 3
_WARM_UP_COUNT = 2_000
_START_S = 20.0
_WAIT_S = 600.0


@click.command()
@click.option("--tasks", default=40_000, show_default=True, type=click.IntRange(100, 10_000_000),
              help="Tasks of each round.")  # fmt: skip
@click.option("--concurrency", "-c", default=2, show_default=True, type=click.IntRange(1, 1024),
              help="Pool processes of the node that is started.")  # fmt: skip
@click.option("--store/--no-store", default=False, show_default=True,
              help="With a store node that keeps every result in SQLite.")  # fmt: skip
@click.option("--mesh-running", is_flag=True,
              help=f"Use workers that run already, started with --app {_APP}.")  # fmt: skip
@click.option("--json", "with_json", is_flag=True, help="Print the figures as JSON.")
@setting_options([key for key in CLIENT_KEYS if key != "app"])
def bench(
    *, tasks: int, concurrency: int, store: bool, mesh_running: bool, with_json: bool, **flags: Any
) -> None:
    """Measure tasks per second and round trips with tasks that do nothing."""
    if mesh_running:
        figures = measure(flags, tasks, has_store=False)
    else:
        with own_mesh(concurrency, with_store=store) as own_flags:
            figures = measure({**flags, **own_flags}, tasks, has_store=store)
        figures["concurrency"] = concurrency
    figures |= surroundings()
    if with_json:
        click.echo(as_json(figures))
    else:
        show(figures)


# --- a mesh for the purpose -------------------------------------------------------------


@contextmanager
def own_mesh(concurrency: int, *, with_store: bool) -> Iterator[dict[str, Any]]:
    """Nodes of a mesh of its own, in folders of its own; gives the flags to reach it.

    Raises:
        ConfigError: a node did not start; the message has the end of its log.
    """
    # Short, since the paths of sockets are limited.
    with tempfile.TemporaryDirectory(prefix="zt-bench-") as name:
        folder = Path(name)
        flags = {
            "mesh": "bench", "key_file": "none", "listen": ("ipc",), "peers": (), "mdns": False,
            **{key: str(folder / key) for key in ("runtime_dir", "state_dir", "cache_dir")},
        }  # fmt: skip
        nodes = [_Node(folder, "worker", "--app", _APP, "--concurrency", str(concurrency))]
        try:
            if with_store:
                nodes.append(_Node(folder, "store"))
            for node in nodes:
                node.wait_ready()
            yield flags
        finally:
            for node in nodes:
                node.stop()


class _Node:
    """A node process."""

    def __init__(self, folder: Path, role: str, *flags: str) -> None:
        self.role = role
        self.log = folder / f"{role}.log"
        own = {
            key: value for key, value in os.environ.items() if not key.startswith("ZMQTASKS_")
        } | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and flags
                [
                    sys.executable, "-m", "zmqtasks", "node", "--role", role, "--mesh", "bench",
                    "--key", "none", "--listen", "ipc", "--no-mdns",
                    "--runtime-dir", str(folder / "runtime_dir"),
                    "--state-dir", str(folder / "state_dir"),
                    "--cache-dir", str(folder / "cache_dir"), *flags,
                ],
                cwd=folder, env=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def wait_ready(self) -> None:
        """Until it says that it is up.

        Raises:
            ConfigError: it has ended, or takes too long.
        """
        give_up = time.monotonic() + _START_S
        while True:
            text = self.log.read_text(errors="replace")
            if " is up: " in text:
                return
            if self.process.poll() is not None or time.monotonic() > give_up:
                raise ConfigError(f"the {self.role} node does not start: {text[-2000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Ask it to end, then make it."""
        self.process.terminate()
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# --- measuring --------------------------------------------------------------------------


def measure(flags: dict[str, Any], tasks: int, *, has_store: bool) -> dict[str, Any]:
    """All figures.

    Raises:
        NoWorkers: nobody runs the application of the benchmark.
    """
    from zmqtasks.cli.bench_tasks import noop

    with session(flags) as client:
        workers = find_workers(client)
        many(noop, _WARM_UP_COUNT)
        bulk = [rate(lambda: many(noop, tasks), tasks) for _ in range(_ROUNDS)]
        fewer = max(100, tasks // 4)
        single = [rate(lambda: one_by_one(noop, fewer), fewer) for _ in range(_ROUNDS)]
        trips_count = min(2_000, fewer)
        trips = round_trips(noop, trips_count)
        checked = _WARM_UP_COUNT + _ROUNDS * (tasks + fewer) + trips_count
        figures: dict[str, Any] = {
            "tasks": tasks,
            "workers": sum(peer.slots for peer in workers),
            "delay_many_per_s": round(median(bulk)),
            "delay_many_rounds": [round(value) for value in bulk],
            "delay_per_s": round(median(single)),
            "delay_rounds": [round(value) for value in single],
            "round_trip_p50_ms": round(trips[49], 3),
            "round_trip_p99_ms": round(trips[98], 3),
            "values_checked": checked,
        }
        if has_store:
            figures["stored_after_s"] = round(wait_stored(client, checked), 3)
    return figures


def find_workers(client: Client) -> list[Hello]:
    """Workers that run the benchmark's application.

    Raises:
        NoWorkers: there are none.
    """

    def benching(peers: Sequence[Hello]) -> list[Hello]:
        return [peer for peer in peers if any(e.app == _APP_NAME for e in peer.catalog)]

    found = benching(client.survey.settle(FIND_S, lambda peers: bool(benching(peers))))
    if not found:
        raise NoWorkers(
            f"no worker of mesh '{client.settings.mesh}' runs the benchmark's tasks; start one "
            f"with: zmqtasks node --app {_APP}"
        )
    return found


def rate(work: Callable[[], None], count: int) -> float:
    """Tasks per second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def many(noop: Any, count: int) -> None:
    """One ``delay_many``, its values checked."""
    values = noop.delay_many((number,) for number in range(count)).get(timeout=_WAIT_S)
    check(values, count)


def one_by_one(noop: Any, count: int) -> None:
    """``delay`` for each task, then ``get`` for each."""
    handles = [noop.delay(number) for number in range(count)]
    check([handle.get(timeout=_WAIT_S) for handle in handles], count)


def round_trips(noop: Any, count: int) -> list[float]:
    """Percentiles 1 to 99 of ``delay(...).get()``, in milliseconds."""
    times: list[float] = []
    values: list[int] = []
    for number in range(count):
        start = time.perf_counter()
        values.append(noop.delay(number).get(timeout=_WAIT_S))
        times.append((time.perf_counter() - start) * 1000)
    check(values, count)
    return quantiles(times, n=100)


def check(values: list[int], count: int) -> None:
    """Each value is the argument of its task.

    Raises:
        AssertionError: the mesh has mixed up or lost something.
    """
    if values != list(range(count)):
        wrong = next(i for i in range(count) if i >= len(values) or values[i] != i)
        raise AssertionError(f"call {wrong} of {count} came back wrong: this is a bug in zmqtasks")


def wait_stored(client: Client, count: int) -> float:
    """Seconds until the store has an outcome and a verdict for every task."""
    start = time.perf_counter()
    while True:
        rows = sum(
            ((node.report or {}).get("store") or {}).get("stored", 0)
            for node in client.survey.ask(FIND_S)
        )
        waited = time.perf_counter() - start
        if rows >= 2 * count:
            return waited
        if waited > _WAIT_S:
            raise AssertionError(f"only {rows} of {2 * count} rows were stored")
        time.sleep(0.02)


# --- telling ----------------------------------------------------------------------------


def surroundings() -> dict[str, Any]:
    """What the figures depend on."""
    from zmqtasks.net.curve import libzmq_version

    return {
        "versions": {
            "zmqtasks": __version__,
            "python": platform.python_version(),
            "pyzmq": version("pyzmq"),
            "libzmq": libzmq_version(),
            "msgpack": version("msgpack"),
            "msgspec": version("msgspec"),
        },
        "cpus": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def show(figures: dict[str, Any]) -> None:
    """The figures for people."""

    def rounds(key: str) -> str:
        return ", ".join(f"{value:,}" for value in figures[key])

    count = figures["tasks"]
    lines = [
        f"delay_many, {count:,} tasks:  {figures['delay_many_per_s']:>9,} tasks/s  "
        f"(rounds: {rounds('delay_many_rounds')})",
        f"delay, one by one:      {figures['delay_per_s']:>9,} tasks/s  "
        f"(rounds: {rounds('delay_rounds')})",
        f"round trip:             p50 {figures['round_trip_p50_ms']} ms, "
        f"p99 {figures['round_trip_p99_ms']} ms",
        f"values checked:         {figures['values_checked']:,}, all right",
    ]
    if "stored_after_s" in figures:
        lines.append(f"all stored:             {figures['stored_after_s']} s after the last result")
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    lines += [
        f"{figures['workers']} pool processes, {figures['cpus']} CPUs, load {figures['load_1m']}, "
        f"{figures['system']}",
        versions,
    ]
    click.echo("\n".join(lines))
