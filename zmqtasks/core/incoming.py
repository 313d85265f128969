"""What a taker knows of tasks that were offered to it and are not its own yet."""

from __future__ import annotations

from enum import Enum

import msgspec

from zmqtasks.core.lanes import is_noted
from zmqtasks.core.links import LinkId
from zmqtasks.core.marks import OfferMark, offers_mark, offers_of
from zmqtasks.core.owned import Incoming, OwnedRecord


class Claim:
    """One giver's offer of a task."""

    __slots__ = ("epoch", "giver", "is_lasting", "is_unknown", "link", "number", "taker")

    def __init__(self, giver: bytes, taker: bytes, *, is_lasting: bool) -> None:
        self.giver = giver
        #: Whom it was offered to: this node, or one whose heir it is.
        self.taker = taker
        #: The giver's journal has the task.
        self.is_lasting = is_lasting
        #: The giver has said that it does not know the task (any more).
        self.is_unknown = False
        #: The giver's incarnation and the number of the offer.
        self.epoch = 0
        self.number = 0
        #: The link on which the giver will answer, None when it must be asked.
        self.link: LinkId | None = None


class Phase(Enum):
    """Where an offered task is on its way into our ownership."""

    STORING = "storing"
    STORED = "stored"
    ACTIVATING = "activating"


class IncomingTask:
    """A task that is or was offered to this node."""

    __slots__ = (
        "claims", "given_on", "is_confirmed", "is_fresh", "is_guessed", "is_held", "is_watched",
        "phase", "record",
    )  # fmt: skip

    def __init__(self, record: OwnedRecord, phase: Phase, *, is_held: bool, is_fresh: bool) -> None:
        #: With the attempt that is to be given away next; its mark is that of the first offer.
        self.record = record
        self.phase = phase
        #: Its attempt is in this node's intake.
        self.is_held = is_held
        #: Offered in this life of the node, so that the attempt was not given to anybody.
        self.is_fresh = is_fresh
        #: The giver wants to hear of its outcome.
        self.is_watched = False
        #: It is ours, as soon as it is stored.
        self.is_confirmed = False
        #: It becomes ours although no giver has said so.
        self.is_guessed = False
        #: {(giver, taker): offer}; the giver that owns the task is among them, or the task
        #: is not ours.
        self.claims: dict[tuple[bytes, bytes], Claim] = {}
        #: Where "given" was said: there it is to be told when it is active. On another link
        #: to the same node that may be lost, and the giver would not know.
        self.given_on: list[LinkId] = []

    @property
    def giver(self) -> bytes:
        """One that has offered it."""
        return next((claim.giver for claim in self.claims.values()), b"")

    @property
    def mark(self) -> bytes:
        """How the journal says whose offers it is waiting for."""
        return offers_mark(
            OfferMark(claim.giver, claim.taker, claim.is_lasting, claim.epoch, claim.number)
            for claim in self.claims.values()
        )

    def claims_by(self, giver: bytes) -> list[Claim]:
        """What this node has offered."""
        return [claim for claim in self.claims.values() if claim.giver == giver]

    def add(self, claim: Claim) -> None:
        """Another offer, or a later one of the same giver."""
        self.claims[claim.giver, claim.taker] = claim

    def remove(self, claim: Claim) -> None:
        """It has been answered."""
        del self.claims[claim.giver, claim.taker]

    def disclaim(self, giver: bytes) -> bool:
        """That node gave it to another one; True if others have offered it too."""
        for claim in self.claims_by(giver):
            self.remove(claim)
        return bool(self.claims)

    @property
    def is_disowned(self) -> bool:
        """A giver does not know the task any more."""
        return any(claim.is_unknown for claim in self.claims.values())

    @property
    def first_record(self) -> OwnedRecord:
        """The task as it comes into the journal."""
        attempt = self.journal_attempt
        if attempt == self.record.attempt:
            return self.record
        return msgspec.structs.replace(self.record, attempt=attempt)

    @property
    def journal_attempt(self) -> int:
        """The last attempt that may have been given to a worker."""
        attempt = self.record.attempt
        if self.is_fresh and not self.is_held and is_noted(self.record.kind, self.record.ext):
            attempt -= 1
        return attempt


def claims_of(mark: Incoming) -> list[Claim]:
    """The offers that a journal has of a task."""
    claims: list[Claim] = []
    for giver, taker, is_lasting, epoch, number in offers_of(mark):
        claim = Claim(giver, taker, is_lasting=is_lasting)
        claim.epoch, claim.number = epoch, number
        claims.append(claim)
    return claims
