"""Adopter: what ended processes left is taken over once, with the news whose it was."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from zmqtasks.core.owned import OwnedRecord
from zmqtasks.errors import JournalError
from zmqtasks.journals.slots import JournalSlots, Slot
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.node.adopting import Adopter
from zmqtasks.node.journaling import JournalListener, JournalWriter
from zmqtasks.testing.journal_contract import owned

#: Longer than any step takes; only a failing test waits for it.
PATIENCE_S = 20.0


class Host:
    """The slots of one host, and the loop of all its nodes, which the test runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Node] = []
        self._calls: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = (
            queue.SimpleQueue()
        )

    def call_soon(self, function: Callable[..., None], *args: Any) -> None:
        self._calls.put((function, args))

    def run_until(self, condition: Callable[[], object]) -> None:
        while not condition():
            function, args = self._calls.get(timeout=PATIENCE_S)
            function(*args)

    def run_waiting(self) -> None:
        self.run_until(self._calls.empty)

    def slots(self, *, idle_s: float = PATIENCE_S) -> JournalSlots:
        return JournalSlots(self.folder, idle_s=idle_s)

    def leave(self, *numbers: int) -> Slot:
        """A process ends with these tasks in its journal."""
        slot = self.slots().claim_free(only_empty=True)
        journal = SqliteJournal(slot.journal_folder)
        journal.open()
        journal.commit([owned(number) for number in numbers], sync=True)
        journal.close()
        slot.release()
        return slot

    def node(self, *, every_s: float = PATIENCE_S, idle_s: float = PATIENCE_S) -> Node:
        node = Node(self, every_s, self.slots(idle_s=idle_s))
        self.nodes.append(node)
        return node


class Node:
    """A node as far as adoption is concerned."""

    def __init__(self, host: Host, every_s: float, slots: JournalSlots) -> None:
        self.slot = slots.claim_free(only_empty=True)
        self.records: list[OwnedRecord] = []
        #: The heirs of each adoption.
        self.heirs: list[list[bytes]] = []
        listener = JournalListener(*[lambda *args: None] * 4)
        self.writer = JournalWriter(
            SqliteJournal(self.slot.journal_folder), host.call_soon, listener
        )
        self.writer.start()
        self.adopter = Adopter(
            slots, self.slot, self.writer, host.call_soon, self._adopted, every_s=every_s
        )

    def _adopted(self, records: Sequence[OwnedRecord], heir_of: Sequence[bytes]) -> None:
        self.records += records
        self.heirs.append(list(heir_of))

    def close(self) -> None:
        assert self.adopter.close()
        self.writer.close(PATIENCE_S)
        self.slot.release()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path / "journal")
    yield host
    for node in host.nodes:
        node.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "zmqtasks-adopt"]


def in_slot(slot: Slot) -> list[OwnedRecord]:
    """What the next process with this slot finds."""
    journal = SqliteJournal(slot.journal_folder)
    journal.open()
    try:
        return list(journal.load())
    finally:
        journal.close()


def test_a_start_takes_over_what_was_left_and_tells_whose_heir_it_is(host: Host) -> None:
    left = host.leave(1, 2)
    node = host.node()
    node.adopter.start()
    host.run_until(lambda: node.heirs)
    assert node.records == [owned(1), owned(2)]
    assert node.heirs == [[left.node]]
    node.close()
    assert in_slot(node.slot) == [owned(1), owned(2)]
    assert host.slots().left_behind()[0].number == node.slot.number


def test_a_journal_without_tasks_that_is_free_for_long_has_an_heir_too(host: Host) -> None:
    """Whoever gave that node a task may wait for its word."""
    left = host.leave()
    last = host.slots().claim(left.number)
    assert last is not None
    node = host.node(idle_s=0)
    other = host.node(idle_s=0)
    node.adopter.start()
    host.run_waiting()
    assert not node.heirs, "it is in use, and so is that of the other node"
    last.release()
    node.adopter.look()
    host.run_until(lambda: node.heirs)
    assert (node.records, node.heirs) == ([], [[left.node]])
    assert node.slot.heir_of() == [left.node]
    again = host.slots().claim(left.number)
    assert again is not None
    assert again.node != left.node, "one that comes back is another node"
    again.release()
    assert other.slot.number != left.number


def test_tasks_are_told_when_all_of_them_are_there(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that hears of the heir reports at once, also what would have come later."""
    monkeypatch.setattr("zmqtasks.journals.sqlite.JOURNAL_INHERIT_TASKS", 2)
    host.leave(*range(5))
    node = host.node()
    node.adopter.start()
    host.run_until(lambda: node.heirs)
    assert node.records == [owned(number) for number in range(5)]
    assert len(node.heirs) == 1


def test_a_process_that_ends_is_news(host: Host) -> None:
    node = host.node()
    running = host.node()
    node.adopter.start()
    assert running.writer.write(1, [owned(7)], sync=True)
    running.close()
    host.nodes.remove(running)
    node.adopter.look()
    host.run_until(lambda: node.heirs)
    assert node.records == [owned(7)]


def test_without_news_it_looks_every_so_often(host: Host) -> None:
    node = host.node(every_s=0.01)
    node.adopter.start()
    host.leave(3)
    host.run_until(lambda: node.heirs)
    assert node.records == [owned(3)]


def test_one_of_many_nodes_gets_what_was_left(host: Host) -> None:
    left = host.leave(*range(20))
    nodes = [host.node(every_s=0.01) for _ in range(4)]
    for node in nodes:
        node.adopter.start()
    host.run_until(lambda: any(node.heirs for node in nodes))
    for node in nodes:
        assert node.adopter.close()  # or it takes over from the first that is closed
    for node in nodes:
        node.close()
    host.run_waiting()
    heirs = [node for node in nodes if node.heirs]
    assert [node.heirs for node in heirs] == [[[left.node]]]
    assert heirs[0].records == [owned(number) for number in range(20)]
    assert [in_slot(node.slot) for node in nodes if node is not heirs[0]] == [[], [], []]


def test_a_damaged_one_is_left_alone_and_told_once_with_the_remedy(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    left = host.leave(1)
    database = left.journal_folder / "tasks.db"
    database.write_bytes(database.read_bytes()[:100])
    fine = host.leave(2)
    assert fine.number != left.number
    node = host.node(every_s=0.001)
    with caplog.at_level(logging.WARNING):
        node.adopter.start()
        host.run_until(lambda: node.heirs)
        for _ in range(3):
            node.adopter.look()
    node.close()
    assert node.records == [owned(2)]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"what is in slot {left.number} is left alone" in warning
    assert f"zmqtasks journal salvage {left.folder}" in warning
    assert len(database.read_bytes()) == 100


def test_what_could_not_be_merged_is_tried_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.leave(1)
    node = host.node(every_s=0.01)
    inherit = SqliteJournal.inherit
    failures = [JournalError("the disk is on strike"), JournalError("still")]

    def failing(self: SqliteJournal, folder: Path) -> Iterator[list[OwnedRecord]]:
        if failures:
            raise failures.pop()
        yield from inherit(self, folder)

    monkeypatch.setattr(SqliteJournal, "inherit", failing)
    node.adopter.start()
    host.run_until(lambda: node.heirs)
    assert node.records == [owned(1)]
    assert not failures


def test_a_node_that_leaves_takes_nothing_over(host: Host) -> None:
    node = host.node(every_s=0.001)
    node.adopter.start()
    assert node.adopter.close()
    left = host.leave(1)
    node.adopter.look()
    assert [found.number for found in host.slots().left_behind()] == [left.number]
