"""Who may give how much: to all who ask alike, and nothing for slots that are taken."""

from __future__ import annotations

from tests.support.machines import link_to
from zmqtasks.core.credit import Credits, Giver, window_of
from zmqtasks.core.links import LinkId


class Bank:
    """Givers that hold and ask for what the tests say."""

    def __init__(self, count: int, *, regular: bool = False) -> None:
        names = [b"owner-%02d" % number for number in range(count)]
        self.givers: dict[LinkId, Giver] = {
            link_to(name, "in"): Giver(name, is_regular=regular) for name in names
        }
        self.credits = Credits()

    def __getitem__(self, number: int) -> Giver:
        return list(self.givers.values())[number]

    def ask(self, *backlogs: int) -> None:
        for giver, backlog in zip(self.givers.values(), backlogs, strict=True):
            giver.backlog = backlog

    def deal(self, window: int, free_slots: int | None = None) -> list[int]:
        """How many more each may send."""
        held = sum(giver.received - giver.finished for giver in self.givers.values())
        free = window if free_slots is None else free_slots
        self.credits.deal(self.givers, held, window, free)
        return [giver.limit - giver.received for giver in self.givers.values()]

    def send(self, number: int, count: int) -> None:
        self[number].received += count

    def finish(self, number: int, count: int) -> None:
        self[number].finished += count


def test_who_asks_alone_gets_everything() -> None:
    bank = Bank(2)
    bank.ask(100_000, 0)
    assert bank.deal(44) == [44, 0]


def test_who_has_least_gets_first_until_all_have_the_same() -> None:
    bank = Bank(3)
    bank.ask(100_000, 0, 0)
    bank.deal(30)
    bank.send(0, 30)
    bank.ask(100_000, 10, 10)
    assert bank.deal(30) == [0, 0, 0], "all is taken"
    bank.finish(0, 12)
    assert bank.deal(30) == [0, 6, 6]
    bank.send(1, 6)
    bank.send(2, 6)
    bank.finish(0, 9)
    assert bank.deal(30) == [1, 4, 4]


def test_a_single_slot_goes_round() -> None:
    """A giver with 100,000 tasks leaves the others their turn."""
    bank = Bank(3)
    bank.ask(100_000, 10, 10)
    turns = []
    for _ in range(9):
        got = bank.deal(1).index(1)
        turns.append(got)
        bank.send(got, 1)
        bank.deal(1)
        bank.finish(got, 1)
    assert sorted(turns[:3]) == sorted(turns[3:6]) == sorted(turns[6:]) == [0, 1, 2]


def test_credit_that_somebody_does_not_need_any_more_is_given_to_others() -> None:
    bank = Bank(2)
    bank.ask(5, 0)
    bank.deal(4)
    bank.ask(0, 5)
    assert bank.deal(4) == [4, 4]


def test_nothing_is_granted_for_slots_that_are_taken_for_long() -> None:
    bank = Bank(2, regular=True)
    bank.ask(5, 0)
    assert bank.deal(window=4, free_slots=4) == [4, 2]
    bank.send(0, 4)
    bank.send(1, 2)
    bank.finish(1, 2)
    assert bank.deal(window=4, free_slots=0) == [0, 0]


def test_voided_credit_comes_back_when_there_is_room() -> None:
    bank = Bank(1)
    bank.ask(50)
    bank.deal(44)
    bank.send(0, 10)
    bank[0].void()
    assert bank[0].limit == bank[0].told == 10
    bank.send(0, 5)  # they were on their way
    bank.finish(0, 15)
    assert bank.deal(4) == [4]
    assert bank[0].most == 44


def test_who_lost_its_lease_gets_nothing_and_keeps_nobody_from_anything() -> None:
    bank = Bank(2)
    bank.ask(50, 50)
    bank[0].is_leased = False
    assert bank.deal(4) == [0, 4]


def test_slots_that_are_taken_for_long_make_no_window() -> None:
    assert window_of(0, 1_000.0) == 0
    assert window_of(2, 1_000.0) == 22
    assert window_of(2, -1.0) == window_of(2, 1_000_000.0) == 2
