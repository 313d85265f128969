"""Journals on a disk whose n-th call fails, for many n: what was accepted is there.

``python -m tests.chaos.journal_sweep SCENARIO FOLDER FIRST LAST STEP ERRNO FOR_EVER``, with
``tests/support/faulty_disk.c`` preloaded. Each n gets a forked process that works until the
scenario ends or the disk stops it, and is then gone without closing anything. After it the
disk works again, and what is found must be one of the states that were promised.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import sqlite3
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from tests.support.faulty_disk import FaultyDisk
from zmqtasks.core.owned import OwnedRecord, Progress, dead_mark, given_to, merged
from zmqtasks.errors import JournalCorrupt, JournalError, JournalFull
from zmqtasks.journals import sqlite, sqlite_log
from zmqtasks.journals.inspection import look_into, mend
from zmqtasks.journals.slots import JournalSlots
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.testing.journal_contract import owned, task_id

_T = TypeVar("_T")
#: Limits of a journal for which a few commits meet all that a long life does.
_SMALL = {
    (sqlite_log, "JOURNAL_CHECKPOINT_PAGES"): 10,
    (sqlite, "JOURNAL_SHRINK_COMMITS"): 4,
    (sqlite, "JOURNAL_FREE_PAGES_MAX"): 2,
    (sqlite, "JOURNAL_CLOSED_FREE_PAGES_MAX"): 1,
    (sqlite, "JOURNAL_REWRITE_PAGES_MAX"): 12,
    (sqlite, "JOURNAL_INHERIT_TASKS"): 2,
}
#: How often what failed is tried again, as the contract allows.
_TRIES = 3


class GaveUp(Exception):
    """The disk does not work any longer."""


class Oracle:
    """What a journal may hold."""

    def __init__(self) -> None:
        self.held: dict[bytes, OwnedRecord] = {}
        #: States that a restart may find, since a commit towards them failed.
        self.doubtful: list[dict[bytes, OwnedRecord]] = []
        self.failures = 0

    def commit(
        self,
        journal: SqliteJournal,
        puts: Sequence[OwnedRecord],
        progress: Sequence[Progress] = (),
        drops: Sequence[bytes] = (),
        *,
        sync: bool,
    ) -> None:
        """Commit it, and follow what came of it."""
        after = dict(self.held)
        for record in puts:
            after.setdefault(record.id, record)
        for change in merged(progress).values():
            if change.id in after:
                known = after[change.id]
                after[change.id] = msgspec.structs.replace(
                    known,
                    attempt=change.attempt,
                    strikes=change.strikes,
                    mark=known.mark if change.mark is None else change.mark,
                )
        for dropped in drops:
            after.pop(dropped, None)
        try:
            journal.commit(puts, progress, drops, sync=sync)
        except JournalFull:
            self.failures += 1  # certain: nothing of it is there
        except JournalCorrupt:
            raise
        except JournalError:
            self.failures += 1
            self.doubtful.append(after)
        else:
            self.held, self.doubtful = after, []

    @property
    def allowed(self) -> list[list[OwnedRecord]]:
        """What a restart may find."""
        return [list(state.values()) for state in (self.held, *self.doubtful)]

    def found(self, records: list[OwnedRecord]) -> None:
        """A restart found this."""
        assert records in self.allowed, difference(records, self.allowed)
        self.held, self.doubtful = {record.id: record for record in records}, []


def difference(found: list[OwnedRecord], allowed: list[list[OwnedRecord]]) -> str:
    """Why none of the allowed states was found, in short."""

    def short(records: list[OwnedRecord]) -> str:
        return str([(int.from_bytes(r.id[5:], "big"), r.attempt, r.mark[:9]) for r in records])

    return f"found {short(found)}\ninstead of {' or '.join(map(short, allowed))}"


def trying(function: Callable[[], _T]) -> _T:
    """Call it again when the disk fails; damage is never an answer to that."""
    for _ in range(_TRIES):
        try:
            return function()
        except JournalCorrupt:
            raise
        except JournalError:
            continue
    raise GaveUp


def opened(folder: Path) -> SqliteJournal:
    journal = SqliteJournal(folder)
    trying(journal.open)
    return journal


# --- scenarios: (make what is there, work on it, look at it) ----------------------------------


def commits(folder: Path) -> list[list[OwnedRecord]]:
    """An owner's life: tasks come, progress and settle; it restarts once."""
    oracle = Oracle()
    with contextlib.suppress(GaveUp):
        live(oracle, folder)
    return oracle.allowed


