"""What a journal notes of a handoff, and what two journals say together."""

from __future__ import annotations

import pytest

from tests.support.machines import ADD, task_id
from zmqtasks.core.marks import (
    OfferMark,
    given_mark,
    giver_in,
    merged_mark,
    merged_record,
    offers_mark,
    offers_of,
    taker_in,
)
from zmqtasks.core.owned import (
    MARK_OWNED,
    Given,
    Incoming,
    OwnedRecord,
    Progress,
    dead_mark,
    parse_mark,
)

US, THEM, OTHER = b"node-001", b"node-002", b"node-003"
DEAD = dead_mark([], "three strikes", 1)


def offered(giver: bytes, taker: bytes) -> bytes:
    return offers_mark([OfferMark(giver, taker, is_lasting=True)])


def test_offers_are_read_as_they_were_written() -> None:
    offers = [OfferMark(THEM, US, is_lasting=True), OfferMark(OTHER, US, False, 3, 1 << 40)]
    mark = parse_mark(offers_mark(offers))
    assert isinstance(mark, Incoming)
    assert offers_of(mark) == offers


def test_given_mark_names_both_sides() -> None:
    mark = parse_mark(given_mark(THEM, US))
    assert isinstance(mark, Given)
    assert (taker_in(mark), giver_in(mark)) == (THEM, US)


BOTH_OFFERED = offers_mark(
    [OfferMark(OTHER, US, is_lasting=True), OfferMark(OTHER, THEM, is_lasting=True)]
)


@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    [
        # They had offered it to us, and ...
        (offered(THEM, US), MARK_OWNED, MARK_OWNED),  # ... taken it back
        (offered(THEM, US), given_mark(US, THEM), MARK_OWNED),  # ... given it
        (offered(THEM, US), given_mark(OTHER, THEM), given_mark(OTHER, THEM)),  # ... to another
        (offered(THEM, US), DEAD, DEAD),
        # We had given it to them, and they ...
        (given_mark(THEM, US), MARK_OWNED, MARK_OWNED),  # ... had it
        (given_mark(THEM, US), offered(US, THEM), MARK_OWNED),  # ... had not heard that yet
        (given_mark(THEM, US), given_mark(OTHER, THEM), given_mark(OTHER, THEM)),  # ... gave it on
        # Of others, long ago.
        (offered(OTHER, US), offered(OTHER, THEM), BOTH_OFFERED),
        (offered(OTHER, US), given_mark(US, THEM), offered(OTHER, US)),
        (given_mark(OTHER, US), offered(US, THEM), given_mark(OTHER, US)),
        (given_mark(OTHER, US), given_mark(US, THEM), given_mark(OTHER, US)),
        # Given to another, which may have offered it here before or after that.
        (offered(OTHER, US), given_mark(OTHER, THEM), offered(OTHER, US)),
        (given_mark(OTHER, US), offered(OTHER, THEM), offered(OTHER, THEM)),
        # It is ours.
        (MARK_OWNED, given_mark(US, THEM), MARK_OWNED),
        (MARK_OWNED, offered(US, THEM), MARK_OWNED),
        (DEAD, MARK_OWNED, DEAD),
    ],
)
def test_of_two_marks_the_later_one_counts(ours: bytes, theirs: bytes, merged: bytes) -> None:
    assert merged_mark(ours, theirs) == merged


def test_of_two_offers_between_the_same_nodes_the_last_one_counts() -> None:
    marks = [
        offers_mark([OfferMark(OTHER, US, is_lasting=True, epoch=epoch, number=number)])
        for epoch, number in ((1, 9), (2, 1))
    ]
    assert merged_mark(marks[0], marks[1]) == merged_mark(marks[1], marks[0]) == marks[1]


def test_same_offer_in_both_journals_is_one() -> None:
    assert merged_mark(offered(OTHER, US), offered(OTHER, US)) == offered(OTHER, US)


def test_merged_task_has_the_last_attempt_and_all_strikes() -> None:
    ours = OwnedRecord(task_id(1), ADD, b"args", None, 2, 1, mark=offered(THEM, US))
    theirs = OwnedRecord(task_id(1), ADD, b"args", None, 3, 0)
    assert merged_record(ours, theirs) == Progress(task_id(1), 3, 1, MARK_OWNED)
