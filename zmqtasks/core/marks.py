"""Marks of tasks between two owners, in detail; what a journal keeps of a handoff.

=====  ==========================================================================
mark   content
=====  ==========================================================================
``>``  taker, giver
``<``  for each offer: giver, taker, whether it is in the giver's journal too (1 byte),
       the giver's epoch (4), number of the offer (8)
=====  ==========================================================================

Both sides are named, since a journal may come into that of another node: then
:func:`merged_mark` says what holds of a task that is in both.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from zmqtasks.core.owned import (
    MARK_OWNED,
    Ended,
    Given,
    Incoming,
    OwnedRecord,
    Progress,
    given_to,
    incoming_from,
    parse_mark,
)
from zmqtasks.ids import NODE_ID_BYTES

_OFFER = struct.Struct(f"!{NODE_ID_BYTES}s{NODE_ID_BYTES}s?IQ")


class OfferMark(NamedTuple):
    """One offer of a task that was stored."""

    giver: bytes
    taker: bytes
    #: The giver's journal has the task.
    is_lasting: bool
    #: Of the giver, and of its offers: the last one counts.
    epoch: int = 0
    number: int = 0


def offers_mark(offers: Iterable[OfferMark]) -> bytes:
    """The mark of a task that was offered, and not given so far."""
    return incoming_from(b"".join(_OFFER.pack(*offer) for offer in offers))


def offers_of(mark: Incoming) -> list[OfferMark]:
    """The offers in a mark."""
    whole = len(mark.node) // _OFFER.size * _OFFER.size
    return [OfferMark(*offer) for offer in _OFFER.iter_unpack(mark.node[:whole])]


def given_mark(taker: bytes, giver: bytes) -> bytes:
    """The mark of a task that its owner has given away."""
    return given_to(taker + giver)


def taker_in(mark: Given) -> bytes:
    """To whom it was given."""
    return mark.node[:NODE_ID_BYTES]


def giver_in(mark: Given) -> bytes:
    """Who has given it away."""
    return mark.node[NODE_ID_BYTES:]


def merged_mark(ours: bytes, theirs: bytes) -> bytes:
    """Whose a task is that is in two journals, of which one comes into the other.

    At most one of the two nodes owned it, or had it from the other one. So it is the later
    of the two marks that counts, and a handoff from one to the other is complete. Where that
    cannot be told, an offer counts: it may be all that is left of the task, while whoever it
    was given to has it too.
    """
    here, there = parse_mark(ours), parse_mark(theirs)
    if not isinstance(here, (Given, Incoming)):
        return ours
    if not isinstance(there, (Given, Incoming)):
        return theirs
    if isinstance(here, Incoming) and isinstance(there, Incoming):
        return offers_mark(_last_ones([*offers_of(here), *offers_of(there)]))
    if isinstance(here, Incoming) and isinstance(there, Given):
        return _offered_and_given(here, there, theirs)
    if isinstance(here, Given) and isinstance(there, Incoming):
        return _offered_and_given(there, here, ours)
    assert isinstance(here, Given)
    assert isinstance(there, Given)
    # Both have given it away: the one that had it from the other did so later.
    return theirs if taker_in(here) == giver_in(there) else ours


def _offered_and_given(offered: Incoming, given: Given, given_bytes: bytes) -> bytes:
    giver, taker = giver_in(given), taker_in(given)
    offers = offers_of(offered)
    if any(offer[:2] == (giver, taker) for offer in offers):
        return MARK_OWNED
    others = [offer for offer in offers if offer.giver != giver]
    return offers_mark(others) if others else given_bytes


def _last_ones(offers: Iterable[OfferMark]) -> list[OfferMark]:
    """Of those between the same two nodes."""
    last: dict[tuple[bytes, bytes], OfferMark] = {}
    for offer in offers:
        known = last.setdefault(offer[:2], offer)
        if (known.epoch, known.number) < (offer.epoch, offer.number):
            last[offer[:2]] = offer
    return list(last.values())


def merged_record(ours: OwnedRecord, theirs: OwnedRecord) -> Progress:
    """What changes about a task of our journal that is in the other one too."""
    if isinstance(parse_mark(theirs.mark), Ended):
        # Its body is its result.
        return Progress(ours.id, theirs.attempt, theirs.strikes, theirs.mark, {}, theirs.body)
    change = Progress(
        ours.id,
        max(ours.attempt, theirs.attempt),
        max(ours.strikes, theirs.strikes),
        merged_mark(ours.mark, theirs.mark),
    )
    if theirs.attempt <= ours.attempt or _content_of(theirs) != _content_of(ours):
        return change
    # It may have been retried there, with other facts and arguments.
    body = None if theirs.body == ours.body else theirs.body
    return change._replace(ext=theirs.ext, body=body)


def _content_of(record: OwnedRecord) -> object:
    """Two calls with one id, which their callers have chosen, may ask for different things."""
    return (record.ext or {}).get("c")