def live(oracle: Oracle, folder: Path) -> None:
    """The first half of its life, a restart, and the second half."""
    journal = opened(folder)
    work_on(oracle, journal, range(4, 11))
    try:
        journal.close()
    except JournalError:
        oracle.failures += 1
    journal = opened(folder)
    oracle.found(trying(lambda: list(journal.load())))
    work_on(oracle, journal, range(11, 16))
    # Then its file is written anew.
    oracle.commit(journal, (), (), list(oracle.held), sync=False)
    oracle.commit(journal, [owned(200), owned(201)], sync=True)
    # Whoever has it open sees what was accepted, and nothing of what failed.
    seen = trying(lambda: list(journal.load()))
    assert seen == oracle.allowed[0], difference(seen, oracle.allowed[:1])


def work_on(oracle: Oracle, journal: SqliteJournal, numbers: range) -> None:
    large = bytes(9_000)
    for number in numbers:
        progress = [
            Progress(task_id(number - 1), 2, 1, given_to(b"n") if number % 4 == 1 else None),
            Progress(task_id(5), 1, 3, dead_mark([{"event": "lost"}], "why", number)),
        ]
        oracle.commit(
            journal,
            [owned(number, body=large), owned(100 + number)],
            progress if number % 2 else (),
            [task_id(number - 3)] if number % 3 == 0 else (),
            sync=number % 4 != 3,
        )


def commits_found(folder: Path, allowed: list[list[OwnedRecord]]) -> list[OwnedRecord]:
    """One of these is what a process finds that starts now."""
    journal = SqliteJournal(folder)
    journal.open()
    found = list(journal.load())
    assert found in allowed, difference(found, allowed)
    journal.close()
    return found


def make_slots(folder: Path) -> None:
    """A slot left behind, and one for whoever takes it over."""
    slots = JournalSlots(folder)
    for numbers in (range(7), range(100, 103)):
        slot = slots.claim_free(only_empty=True)
        journal = SqliteJournal(slot.journal_folder)
        journal.open()
        records = [owned(number, mark=given_to(b"n") if number % 3 else b"") for number in numbers]
        journal.commit(records, sync=True)
        journal.close()
        slot.release()


class Settled(NamedTuple):
    """What a process knows of the tasks that it has dropped."""

    surely: set[bytes]
    maybe: set[bytes]


def takeover(folder: Path) -> Settled:
    """A node starts in its slot, adopts another one and settles tasks of both."""
    slots = JournalSlots(folder)
    told = Settled(set(), set())
    try:
        mine = trying(lambda: slots.claim(1))
        assert mine is not None
        journal = opened(mine.journal_folder)
        trying(mine.inherited)
        for moved in trying(lambda: slots.take_over(0, mine)):
            trying(mine.heir_of)
            for _ in range(_TRIES):
                try:
                    for piece in journal.inherit(moved):
                        drops = [piece[0].id]
                        told.maybe.update(drops)
                        trying(partial(journal.commit, (), (), drops, sync=True))
                        told.surely.update(drops)
                    break
                except JournalCorrupt:
                    raise
                except JournalError:
                    continue  # begun again, it goes on with what is left
    except GaveUp:
        pass
    return told


def takeover_found(folder: Path, told: Settled) -> None:
    held: dict[bytes, int] = {}
    heirs: dict[bytes, int] = {}
    slots = JournalSlots(folder)
    for number in (0, 1):
        slot = slots.claim(number)
        assert slot is not None
        for node in (slot.node, *slot.heir_of()):
            assert node not in heirs, "two slots have the tasks of one node"
            heirs[node] = number
        journal = SqliteJournal(slot.journal_folder)
        journal.open()
        for moved in slot.inherited():
            for _ in journal.inherit(moved):
                pass
        for record in journal.load():
            assert record.id not in held, f"{record.id!r} is in both slots"
            held[record.id] = number
        journal.close()
    expected = {task_id(number) for number in (*range(7), *range(100, 103))}
    assert expected - told.maybe <= set(held) <= expected - told.surely, (sorted(held), told)
    # Whoever has the tasks answers for the node that had them.
    former = bytes.fromhex(json.loads((folder / "nodes").read_text())[0])
    assert {number for task, number in held.items() if task < task_id(100)} <= {heirs[former]}


