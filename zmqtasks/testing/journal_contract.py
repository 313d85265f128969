"""The contract of ``zmqtasks.journals.base`` as tests.

Subclass :class:`JournalContract` and give it a fixture ``make_journal``: a function that
takes a folder and returns a journal that is not open yet. Journals that it makes for the
same folder in one test share their content.

No test sleeps, goes by the clock or needs a plug-in of pytest.
"""

# ruff: noqa: D102 - the names of the tests are sentences

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from zmqtasks.core.marks import OfferMark, given_mark, offers_mark
from zmqtasks.core.owned import (
    MARK_OWNED,
    Durability,
    OwnedRecord,
    Progress,
    dead_mark,
    given_to,
    incoming_from,
)
from zmqtasks.errors import JournalError
from zmqtasks.journals.base import Journal
from zmqtasks.limits import (
    JOURNAL_INHERIT_TASKS,
    JOURNAL_MARK_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
)
from zmqtasks.wire.messages import Kind

#: Makes a journal that is not open yet, in a folder below one that exists.
MakeJournal = Callable[[Path], Journal]

#: A wall clock of the suite, milliseconds since 1970.
NOW_MS = 1_800_000_000_000
KIND = Kind("shop", "tasks.add", "d1", "default")

#: All that a mark can say, and how they are written.
_MARKS = (
    MARK_OWNED,
    incoming_from(b"giver"),
    given_to(b"taker"),
    dead_mark([{"event": "lost", "at_ms": NOW_MS}], "three strikes", NOW_MS),
)
_SEEDS = range(12)
_STEPS_COUNT = 60


def owned(number: int, **changes: Any) -> OwnedRecord:
    """Open task ``number``, with other values where given."""
    record = OwnedRecord(
        task_id(number), KIND, b"\x00body %d" % number, None, 1, 0, Durability.DISK, NOW_MS
    )
    return msgspec.structs.replace(record, **changes)


def task_id(number: int) -> bytes:
    """The 16 bytes of a task id made from a number."""
    return b"suite" + number.to_bytes(11, "big")


class _Model:
    """What a journal must hold, written as plainly as possible."""

    def __init__(self) -> None:
        self.records: dict[bytes, OwnedRecord] = {}

    def commit(self, puts: list[OwnedRecord], progress: list[Progress], drops: list[bytes]) -> None:
        for record in puts:
            self.records.setdefault(record.id, record)
        for change in progress:
            if change.id in self.records:
                record = msgspec.structs.replace(
                    self.records[change.id], attempt=change.attempt, strikes=change.strikes
                )
                for part in ("mark", "ext", "body"):
                    value = getattr(change, part)
                    if value is not None:
                        record = msgspec.structs.replace(record, **{part: value})
                self.records[change.id] = record
        for dropped in drops:
            self.records.pop(dropped, None)


