"""``zmqtasks journal``: what people and programs see of the journals of a host."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from tests.e2e.harness import Mesh
from zmqtasks.core.owned import OwnedRecord, dead_mark, given_to
from zmqtasks.errors import JournalCorrupt
from zmqtasks.journals.slots import JournalSlots, Slot
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.testing.journal_contract import owned

pytestmark = pytest.mark.e2e


@pytest.fixture
def slots(mesh: Mesh) -> JournalSlots:
    """Where nodes of this mesh would have theirs."""
    return JournalSlots(Path(mesh.env["ZMQTASKS_STATE_DIR"]) / mesh.name / "journal")


def fill(slot: Slot, *records: OwnedRecord) -> None:
    journal = SqliteJournal(slot.journal_folder)
    journal.open()
    journal.commit(records, sync=True)
    journal.close()


def damage(slot: Slot) -> None:
    db = sqlite3.connect(slot.journal_folder / "tasks.db")
    with db:
        db.execute("UPDATE tasks SET body = x'00' WHERE seq = 2")
    db.close()


def test_without_journals_it_says_where_it_has_looked(mesh: Mesh) -> None:
    folder = f"{mesh.env['ZMQTASKS_STATE_DIR']}/e2e/journal"
    done = mesh.cli("journal", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"mesh 'e2e': 0 journals in {folder}\n"
    done = mesh.cli("journal", "check")
    assert (done.returncode, done.stdout) == (0, f"mesh 'e2e' has no journals in {folder}\n")
    done = mesh.cli("journal", "salvage", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"there is no journal {folder}/3" in done.stderr


def test_journals_are_listed_in_use_or_left_behind(mesh: Mesh, slots: JournalSlots) -> None:
    held, left, empty = (slots.claim_free() for _ in range(3))
    fill(held, owned(1))
    fill(left, owned(2), owned(3), owned(4, mark=dead_mark([], "three strikes", 1)))
    for slot in (left, empty):
        slot.release()
    done = mesh.cli("journal", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "slot  state",
        f"   0  in use by process {os.getpid()} (its tasks: zmqtasks status)",
        "   1  free, with 3 tasks (2 open, 1 dead)",
        "   2  free",
        "",
        "A node of mesh 'e2e' on this host takes over these 3 tasks: now if there is one, else "
        "when it starts (zmqtasks node).",
    ]
    data = json.loads(mesh.cli("journal", "list", "--json").stdout)
    assert [(slot["slot"], slot["state"], slot["tasks"]) for slot in data["slots"]] == [
        ("0", "in use", None), ("1", "free", 3), ("2", "free", 0),
    ]  # fmt: skip
    assert data["slots"][0]["node"] == held.node.hex()
    held.release()


def test_whole_journals_pass_the_check(mesh: Mesh, slots: JournalSlots) -> None:
    left, empty = slots.claim_free(), slots.claim_free()
    dead = owned(4, mark=dead_mark([], "three strikes", 1))
    fill(left, owned(2), owned(3, mark=given_to(b"taker")), dead)
    left.release()
    empty.release()
    done = mesh.cli("journal", "check")
    assert (done.returncode, done.stdout.splitlines()) == (
        0, ["0: whole, 3 tasks (1 open, 1 given to a node, 1 dead)", "1: whole, no tasks"],
    )  # fmt: skip
    assert mesh.cli("journal", "check", "1").stdout == "1: whole, no tasks\n"
    data = json.loads(mesh.cli("journal", "check", "0", "--json").stdout)
    assert data["slots"][0]["journals"][0]["hands"] == {"owned": 1, "given": 1, "dead": 1}


def test_one_in_use_is_not_touched(mesh: Mesh, slots: JournalSlots) -> None:
    slot = slots.claim_free()
    for command in ("check", "salvage"):
        done = mesh.cli("journal", command, "0")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"is in use by process {os.getpid()}: end that one first" in done.stderr
    done = mesh.cli("journal", "check")
    assert (done.returncode, done.stdout) == (
        0, f"0: in use by process {os.getpid()}, not looked at\n",
    )  # fmt: skip
    slot.release()


def test_a_damaged_one_is_found_and_the_command_of_its_error_saves_the_rest(
    mesh: Mesh, slots: JournalSlots
) -> None:
    slot = slots.claim_free()
    fill(slot, owned(1), owned(2), owned(3))
    damage(slot)
    journal = SqliteJournal(slot.journal_folder)
    journal.open()
    with pytest.raises(JournalCorrupt) as caught:
        list(journal.load())
    journal.close()
    slot.release()
    listed = mesh.cli("journal", "list").stdout.splitlines()
    assert listed[2:] == ["   0  damaged: zmqtasks journal check 0"]
    # What the person reads who finds that a node does not start.
    command = str(caught.value).rpartition("(")[2].rstrip(")").split()
    assert command == ["zmqtasks", "journal", "salvage", str(slot.folder)]

    done = mesh.cli("journal", "check")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == f"0: damaged ({slot.journal_folder})"
    assert "task in row 2: its checksum does not match its content" in lines[1]
    assert lines[-1] == f"   2 tasks of 3 can be saved: {' '.join(command)}"
    data = json.loads(mesh.cli("journal", "check", "--json").stdout)
    assert (data["slots"][0]["state"], data["slots"][0]["journals"][0]["expected"]) == (
        "damaged", 3,
    )  # fmt: skip

    done = mesh.cli(*command[1:])
    assert (done.returncode, done.stderr) == (0, "")
    kept = f"{slot.journal_folder}.damaged-1"
    assert done.stdout.splitlines() == [
        f"{slot.journal_folder}:",
        "   task in row 2: its checksum does not match its content",
        "   3 tasks should be there, and 2 can be read",
        "   saved: 2 tasks",
        "   lost: 1 task",
        f"   the damaged journal is kept as {kept}",
        "A node of mesh 'e2e' on this host takes over these 2 tasks: now if there is one, else "
        "when it starts (zmqtasks node).",
        "Some may run again though they had ended: that note may be what was damaged.",
    ]
    assert mesh.cli("journal", "check").stdout == "0: whole, 2 tasks\n"
    assert kept in mesh.cli("journal", "list").stdout
    done = mesh.cli("journal", "salvage", "0")
    assert (done.returncode, done.stdout) == (
        0, f"{slot.folder} is not damaged; nothing was changed\n",
    )  # fmt: skip


def test_salvage_answers_programs(mesh: Mesh, slots: JournalSlots) -> None:
    slot = slots.claim_free()
    fill(slot, owned(1), owned(2))
    damage(slot)
    slot.release()
    # Also by the folder that the error speaks of.
    data = json.loads(mesh.cli("journal", "salvage", str(slot.journal_folder), "--json").stdout)
    (done,) = data["salvaged"]
    assert (data["slot"], done["saved"], done["lost"], done["hands"]) == ("0", 1, 1, {"owned": 1})
    assert Path(done["kept_at"]).is_dir()
