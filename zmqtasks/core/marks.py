"""Marks of tasks between two owners, in detail; what a journal keeps of a handoff.

=====  ==========================================================================
mark   content
=====  ==========================================================================
``>``  taker, giver
``<``  for each offer: giver, taker, one byte: is it in the giver's journal too
=====  ==========================================================================

Both sides are named, since a journal may come into that of another node: then
:func:`merged_mark` says what holds of a task that is in both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from zmqtasks.core.owned import (
    MARK_OWNED,
    Given,
    Incoming,
    OwnedRecord,
    Progress,
    given_to,
    incoming_from,
    parse_mark,
)
from zmqtasks.ids import NODE_ID_BYTES

_LASTING, _FLEETING = b"\x01", b"\x00"
_OFFER_BYTES = 2 * NODE_ID_BYTES + 1


class OfferMark(NamedTuple):
    """One offer of a task that was stored."""

    giver: bytes
    taker: bytes
    #: The giver's journal has the task.
    is_lasting: bool


def offers_mark(offers: Iterable[OfferMark]) -> bytes:
    """The mark of a task that was offered, and not given so far."""
    return incoming_from(
        b"".join(
            giver + taker + (_LASTING if is_lasting else _FLEETING)
            for giver, taker, is_lasting in offers
        )
    )


def offers_of(mark: Incoming) -> list[OfferMark]:
    """The offers in a mark."""
    packed = mark.node
    parts = (packed[at : at + _OFFER_BYTES] for at in range(0, len(packed), _OFFER_BYTES))
    return [
        OfferMark(
            part[:NODE_ID_BYTES], part[NODE_ID_BYTES : 2 * NODE_ID_BYTES],
            part[2 * NODE_ID_BYTES :] != _FLEETING,
        )
        for part in parts
    ]  # fmt: skip


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
    of the two marks that counts, and a handoff from one to the other is complete.
    """
    here, there = parse_mark(ours), parse_mark(theirs)
    if not isinstance(here, (Given, Incoming)):
        return ours
    if not isinstance(there, (Given, Incoming)):
        return theirs
    if isinstance(here, Incoming):
        offers = offers_of(here)
        if isinstance(there, Incoming):
            return offers_mark(dict.fromkeys([*offers, *offers_of(there)]))
        to_us = [offer.giver for offer in offers if offer.taker == taker_in(there)]
        if giver_in(there) in to_us:
            return MARK_OWNED
        # Given to us long ago, it has come back by way of others.
        return ours if to_us else theirs
    if isinstance(there, Incoming):
        is_between = any(
            offer.giver == giver_in(here) and offer.taker == taker_in(here)
            for offer in offers_of(there)
        )
        return MARK_OWNED if is_between else ours
    # Both have given it away: the one that had it from the other did so later.
    return theirs if taker_in(here) == giver_in(there) else ours


def merged_record(ours: OwnedRecord, theirs: OwnedRecord) -> Progress:
    """What changes about a task of our journal that is in the other one too."""
    return Progress(
        ours.id,
        max(ours.attempt, theirs.attempt),
        max(ours.strikes, theirs.strikes),
        merged_mark(ours.mark, theirs.mark),
    )