class JournalContract:
    """What every journal must do."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Where the journal of a test is."""
        return tmp_path / "journal"

    @contextmanager
    def opened(self, make_journal: MakeJournal, folder: Path) -> Iterator[Journal]:
        journal = make_journal(folder)
        journal.open()
        try:
            yield journal
        finally:
            journal.close()

    def content(self, make_journal: MakeJournal, folder: Path) -> list[OwnedRecord]:
        """What a journal opened anew loads."""
        with self.opened(make_journal, folder) as journal:
            return list(journal.load())

    # --- what is put comes back -------------------------------------------------------

    def test_a_new_journal_is_empty(self, make_journal: MakeJournal, folder: Path) -> None:
        assert self.content(make_journal, folder) == []

    @pytest.mark.parametrize("sync", [False, True])
    def test_what_is_put_comes_back_as_it_was(
        self, make_journal: MakeJournal, folder: Path, sync: bool
    ) -> None:
        kind = Kind("läden 店", "pkg.mod.tâche'; --", "", 'q"1', (("max", 3), ("x", b"\xff")))
        ext = {"h": {"deep": [1, None, 2.5]}, "p": b"\x00" * 16, "!n": "later"}
        records = [
            owned(2),
            owned(1, kind=kind, body=bytes(range(256)), ext=ext),
            owned(3, body=b"", ext={}, attempt=7, strikes=2, durability=Durability.MEMORY),
            owned(4, kind=Kind("", "", "", ""), written_ms=0, attempt=1 << 40),
            owned(5, mark=incoming_from(b"\x00node"), ext={"a": 1}),
            owned(6, mark=b"\xff" * JOURNAL_MARK_BYTES_MAX),
        ]
        with self.opened(make_journal, folder) as journal:
            journal.commit(records, sync=sync)
            assert list(journal.load()) == records
        loaded = self.content(make_journal, folder)
        assert loaded == records
        assert all(type(record.durability) is Durability for record in loaded)

    def test_order_is_that_of_the_first_put(self, make_journal: MakeJournal, folder: Path) -> None:
        with self.opened(make_journal, folder) as journal:
            journal.commit([owned(9), owned(1)], sync=True)
            journal.commit([owned(5), owned(9), owned(0)], sync=True)
            journal.commit([owned(7)], [Progress(task_id(9), 2, 0)], [task_id(1)], sync=True)
        ids = [record.id for record in self.content(make_journal, folder)]
        assert ids == [task_id(number) for number in (9, 5, 0, 7)]

    def test_the_largest_payload_comes_back(self, make_journal: MakeJournal, folder: Path) -> None:
        large = owned(1, body=random.Random(1).randbytes(PAYLOAD_BYTES_MAX))  # noqa: S311
        with self.opened(make_journal, folder) as journal:
            journal.commit([large, owned(2)], sync=True)
        assert self.content(make_journal, folder) == [large, owned(2)]

    def test_many_tasks_come_back(self, make_journal: MakeJournal, folder: Path) -> None:
        records = [owned(number) for number in range(3_001)]
        with self.opened(make_journal, folder) as journal:
            journal.commit(records, sync=False)
            journal.commit((), (), [record.id for record in records[::3]], sync=False)
        kept = [record for number, record in enumerate(records) if number % 3]
        assert self.content(make_journal, folder) == kept

    # --- what a commit does -----------------------------------------------------------

    def test_what_was_put_first_stands(self, make_journal: MakeJournal, folder: Path) -> None:
        with self.opened(make_journal, folder) as journal:
            journal.commit([owned(1), owned(1, body=b"same commit")], sync=True)
            journal.commit([owned(1, body=b"later", attempt=9)], sync=True)
            assert list(journal.load()) == [owned(1)]

    def test_progress_is_noted_and_the_last_counts(
        self, make_journal: MakeJournal, folder: Path
    ) -> None:
        with self.opened(make_journal, folder) as journal:
            journal.commit([owned(1), owned(2)], [Progress(task_id(2), 2, 1)], sync=True)
            journal.commit((), [Progress(task_id(1), 2, 0), Progress(task_id(1), 3, 1)], sync=True)
            journal.commit((), [Progress(task_id(1), 4, 1)], sync=False)
        expected = [owned(1, attempt=4, strikes=1), owned(2, attempt=2, strikes=1)]
        assert self.content(make_journal, folder) == expected

    @pytest.mark.parametrize("sync", [False, True])
    def test_a_mark_stays_until_another_one_is_noted(
        self, make_journal: MakeJournal, folder: Path, sync: bool
    ) -> None:
        with self.opened(make_journal, folder) as journal:
            puts = [owned(number, mark=mark) for number, mark in enumerate(_MARKS)]
            journal.commit(puts, sync=sync)
            # Progress without a mark leaves alone the one that was put ...
            journal.commit((), [Progress(record.id, 2, 1) for record in puts], sync=sync)
            assert [record.mark for record in journal.load()] == list(_MARKS)
            # ... and one that was noted, also when both come in one commit.
            marked = [
                Progress(record.id, 3, 1, mark)
                for record, mark in zip(puts, reversed(_MARKS), strict=True)
            ]
            journal.commit((), [*marked, Progress(puts[0].id, 4, 1)], sync=sync)
            journal.commit((), [Progress(puts[1].id, 4, 1)], sync=sync)
            journal.commit((), [Progress(puts[2].id, 4, 1, MARK_OWNED)], sync=sync)
        wanted = [*reversed(_MARKS)]
        wanted[2] = MARK_OWNED
        assert self.content(make_journal, folder) == [
            owned(number, attempt=4 if number < 3 else 3, strikes=1, mark=mark)
            for number, mark in enumerate(wanted)
        ]

    @pytest.mark.parametrize("sync", [False, True])
    def test_facts_and_arguments_stay_until_others_are_noted(
        self, make_journal: MakeJournal, folder: Path, sync: bool
    ) -> None:
        mark = given_to(b"taker")
        changes: list[dict[str, Any]] = [
            {"attempt": 2, "ext": {"n": 1, "eta": NOW_MS}},
            {"attempt": 3, "body": b"other arguments"},
            {"attempt": 4, "ext": {"n": 2}},
            {"attempt": 5, "mark": mark},
            {"attempt": 6, "body": b"x" * 100_000},
        ]
        with self.opened(make_journal, folder) as journal:
            journal.commit([owned(number) for number in range(3)], sync=sync)
            for change in changes:
                journal.commit((), [Progress(task_id(1), strikes=1, **change)], sync=sync)
            wanted = owned(
                1, attempt=6, strikes=1, mark=mark, ext={"n": 2}, body=b"x" * 100_000
            )  # fmt: skip
            assert list(journal.load()) == [owned(0), wanted, owned(2)]
            # All in one commit, also with the task itself.
            progress = [Progress(task_id(7), strikes=1, **change) for change in changes]
            journal.commit([owned(7)], progress, sync=sync)
        again = msgspec.structs.replace(wanted, id=task_id(7))
        assert self.content(make_journal, folder) == [owned(0), wanted, owned(2), again]

    def test_a_task_can_be_put_and_marked_at_once(
        self, make_journal: MakeJournal, folder: Path
    ) -> None:
        mark = b"!" * JOURNAL_MARK_BYTES_MAX
        with self.opened(make_journal, folder) as journal:
            journal.commit([owned(1), owned(2)], [Progress(task_id(1), 1, 3, mark)], sync=True)
        assert self.content(make_journal, folder) == [owned(1, strikes=3, mark=mark), owned(2)]

    def test_a_task_put_again_after_it_was_dropped_is_new(
        self, make_journal: MakeJournal, folder: Path
    ) -> None:
        with self.opened(make_journal, folder) as journal:
            journal.commit([owned(1)], [Progress(task_id(1), 5, 2, given_to(b"n"))], sync=True)
            journal.commit((), (), [task_id(1)], sync=True)
            journal.commit([owned(1, body=b"new")], sync=True)
        assert self.content(make_journal, folder) == [owned(1, body=b"new")]

    def test_put_and_dropped_at_once_leaves_nothing(
        self, make_journal: MakeJournal, folder: Path
    ) -> None:
        with self.opened(make_journal, folder) as journal:
            change = Progress(task_id(1), 2, 0)
            journal.commit([owned(1), owned(2)], [change], [task_id(1)], sync=True)
            assert list(journal.load()) == [owned(2)]

    def test_unknown_ids_are_no_error(self, make_journal: MakeJournal, folder: Path) -> None:
        with self.opened(make_journal, folder) as journal:
            journal.commit((), [Progress(task_id(1), 2, 0)], [task_id(2)] * 2, sync=True)
            assert list(journal.load()) == []

    def test_an_empty_commit_is_no_error(self, make_journal: MakeJournal, folder: Path) -> None:
        with self.opened(make_journal, folder) as journal:
            journal.commit(sync=False)
            journal.commit([owned(1)], sync=False)
            journal.commit(sync=True)
            journal.commit(sync=True)
        assert self.content(make_journal, folder) == [owned(1)]

    @pytest.mark.parametrize("seed", _SEEDS)
    def test_it_agrees_with_a_plain_model(
        self, make_journal: MakeJournal, folder: Path, seed: int
    ) -> None:
        choice = random.Random(seed)  # noqa: S311 - a test's choices, not a secret
        model = _Model()
        journal = make_journal(folder)
        journal.open()
        for step in range(_STEPS_COUNT):
            ids = [choice.randrange(10) for _ in range(8)]
            puts = [
                owned(number, body=b"%d" % step, mark=choice.choice(_MARKS))
                for number in ids[: choice.randrange(4)]
            ]
            progress = [
                Progress(
                    task_id(number),
                    step,
                    choice.randrange(3),
                    choice.choice((None, *_MARKS)),
                    choice.choice((None, None, {"n": step})),
                    choice.choice((None, None, b"other %d" % step)),
                )
                for number in ids[4 : 4 + choice.randrange(3)]
            ]
            drops = [task_id(number) for number in ids[7 : 7 + choice.randrange(2)]]
            journal.commit(puts, progress, drops, sync=choice.random() < 0.5)
            model.commit(puts, progress, drops)
            if choice.random() < 0.2:
                journal.close()
                journal = make_journal(folder)
                journal.open()
            assert list(journal.load()) == list(model.records.values())
        journal.close()

    # --- taking over ------------------------------------------------------------------

    def test_another_journal_is_taken_over_as_a_whole(
        self, make_journal: MakeJournal, folder: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        count = JOURNAL_INHERIT_TASKS * 2 + 7
        with self.opened(make_journal, other) as journal:
            journal.commit([owned(number) for number in range(count)], sync=True)
            changes = [Progress(task_id(3), 4, 2), Progress(task_id(5), 1, 0, given_to(b"n"))]
            journal.commit((), changes, [task_id(0)], sync=False)
        with self.opened(make_journal, folder) as journal:
            journal.commit([owned(5_000)], sync=True)
            taken = [record for piece in journal.inherit(other) for record in piece]
            assert taken[2] == owned(3, attempt=4, strikes=2)
            assert taken[4] == owned(5, mark=given_to(b"n"))
            assert [record.id for record in taken] == [task_id(n) for n in range(1, count)]
            assert list(journal.inherit(other)) == []
        assert self.content(make_journal, folder) == [owned(5_000), *taken]
        assert self.content(make_journal, other) == []

    def test_an_interrupted_takeover_goes_on_where_it_was(
        self, make_journal: MakeJournal, folder: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        count = JOURNAL_INHERIT_TASKS * 3
        with self.opened(make_journal, other) as journal:
            journal.commit([owned(number) for number in range(count)], sync=True)
        with self.opened(make_journal, folder) as journal:
            takeover = journal.inherit(other)
            first = next(takeover)
            # Settled between the pieces, and the process ends before the rest came over.
            journal.commit((), (), [record.id for record in first], sync=True)
            takeover.close()  # type: ignore[attr-defined]
        with self.opened(make_journal, folder) as journal:
            rest = [record for piece in journal.inherit(other) for record in piece]
            assert [record.id for record in rest] == [
                task_id(number) for number in range(len(first), count)
            ]
            assert list(journal.load()) == rest

    def test_of_a_task_that_both_hold_the_later_mark_counts(
        self, make_journal: MakeJournal, folder: Path, tmp_path: Path
    ) -> None:
        us, them, others = b"node-one", b"node-two", b"node-six"
        offered = offers_mark([OfferMark(them, us, is_lasting=True)])
        ours = [owned(number, mark=offered) for number in range(4)]
        ours += [owned(4), owned(5, mark=given_mark(them, us)), owned(6)]
        with self.opened(make_journal, folder) as journal:
            journal.commit(ours, sync=True)
        theirs = [
            owned(1, mark=given_mark(us, them), attempt=3),
            owned(2, strikes=1),
            owned(3, mark=given_mark(others, them)),
            owned(4, mark=given_mark(us, them)),
            owned(5, mark=offers_mark([OfferMark(us, them, is_lasting=True)])),
            owned(7),
        ]
        with self.opened(make_journal, tmp_path / "other") as journal:
            journal.commit(theirs, sync=True)
        merged = [
            ours[0],
            owned(1, attempt=3),
            owned(2, strikes=1),
            theirs[2],
            *(owned(number) for number in range(4, 8)),
        ]
        with self.opened(make_journal, folder) as journal:
            # They are told as they were there.
            assert list(journal.inherit(tmp_path / "other")) == [theirs]
            assert list(journal.load()) == merged
        with self.opened(make_journal, folder) as journal:
            assert list(journal.load()) == merged

    def test_of_a_task_that_both_hold_the_later_attempt_has_the_facts_and_arguments(
        self, make_journal: MakeJournal, folder: Path, tmp_path: Path
    ) -> None:
        ours = [owned(number, ext={"c": b"same", "n": 1}, attempt=2) for number in range(4)]
        with self.opened(make_journal, folder) as journal:
            journal.commit(ours, sync=True)
        theirs = [
            owned(0, ext={"c": b"same"}, attempt=1, body=b"old"),
            owned(1, ext={"c": b"same"}, attempt=2, body=b"old"),
            owned(2, ext={"c": b"same", "n": 2}, attempt=3, body=b"new"),
            owned(3, ext={"c": b"other", "n": 2}, attempt=3, body=b"other content"),
        ]
        with self.opened(make_journal, tmp_path / "other") as journal:
            journal.commit(theirs, sync=True)
        with self.opened(make_journal, folder) as journal:
            assert list(journal.inherit(tmp_path / "other")) == [theirs]
        changed = msgspec.structs.replace(ours[3], attempt=3)
        assert self.content(make_journal, folder) == [*ours[:2], theirs[2], changed]

    def test_taking_over_nothing_is_no_error(
        self, make_journal: MakeJournal, folder: Path, tmp_path: Path
    ) -> None:
        with self.opened(make_journal, folder) as journal:
            assert list(journal.inherit(tmp_path / "never was")) == []
            with self.opened(make_journal, tmp_path / "empty"):
                pass
            assert list(journal.inherit(tmp_path / "empty")) == []

    # --- opening and closing ----------------------------------------------------------

    def test_a_second_open_does_nothing(self, make_journal: MakeJournal, folder: Path) -> None:
        with self.opened(make_journal, folder) as journal:
            journal.commit([owned(1)], sync=True)
            journal.open()
            assert list(journal.load()) == [owned(1)]

    def test_a_second_close_does_nothing(self, make_journal: MakeJournal, folder: Path) -> None:
        journal = make_journal(folder)
        journal.close()
        journal.open()
        journal.close()
        journal.close()

    def test_a_closed_journal_refuses_and_opens_again(
        self, make_journal: MakeJournal, folder: Path
    ) -> None:
        journal = make_journal(folder)
        journal.open()
        journal.commit([owned(1)], sync=False)
        journal.close()
        with pytest.raises(JournalError):
            journal.commit([owned(2)], sync=True)
        with pytest.raises(JournalError):
            list(journal.load())
        with pytest.raises(JournalError):
            list(journal.inherit(folder.with_name("other")))
        journal.open()
        assert list(journal.load()) == [owned(1)]
        journal.close()