def make_damaged(folder: Path) -> None:
    """A slot with a journal that has lost a row."""
    slot = JournalSlots(folder).claim_free()
    journal = SqliteJournal(slot.journal_folder)
    journal.open()
    journal.commit([owned(number, body=bytes(3_000)) for number in range(20)], sync=True)
    journal.commit((), [Progress(task_id(3), 1, 0, given_to(b"n"))], sync=True)
    journal.close()
    db = sqlite3.connect(slot.journal_folder / "tasks.db")
    with db:
        db.execute("DELETE FROM tasks WHERE seq = 9")
    db.close()
    slot.release()


def salvaged(folder: Path) -> None:
    """A person has it salvaged."""
    with contextlib.suppress(GaveUp):
        trying(lambda: mend(folder / "0"))


def salvaged_found(folder: Path, told: None) -> None:
    del told
    (report,) = look_into(folder / "0").journals
    # Still damaged, or mended: what can be saved is the same.
    assert report.open_count == 19, report
    mend(folder / "0")
    slot = JournalSlots(folder).claim(0)
    assert slot is not None
    journal = SqliteJournal(slot.journal_folder)
    journal.open()
    found = {record.id: record.mark for record in journal.load()}
    journal.close()
    assert len(found) == 19
    assert found[task_id(3)] == given_to(b"n")


class Scenario(NamedTuple):
    """How one is made, what is done, and what must be found after it."""

    make: Callable[[Path], None]
    work: Callable[[Path], Any]
    look: Callable[[Path, Any], object]


SCENARIOS = {
    "commits": Scenario(lambda folder: None, commits, commits_found),
    "takeover": Scenario(make_slots, takeover, takeover_found),
    "salvage": Scenario(make_damaged, salvaged, salvaged_found),
}


# --- one n ------------------------------------------------------------------------------------


def forked(work: Callable[[], _T]) -> _T:
    """What a process returns that then ends without closing anything."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with os.fdopen(writing, "wb") as file:
                pickle.dump(work(), file)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = file.read()
    os.waitpid(pid, 0)
    assert answer, "it ended with an error"
    return cast("_T", pickle.loads(answer))


def sweep(name: str, folder: Path, numbers: range, error: int, *, for_ever: bool) -> int:
    """Try all of these; how many were reached by the scenario."""
    scenario = SCENARIOS[name]
    disk = FaultyDisk()
    template = folder.with_name("template")
    scenario.make(template)
    if name == "takeover":
        nodes = [json.loads((template / str(n) / "identity").read_text())["id"] for n in (0, 1)]
        (template / "nodes").write_text(json.dumps(nodes))
    reached = 0
    for nth in numbers:
        if template.exists():
            shutil.copytree(template, folder)

        def work(nth: int = nth) -> tuple[Any, bool]:
            disk.fail(nth, error, for_ever=for_ever)
            told = scenario.work(folder)
            return told, disk.calls >= nth

        try:
            told, was_reached = forked(work)
            reached += was_reached
            scenario.look(folder, told)
        except BaseException:
            print(f"{name}: call {nth} fails with errno {error}, for ever: {for_ever}")
            raise
        shutil.rmtree(folder, ignore_errors=True)
        if not was_reached:
            break
    return reached


def main() -> None:
    """See the module."""
    scenario, folder, first, last, step, error, for_ever = sys.argv[1:]
    for (module, name), value in _SMALL.items():
        assert hasattr(module, name)
        setattr(module, name, value)
    numbers = range(int(first), int(last) + 1, int(step))
    print(sweep(scenario, Path(folder), numbers, int(error), for_ever=for_ever == "1"))


if __name__ == "__main__":
    main()
