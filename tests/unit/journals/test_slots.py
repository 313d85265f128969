"""Slots: claims, identities, what was left behind, taking it over, forks, tmpfs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from zmqtasks.core.owned import (
    MARK_OWNED,
    OwnedRecord,
    Progress,
    dead_mark,
    given_to,
    incoming_from,
)
from zmqtasks.errors import JournalCorrupt, JournalError
from zmqtasks.ids import EPOCH_MAX
from zmqtasks.journals import slots as module
from zmqtasks.journals.slots import JournalSlots, LeftBehind, Slot, is_lasting
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.testing.journal_contract import owned, task_id


@pytest.fixture
def slots(tmp_path: Path) -> JournalSlots:
    return JournalSlots(tmp_path / "journal")


def put(slot: Slot, *numbers: int) -> None:
    journal = SqliteJournal(slot.journal_folder)
    journal.open()
    journal.commit([owned(number) for number in numbers], sync=True)
    journal.close()


def merged(slot: Slot) -> list[OwnedRecord]:
    """What the owner of a slot has after a start."""
    journal = SqliteJournal(slot.journal_folder)
    journal.open()
    for folder in slot.inherited():
        for _ in journal.inherit(folder):
            pass
    try:
        return list(journal.load())
    finally:
        journal.close()


# --- claiming -------------------------------------------------------------------------------


def test_each_claim_gets_a_slot_of_its_own(slots: JournalSlots) -> None:
    claimed = [slots.claim_free() for _ in range(3)]
    assert [slot.number for slot in claimed] == [0, 1, 2]
    assert len({slot.node for slot in claimed}) == 3
    claimed[1].release()
    claimed[1].release()
    assert slots.claim_free().number == 1
    assert slots.claim(0) is None
    claimed[0].release()
    again = slots.claim(0)
    assert again is not None
    assert again.number == 0


def test_the_node_stays_and_the_epoch_grows_with_each_claim(slots: JournalSlots) -> None:
    first = slots.claim_free()
    assert first.epoch == 1
    lives = [(first.node, 1)]
    for _ in range(3):
        first.release()
        first = slots.claim_free()
        lives.append((first.node, first.epoch))
    assert lives == [(first.node, epoch) for epoch in (1, 2, 3, 4)]


@pytest.mark.parametrize("content", ["", "{", '{"id": "00", "epoch": 3}', '{"id": "zz", "epoch"}'])
def test_an_identity_that_cannot_be_read_gives_a_new_node(
    slots: JournalSlots, content: str
) -> None:
    slot = slots.claim_free()
    slot.release()
    (slot.folder / "identity").write_text(content)
    again = slots.claim_free()
    assert again.node != slot.node
    assert again.epoch == 1


def test_a_node_whose_epochs_are_used_up_becomes_another(slots: JournalSlots) -> None:
    slot = slots.claim_free()
    slot.release()
    (slot.folder / "identity").write_text(
        f'{{"id": "{slot.node.hex()}", "epoch": {EPOCH_MAX - 1}}}'
    )
    last = slots.claim_free()
    assert (last.node, last.epoch) == (slot.node, EPOCH_MAX)
    last.release()
    fresh = slots.claim_free()
    assert fresh.node != slot.node
    assert fresh.epoch == 1
    assert fresh.heir_of() == [slot.node]


def test_one_that_wants_an_empty_slot_passes_over_tasks(slots: JournalSlots) -> None:
    slot, other = slots.claim_free(), slots.claim_free()
    put(slot, 1)
    put(other)
    slot.release()
    other.release()
    empty = slots.claim_free(only_empty=True)
    assert empty.number == 1
    assert slots.claim_free(only_empty=True).number == 2
    assert slots.claim_free().number == 0


def test_a_script_has_its_own_id_in_an_empty_slot_and_leaves_it_there(slots: JournalSlots) -> None:
    node = slots.claim_free()
    node.release()
    script = slots.claim_free(only_empty=True, node=b"a script")
    assert (script.number, script.node, script.epoch) == (0, b"a script", 1)
    assert script.heir_of() == [node.node], "nobody else knows that its tasks have ended"
    put(script, 1)
    script.release()
    heir = slots.claim_free()
    assert (heir.number, heir.node, heir.epoch) == (0, b"a script", 2)
    assert merged(heir) == [owned(1)]
    assert heir.heir_of() == [node.node], "but not of the script: it is that node now"


def test_there_is_an_end_of_slots(slots: JournalSlots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOURNAL_SLOTS_MAX", 2)
    held = [slots.claim_free(), slots.claim_free()]
    with pytest.raises(JournalError, match="all 2 journals"):
        slots.claim_free()
    held[0].release()
    assert slots.claim_free().number == 0


def test_other_names_in_the_folder_are_left_alone(slots: JournalSlots, tmp_path: Path) -> None:
    (tmp_path / "journal" / "notes").mkdir(parents=True)
    (tmp_path / "journal" / "٣").mkdir()
    assert slots.claim_free().number == 0
    assert slots.left_behind() == []


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError):
        JournalSlots(tmp_path / "file").claim_free()
    assert JournalSlots(tmp_path / "none").left_behind() == []
    with pytest.raises(JournalError):
        JournalSlots(tmp_path / "none").claim(7)


def test_a_slot_without_tasks_is_idle_when_nobody_has_had_it_for_long(tmp_path: Path) -> None:
    patient, hasty = (JournalSlots(tmp_path / "journal", idle_s=idle_s) for idle_s in (3_600, 0))
    slot, mine = hasty.claim_free(), hasty.claim_free()
    for one in (slot, mine):
        journal = SqliteJournal(one.journal_folder)
        journal.open()
        journal.close()
    for slots in (patient, hasty):
        assert slots.left_behind() == []
        assert slots.idle() == [], "both are in use"
    slot.release()
    for slots in (patient, hasty):
        assert slots.left_behind() == []
    assert (patient.idle(), hasty.idle()) == ([], [0])
    again = patient.claim(0)
    assert again is not None
    assert hasty.take_over(0, mine, even_empty=True) == [], "its node is back"
    assert hasty.left_behind() == []
    assert hasty.idle() == []
    again.release()
    assert hasty.left_behind() == []
    assert hasty.take_over(0, mine) == []
    assert len(hasty.take_over(0, mine, even_empty=True)) == 1
    assert mine.heir_of() == [slot.node]


# --- the life of a process ------------------------------------------------------------------

_HOLDER = """
import sys
from pathlib import Path
from zmqtasks.journals.slots import JournalSlots
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.testing.journal_contract import owned
slot = JournalSlots(Path(sys.argv[1])).claim_free()
journal = SqliteJournal(slot.journal_folder)
journal.open()
journal.commit([owned(1), owned(2)], sync=True)
print(slot.number, slot.epoch, flush=True)
sys.stdin.read()
"""


def test_a_slot_is_free_when_its_process_was_killed(slots: JournalSlots, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, tmp_path / "journal"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "0 1\n"
        assert slots.left_behind() == []
        mine = slots.claim_free()
        assert mine.number == 1
        holder.send_signal(signal.SIGKILL)
    assert slots.left_behind() == [LeftBehind(0, 2, "")]
    assert len(slots.take_over(0, mine)) == 1
    assert merged(mine) == [owned(1), owned(2)]
    assert slots.left_behind() == []


def test_a_forked_child_does_not_hold_the_slot(slots: JournalSlots) -> None:
    slot = slots.claim_free()
    child_end, parent_end = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            parent_end.close()
            child_end.send(b"!")
            child_end.recv(1)
        finally:
            os._exit(0)
    child_end.close()
    try:
        assert parent_end.recv(1) == b"!"
        # The child lives on, with copies of all descriptors but this one.
        slot.release()
        again = slots.claim(slot.number)
        assert again is not None
        assert again.epoch == 2
    finally:
        parent_end.close()
        os.waitpid(pid, 0)


# --- left behind ----------------------------------------------------------------------------


def test_only_free_slots_with_tasks_are_left_behind(slots: JournalSlots) -> None:
    held, empty, left, unused = (slots.claim_free() for _ in range(4))
    put(held, 1)
    put(empty)
    put(left, 2, 3, 4)
    assert slots.left_behind() == []
    for slot in (empty, left, unused):
        slot.release()
    assert slots.left_behind() == [LeftBehind(2, 3, "")]
    # Asked again it says the same, without looking into what did not change.
    assert slots.left_behind() == [LeftBehind(2, 3, "")]
    assert JournalSlots(slots._folder).left_behind() == [LeftBehind(2, 3, "")]


@pytest.mark.parametrize(
    "mark", [MARK_OWNED, incoming_from(b"n"), given_to(b"n"), dead_mark([], "why", 1)]
)
def test_a_task_makes_a_slot_worth_adopting_in_whose_hands_ever_it_is(
    slots: JournalSlots, mark: bytes
) -> None:
    slot, mine = slots.claim_free(), slots.claim_free()
    journal = SqliteJournal(slot.journal_folder)
    journal.open()
    journal.commit([owned(1), owned(2, mark=mark)], [Progress(task_id(1), 1, 0, mark)], sync=True)
    journal.close()
    slot.release()
    assert slots.left_behind() == [LeftBehind(0, 2, "")]
    assert len(slots.take_over(0, mine)) == 1
    assert merged(mine) == [owned(1, mark=mark), owned(2, mark=mark)]


def test_a_slot_is_looked_into_again_when_it_changed(slots: JournalSlots) -> None:
    slot = slots.claim_free()
    put(slot)
    slot.release()
    assert slots.left_behind() == []
    claimed = slots.claim(0)
    assert claimed is not None
    put(claimed, 1)
    claimed.release()
    assert slots.left_behind() == [LeftBehind(0, 1, "")]


def test_what_is_taken_over_leaves_its_slot(slots: JournalSlots) -> None:
    dead, mine = slots.claim_free(), slots.claim_free()
    put(dead, 1, 2)
    put(mine, 3)
    # Somebody holds it.
    assert slots.take_over(0, mine) == []
    dead.release()
    (moved,) = slots.take_over(0, mine)
    assert moved.parent == mine.folder
    assert mine.inherited() == [moved]
    assert slots.take_over(0, mine) == []
    assert merged(mine) == [owned(3), owned(1), owned(2)]
    assert mine.inherited() == []
    fresh = slots.claim(0)
    assert fresh is not None
    assert merged(fresh) == []


def test_an_empty_journal_is_not_taken_over(slots: JournalSlots) -> None:
    dead, mine = slots.claim_free(), slots.claim_free()
    put(dead)
    dead.release()
    assert slots.take_over(0, mine) == []


def test_a_takeover_cut_short_is_finished_by_whoever_gets_the_slot(slots: JournalSlots) -> None:
    dead, mine, third = slots.claim_free(), slots.claim_free(), slots.claim_free()
    put(dead, *range(1, 1_501))
    put(mine, 5_000)
    dead.release()
    (moved,) = slots.take_over(0, mine)
    # The first piece came over, one of its tasks settled, and the process died.
    journal = SqliteJournal(mine.journal_folder)
    journal.open()
    pieces = journal.inherit(moved)
    assert len(next(pieces)) == 1_000
    journal.commit((), (), [task_id(1)], sync=True)
    pieces.close()  # type: ignore[attr-defined]
    journal.close()
    mine.release()
    assert slots.left_behind() == [LeftBehind(1, 1_000 + 1_500, "")]
    # Neither twice nor never: a third one that takes both has what was open.
    assert len(slots.take_over(1, third)) == 1
    expected = [5_000, *range(2, 1_501)]
    assert merged(third) == [owned(number) for number in expected]
    assert slots.left_behind() == []


# --- who owned it ---------------------------------------------------------------------------


def test_who_takes_a_journal_over_is_the_heir_of_its_node(slots: JournalSlots) -> None:
    dead, mine = slots.claim_free(), slots.claim_free()
    put(dead, 1)
    dead.release()
    assert mine.heir_of() == []
    slots.take_over(0, mine)
    assert mine.heir_of() == [dead.node]
    merged(mine)
    mine.release()
    # Whoever has the tasks later still is, and nobody else gets that id.
    again, fresh = slots.claim(1), slots.claim(0)
    assert again is not None
    assert fresh is not None
    assert (again.node, again.epoch, again.heir_of()) == (mine.node, 2, [dead.node])
    assert fresh.node not in (dead.node, mine.node)
    assert (fresh.epoch, fresh.heir_of()) == (1, [])


def test_an_heir_is_the_heir_of_all_before(slots: JournalSlots) -> None:
    first, second, third, last = (slots.claim_free() for _ in range(4))
    put(first, 1)
    first.release()
    slots.take_over(0, second)
    # It dies before it has merged what it took over, and a third one has some of its own.
    put(second, 2)
    second.release()
    put(third, 3)
    third.release()
    slots.take_over(2, last)
    slots.take_over(1, last)
    assert last.heir_of() == [third.node, first.node, second.node]
    assert len(merged(last)) == 3
    assert last.heir_of() == [third.node, first.node, second.node]


def test_a_takeover_cut_short_leaves_one_heir(
    slots: JournalSlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, mine = slots.claim_free(), slots.claim_free()
    put(dead, 1)
    dead.release()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", _renaming_no_folder)
        with pytest.raises(JournalError):
            slots.take_over(0, mine)
    assert mine.heir_of() == []
    # The id is used up all the same; whoever gets the slot has the journal.
    fresh = slots.claim(0)
    assert fresh is not None
    assert (fresh.node != dead.node, fresh.heir_of()) == (True, [dead.node])


def _renaming_no_folder(path: Path, target: Path) -> Path:
    if path.is_dir():
        raise OSError(5, "the disk failed")
    os.rename(path, target)  # noqa: PTH104 - that is what is replaced here
    return target


def test_one_that_nothing_came_of_keeps_its_id(slots: JournalSlots) -> None:
    dead, mine = slots.claim_free(), slots.claim_free()
    put(dead)
    dead.release()
    slots.take_over(0, mine)
    again = slots.claim(0)
    assert again is not None
    assert (again.node, mine.heir_of()) == (dead.node, [])


def test_the_heirs_that_are_remembered_have_an_end(
    slots: JournalSlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JOURNAL_FORMER_MAX", 2)
    mine = slots.claim_free()
    nodes = []
    for number in range(4):
        dead = slots.claim_free()
        nodes.append(dead.node)
        put(dead, number)
        dead.release()
        slots.take_over(1, mine)
    assert mine.heir_of() == nodes[-2:]


def test_a_damaged_journal_stays_where_it_is(slots: JournalSlots) -> None:
    dead, mine = slots.claim_free(), slots.claim_free()
    put(dead, 1)
    (dead.journal_folder / "tasks.db").write_bytes(b"no database " * 1_000)
    dead.release()
    (found,) = slots.left_behind()
    assert found.number == 0
    assert "damaged" in found.damage
    with pytest.raises(JournalCorrupt):
        slots.take_over(0, mine)
    assert mine.inherited() == []
    assert (dead.journal_folder / "tasks.db").exists()
    assert slots.claim_free(only_empty=True).number == 2


def test_remainders_of_removed_journals_are_swept(slots: JournalSlots) -> None:
    slot = slots.claim_free()
    put(slot, 1)
    slot.journal_folder.rename(slot.folder / "inherited-000001.gone")
    assert slot.inherited() == []
    assert not (slot.folder / "inherited-000001.gone").exists()


# --- does it last? --------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="only where mounts are told")
def test_memory_is_told_from_a_disk(tmp_path: Path) -> None:
    for path in (Path("/dev/shm"), Path("/run")):
        if path.is_dir() and _type_of(path) == "tmpfs":
            assert not is_lasting(path)
    if _type_of(tmp_path) in ("ext4", "xfs", "btrfs", "overlay"):
        assert is_lasting(tmp_path)
        assert JournalSlots(tmp_path / "journal").claim_free().is_lasting()


def test_what_cannot_be_looked_at_is_taken_for_a_disk(tmp_path: Path) -> None:
    assert is_lasting(tmp_path / "missing")


def _type_of(path: Path) -> str:
    found = subprocess.run(
        ["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=False
    )
    name = found.stdout.strip()
    return "ext4" if name == "ext2/ext3" else name
