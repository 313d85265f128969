"""``python -m tests.simulation``: run simulated worlds.

::

    python -m tests.simulation --seed 4711          one world, a line for each event
    python -m tests.simulation --seeds 0:1000       many, quietly
    python -m tests.simulation --seeds 0:10000 --jobs 2
    python -m tests.simulation --shrink 4711        which fault classes does it need to fail?
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from tests.simulation.faults import CLASSES, FEATURES
from tests.simulation.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay one world")
    parser.add_argument("--seeds", help="run the worlds A:B")
    parser.add_argument("--shrink", type=int, help="smallest set of faults that still fails")
    parser.add_argument("--off", default="", help="fault classes to leave out, with commas")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the worlds (1)")
    parser.add_argument("--quiet", action="store_true", help="no line for each event")
    args = parser.parse_args()
    logging.disable()  # what fails in these worlds fails by design
    off = [name for name in args.off.split(",") if name]
    if args.shrink is not None:
        return _shrink(args.shrink)
    if args.seeds:
        first, last = args.seeds.split(":")
        return _many(range(int(first or 0), int(last)), off, args.jobs)
    return _one(args.seed or 0, off, quiet=args.quiet)


def _one(seed: int, off: list[str], *, quiet: bool) -> int:
    world = World(seed, off, None if quiet else print)
    failure = _failure(world)
    print(f"seed {seed}: {world.events_count} events, {world.now} ms, hash {world.digest:08x}")
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


def _some(seeds: range, off: list[str]) -> Tally:
    fired: Counter[str] = Counter()
    failed: dict[int, str] = {}
    events = virtual_ms = 0
    for seed in seeds:
        world = World(seed, off)
        failure = _failure(world)
        if failure:
            failed[seed] = failure.strip().splitlines()[-1]
            print(f"seed {seed}: {failed[seed]}", flush=True)
        fired += world.faults.fired
        events += world.events_count
        virtual_ms += world.now
    return Tally(fired, failed, events, virtual_ms)


def _many(seeds: range, off: list[str], jobs: int) -> int:
    start_s = time.perf_counter()
    if jobs > 1:
        parts = [seeds[part :: jobs * 8] for part in range(jobs * 8)]
        with ProcessPoolExecutor(jobs) as pool:
            tallies = list(pool.map(_some, parts, [off] * len(parts)))
    else:
        tallies = [_some(seeds, off)]
    took_s = time.perf_counter() - start_s
    failed = sorted(seed for tally in tallies for seed in tally.failed)
    fired = sum((tally.fired for tally in tallies), Counter[str]())
    print(
        f"{len(seeds)} worlds, {sum(tally.events for tally in tallies)} events, "
        f"{sum(tally.virtual_ms for tally in tallies) / 1000:.0f} s of virtual time in "
        f"{took_s:.1f} s; {len(failed)} failed: {failed}"
    )
    for name in (*CLASSES, *FEATURES):
        print(f"  {name}: {fired[name]}")
    return 1 if failed else 0


def _shrink(seed: int) -> int:
    off: list[str] = []
    if not _failure(World(seed)):
        print(f"seed {seed} does not fail")
        return 0
    for name in (*FEATURES, *CLASSES):
        if _failure(World(seed, [*off, name])):
            off.append(name)
    needed = [name for name in (*FEATURES, *CLASSES) if name not in off]
    print(f"seed {seed} still fails with {needed or 'no faults at all'} (--off {','.join(off)})")
    print(_failure(World(seed, off)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
