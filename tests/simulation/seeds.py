"""Which worlds are run: always the same ones, those that failed once, and new ones."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.simulation.extras import EXTRAS
from tests.simulation.faults import CLASSES, FEATURES, SHAPES
from tests.simulation.world import Trace, World

_FILE = Path(__file__).parent / "seeds.txt"
#: Seeds that follow from a commit begin here, beyond all that people type.
_COMMIT_SEEDS_FROM = 1_000_000


class Case(NamedTuple):
    """A world."""

    seed: int
    #: Faults and features that it goes without.
    off: tuple[str, ...] = ()
    #: Faults, features and shapes that it has whatever its seed says; then it has no others.
    on: tuple[str, ...] = ()
    #: Extras that it has.
    extras: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What replays it."""
        off = f" --off {','.join(self.off)}" if self.off else ""
        on = f" --only {','.join(self.on)}" if self.on else ""
        extras = f" --with {','.join(self.extras)}" if self.extras else ""
        return f"python -m tests.simulation --seed {self.seed}{off}{on}{extras}"

    def world(self, trace: Trace | None = None) -> World:
        """It, at its beginning."""
        off = self.off
        if self.on:
            off = tuple(name for name in (*FEATURES, *CLASSES) if name not in self.on)
        return World(self.seed, off, self.on, trace, self.extras)

    def run(self) -> World:
        """It, at its end; what fails says how to replay it."""
        world = self.world()
        try:
            world.run()
        except Exception as exc:
            exc.add_note(f"replay it: {self.command}")
            raise
        return world


def parse_off(text: str) -> tuple[str, ...]:
    """Names of faults and features, with commas; ``features`` stands for all of those.

    Raises:
        ValueError: there is no such one.
    """
    return _parse(text, "faults or features", (*FEATURES, *CLASSES), {"features": FEATURES})


def parse_only(text: str) -> tuple[str, ...]:
    """Names of faults, features and shapes, with commas; ``features`` stands for all of those.

    Raises:
        ValueError: there is no such one.
    """
    known = (*FEATURES, *CLASSES, *SHAPES)
    return _parse(text, "faults, features or shapes", known, {"features": FEATURES})


def _parse(
    text: str, what: str, known: tuple[str, ...], groups: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """``groups``: {name: all that it stands for}."""
    names: list[str] = []
    for name in filter(None, text.split(",")):
        names += groups.get(name, (name,))
    unknown = [name for name in names if name not in known]
    if unknown:
        there = ", ".join((*groups, *known))
        raise ValueError(f"no such {what}: {', '.join(unknown)}; there are {there}")
    return tuple(names)


def parse_extras(text: str) -> tuple[str, ...]:
    """Names of extras, with commas; ``all`` stands for all of those.

    Raises:
        ValueError: there is no such one.
    """
    return _parse(text, "extras", EXTRAS, {"all": EXTRAS})


def regressions() -> list[Case]:
    """Worlds that failed once: ``seed what was wrong``, see ``parse_case``."""
    lines = _FILE.read_text("utf-8").splitlines()
    heads = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    return [parse_case(head) for head in heads]


def parse_case(head: str) -> Case:
    """A world of ``seed``, ``seed:off,off`` or ``seed:off,off+extra,extra``.

    Raises:
        ValueError: it names what there is not.
    """
    rest, _, extras = head.partition("+")
    seed, _, off = rest.partition(":")
    return Case(int(seed), parse_off(off), extras=parse_extras(extras))


def of_commit(commit: str, count: int) -> list[Case]:
    """Worlds that follow from the id of a commit, so that each commit sees others."""
    digests = (hashlib.sha256(f"{commit} {number}".encode()).digest() for number in range(count))
    return [Case(_COMMIT_SEEDS_FROM + int.from_bytes(digest[:4], "big")) for digest in digests]


def present_commit() -> str:
    """The id of the commit that is checked out, "" where that is not known."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=_FILE.parent, capture_output=True, text=True,
            check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
