"""What really ran: a log that the tasks write themselves, and what it proves.

The system under test has no hand in it: a task appends a line when its function begins
and one when it returns, with the kernel's monotonic clock, which is the same for all
processes of a host and for the test. A line is one write to a file opened for appending,
so lines of different processes never mix and a killed process leaves whole lines.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: ``work`` sleeps at most this long, in microseconds.
_SLEEP_US_MAX = 40_000

#: The application: ``work`` sleeps 0 to 40 ms, by its argument alone, so that its value
#: and its duration can be told without having run it.
SOURCE = f'''
import os, time
from pathlib import Path
from zmqtasks import App

app = App("chaos")
_file = os.open(os.environ["CHAOS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
_node = os.environ.get("CHAOS_NODE", "client")


def note(what, number, attempt):
    line = f"{{what}} {{number}} {{attempt}} {{_node}} {{os.getpid()}} {{time.monotonic_ns()}}\\n"
    os.write(_file, line.encode())


@app.task(bind=True)
def work(self, number: int) -> int:
    note("start", number, self.request.attempt)
    time.sleep(number * 7919 % {_SLEEP_US_MAX + 1} / 1e6)
    note("end", number, self.request.attempt)
    return number * 7 + 1


@app.task(bind=True)
def stamp(self, number: int) -> list:
    """As ``work``; the value tells which attempt it comes from."""
    note("start", number, self.request.attempt)
    time.sleep(number * 7919 % {_SLEEP_US_MAX + 1} / 1e6)
    note("end", number, self.request.attempt)
    return [number, self.request.attempt]


@app.task(bind=True)
def chew(self, number: int, data: bytes) -> int:
    """Take 5 ms and tell how much came."""
    note("start", number, self.request.attempt)
    time.sleep(0.005)
    note("end", number, self.request.attempt)
    return len(data)


@app.task(bind=True)
def hold(self, number: int, gate: str) -> int:
    """Wait for the attempt's own file; the value tells which attempt it comes from."""
    note("start", number, self.request.attempt)
    while not Path(f"{{gate}}-{{self.request.attempt}}").exists():
        time.sleep(0.005)
    note("end", number, self.request.attempt)
    return self.request.attempt
'''


def value_of(number: int) -> int:
    """What ``work(number)`` has to return."""
    return number * 7 + 1


@dataclass
class Run:
    """One run of a task function."""

    number: int
    attempt: int
    node: str
    pid: int
    start_ns: int
    #: None while it runs, and for ever if it was cut short.
    end_ns: int | None = None

    @property
    def sleep_ns(self) -> int:
        """How long ``work`` and ``stamp`` sleep for this number."""
        return self.number * 7919 % (_SLEEP_US_MAX + 1) * 1000


@dataclass(frozen=True)
class Kill:
    """A process that the test has killed: times just before the signal and just after."""

    before_ns: int
    after_ns: int
    #: What it was running, as the log showed just before.
    run: Run

    @property
    def hit(self) -> bool:
        """Whether a task did run at that moment.

        The child of a killed node may still reach the end of its function before the
        fork server ends it; nobody hears of that any more.
        """
        ended_ns = self.run.end_ns
        return self.run.start_ns < self.before_ns and (ended_ns is None or ended_ns > self.after_ns)


class Evidence:
    """Reads the log as it grows."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""
        #: Every run, in the order in which they began.
        self.runs: list[Run] = []
        #: How many of them came to their end.
        self.ended_count = 0
        self._by_key: dict[tuple[int, int, int], Run] = {}
        #: {pid: what it ran last}.
        self._latest: dict[int, Run] = {}

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def look(self) -> None:
        """Read what is new."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            what, number, attempt, node, pid, at_ns = line.decode().split()
            key = (int(number), int(attempt), int(pid))
            if what == "end":
                self._by_key[key].end_ns = int(at_ns)
                self.ended_count += 1
                continue
            assert key not in self._by_key, f"one process started {key[:2]} twice"
            run = Run(int(number), int(attempt), node, int(pid), int(at_ns))
            self.runs.append(run)
            self._by_key[key] = self._latest[run.pid] = run

    def running(self) -> list[Run]:
        """What has begun and not ended (or been cut short), latest first."""
        self.look()
        open_runs = [run for run in self._latest.values() if run.end_ns is None]
        return sorted(open_runs, key=lambda run: run.start_ns, reverse=True)

    # --- what it proves -------------------------------------------------------------------

    def check(self, numbers: Collection[int], redelivered_count: int) -> None:
        """Every task ran, no attempt twice, and nothing again but what was redelivered."""
        self.look()
        starts = [(run.number, run.attempt) for run in self.runs]
        assert {number for number, _ in starts} == set(numbers)
        again = {key for key in starts if starts.count(key) > 1} if _has_twins(starts) else set()
        assert not again, f"attempts that were started twice: {sorted(again)[:10]}"
        duplicates = len(starts) - len(numbers)
        assert duplicates <= redelivered_count, (
            f"{duplicates} runs too many, but only {redelivered_count} redeliveries"
        )

    @property
    def duplicates(self) -> int:
        """Runs beyond one for each task."""
        return len(self.runs) - len({run.number for run in self.runs})

    def overlaps(self) -> int:
        """Tasks of which two runs went on at the same time, or may have."""
        by_number: dict[int, list[Run]] = {}
        for run in self.runs:
            by_number.setdefault(run.number, []).append(run)
        return sum(
            any(one.end_ns is None or one.end_ns > other.start_ns
                for one, other in itertools.pairwise(runs))
            for runs in by_number.values()
        )  # fmt: skip

    def last_attempts(self) -> dict[int, int]:
        """{number: the last attempt that was started}."""
        last: dict[int, int] = {}
        for run in self.runs:
            last[run.number] = max(last.get(run.number, 0), run.attempt)
        return last

    def redelivery_ms(self, kills: Iterable[Kill]) -> list[float]:
        """For each task that a kill hit: how long until its next attempt began."""
        self.look()
        starts = {(run.number, run.attempt): run.start_ns for run in self.runs}
        hits = [kill for kill in kills if kill.hit]
        return [
            (starts[kill.run.number, kill.run.attempt + 1] - kill.before_ns) / 1e6 for kill in hits
        ]


def _has_twins(keys: Sequence[tuple[int, int]]) -> bool:
    return len(set(keys)) != len(keys)


def now_ns() -> int:
    """The clock of the log."""
    return time.monotonic_ns()


def p99(latencies: Sequence[float]) -> float:
    """The 99th percentile (nearest rank); 0 of none."""
    ordered = sorted(latencies)
    return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0


def summary(latencies: Sequence[float]) -> str:
    """Median, 99th percentile and worst of these milliseconds."""
    if not latencies:
        return "no redelivery"
    return (
        f"redelivery of {len(latencies)} tasks: p50 {statistics.median(latencies):.0f} ms, "
        f"p99 {p99(latencies):.0f} ms, worst {max(latencies):.0f} ms"
    )
