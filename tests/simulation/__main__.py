"""``python -m tests.simulation``: run simulated worlds.

::

    python -m tests.simulation --seed 4711          one world, a line for each event
    python -m tests.simulation --seeds 0:1000       many, quietly
    python -m tests.simulation --seeds 0:10000 --jobs 2
    python -m tests.simulation --seeds 0:1000 --only crash,durable      worlds of one kind
    python -m tests.simulation --seeds 0:1000 --with all                with times, retries ...
    python -m tests.simulation --shrink 4711        which fault classes does it need to fail?
    python -m tests.simulation --commit HEAD        those that follow from a commit
    python -m tests.simulation --check-determinism 0:200
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from tests.simulation.determinism import HASH_SEEDS, RUNS, differing, print_digests
from tests.simulation.faults import CLASSES, FEATURES
from tests.simulation.seeds import (
    Case,
    of_commit,
    parse_extras,
    parse_off,
    parse_only,
    present_commit,
)
from tests.simulation.world import World

#: As many as each commit sees in CI.
COMMIT_SEEDS = 200


def main() -> int:
    args = _parse()
    logging.disable()  # what fails in these worlds fails by design
    if args.digests:
        print_digests(_range(args.digests))
        return 0
    if args.check_determinism:
        return _check_determinism(_range(args.check_determinism), args.jobs)
    if args.shrink is not None:
        return _shrink(args.shrink, args.extras)
    kind = args.off, args.only, args.extras
    if args.commit:
        commit = present_commit() if args.commit == "HEAD" else args.commit
        cases = of_commit(commit, COMMIT_SEEDS)
        return _many([Case(case.seed, *kind) for case in cases], args.jobs)
    if args.seeds:
        cases = [Case(seed, *kind) for seed in _range(args.seeds)]
        return _many(cases, args.jobs)
    return _one(Case(args.seed or 0, *kind), quiet=args.quiet)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="replay one world")
    parser.add_argument("--seeds", metavar="A:B", help="run these worlds")
    parser.add_argument("--commit", help="run the worlds that follow from this commit's full id")
    parser.add_argument("--shrink", type=int, metavar="SEED",
                        help="smallest set of faults and features that still fails")  # fmt: skip
    parser.add_argument("--check-determinism", metavar="A:B",
                        help="are these worlds the same in each run?")  # fmt: skip
    parser.add_argument("--digests", metavar="A:B", help=argparse.SUPPRESS)
    parser.add_argument("--off", type=_told(parse_off), default=(),
                        help="faults and features to leave out, with commas")  # fmt: skip
    parser.add_argument("--only", type=_told(parse_only), default=(),
                        help="faults, features and shapes to have, and no others")  # fmt: skip
    parser.add_argument("--with", dest="extras", type=_told(parse_extras), default=(),
                        help="extras to have, with commas, or all")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the worlds (1)")
    parser.add_argument("--quiet", action="store_true", help="no line for each event")
    return parser.parse_args()


def _told(parse: Callable[[str], tuple[str, ...]]) -> Callable[[str], tuple[str, ...]]:
    """``parse`` with an error of which argparse shows the text."""

    def parsed(text: str) -> tuple[str, ...]:
        try:
            return parse(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from exc

    return parsed


def _range(text: str) -> range:
    first, last = text.split(":")
    return range(int(first or 0), int(last))


def _check_determinism(seeds: range, jobs: int) -> int:
    start_s = time.perf_counter()
    failed = differing(seeds, jobs)
    print(
        f"{len(seeds)} worlds, each {RUNS} times with hash seeds {', '.join(HASH_SEEDS)}, in "
        f"{time.perf_counter() - start_s:.1f} s; {len(failed)} differ: {failed}"
    )
    return 1 if failed else 0


def _one(case: Case, *, quiet: bool) -> int:
    world = case.world(None if quiet else print)
    failure = _failure(world)
    print(f"seed {case.seed}: {world.events_count} events, {world.now} ms, hash {world.digest:08x}")
    print("features:", ", ".join(world.faults.features))
    print("faults:", ", ".join(f"{name} {n}" for name, n in sorted(world.faults.fired.items())))
    if failure:
        print(failure)
    return 1 if failure else 0


def _failure(world: World) -> str:
    try:
        world.run()
    except Exception:  # noqa: BLE001 - whatever a broken machine raises is a finding
        return traceback.format_exc()
    return ""


class Tally(NamedTuple):
    """What came of some worlds."""

    fired: Counter[str]
    #: {seed: the last line of what went wrong}.
    failed: dict[int, str]
    events: int
    virtual_ms: int


def _some(cases: Sequence[Case]) -> Tally:
    fired: Counter[str] = Counter()
    failed: dict[int, str] = {}
    events = virtual_ms = 0
    for case in cases:
        world = case.world()
        failure = _failure(world)
        if failure:
            failed[case.seed] = failure.strip().splitlines()[-1]
            print(f"{case.command}\n    {failed[case.seed]}", flush=True)
        fired += world.faults.fired
        events += world.events_count
        virtual_ms += world.now
    return Tally(fired, failed, events, virtual_ms)


def _many(cases: Sequence[Case], jobs: int) -> int:
    start_s = time.perf_counter()
    if jobs > 1:
        parts = [cases[part :: jobs * 8] for part in range(jobs * 8)]
        with ProcessPoolExecutor(jobs) as pool:
            tallies = list(pool.map(_some, parts))
    else:
        tallies = [_some(cases)]
    took_s = time.perf_counter() - start_s
    failed = sorted(seed for tally in tallies for seed in tally.failed)
    fired = sum((tally.fired for tally in tallies), Counter[str]())
    print(
        f"{len(cases)} worlds, {sum(tally.events for tally in tallies)} events, "
        f"{sum(tally.virtual_ms for tally in tallies) / 1000:.0f} s of virtual time in "
        f"{took_s:.1f} s; {len(failed)} failed: {failed}"
    )
    for name in (*CLASSES, *FEATURES, *cases[0].extras):
        print(f"  {name}: {fired[name]}")
    return 1 if failed else 0


def _shrink(seed: int, extras: Sequence[str]) -> int:
    off: list[str] = []
    if not _failure(World(seed, extras=extras)):
        print(f"seed {seed} does not fail")
        return 0
    for name in (*FEATURES, *CLASSES):
        if _failure(World(seed, [*off, name], extras=extras)):
            off.append(name)
    needed = [name for name in (*FEATURES, *CLASSES) if name not in off]
    print(f"seed {seed} still fails with {needed or 'no faults at all'} (--off {','.join(off)})")
    print(_failure(World(seed, off, extras=extras)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
