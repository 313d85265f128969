"""The journal of an ended node has come into ours: what that means for each of its tasks.

What that node knew is ours to know now, and what it owned is ours. Where our own journal
had a task already, the two of them were about to hand it over; then that is over.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from zmqtasks.core.handoff import Handoff
from zmqtasks.core.incoming import Claim, claims_of
from zmqtasks.core.marks import giver_in, taker_in
from zmqtasks.core.owned import (
    MARK_OWNED,
    Dead,
    Ended,
    Given,
    Incoming,
    OwnedRecord,
    Progress,
    parse_mark,
)
from zmqtasks.core.taking import Taking


class Adoption:
    """Sorts the tasks of ended nodes. Takes part in no turn and has no effects of its own.

    Args:
        taking: knows what was offered to us.
        handoff: knows what we gave away.
    """

    def __init__(self, taking: Taking, handoff: Handoff) -> None:
        self.taking = taking
        self.handoff = handoff
        self.dispatcher = taking.dispatcher
        self._notes: list[Progress] = []

    def adopt(
        self, former: bytes, records: Sequence[OwnedRecord], now_ms: int
    ) -> list[OwnedRecord]:
        """Tasks of an ended node, which lie in our journal now.

        Args:
            former: that node.
            records: some of its tasks.
            now_ms: the time.

        Returns:
            Those that this node owns now: for ``Dispatcher.resume``. Dead ones are left to
            ``Dispatcher.resume_dead``.
        """
        owned: list[OwnedRecord] = []
        for record in records:
            mark = parse_mark(record.mark)
            is_ours = False
            if isinstance(mark, Given):
                self._was_given(record, mark, former)
            elif isinstance(mark, Incoming):
                is_ours = self._was_offered(record, claims_of(mark), now_ms)
            elif isinstance(mark, Ended):
                self._has_ended(record)
            elif not isinstance(mark, Dead):
                is_ours = self._was_owned(record, former)
            if is_ours:
                owned.append(msgspec.structs.replace(record, mark=MARK_OWNED))
        if self._notes:
            notes, self._notes = self._notes, []
            self.taking.custody.note(notes, None, sync=True)
        self.taking.ask_linked()
        return owned

    def ended(self, nodes: Sequence[bytes]) -> None:
        """All tasks of these nodes are here; also to be called after a restart, with the
        nodes whose heir this one is, when all of our own are known.

        What they had offered to us and had not given is not ours; what we had given to
        them and they do not have they were done with.
        """
        ours = [*nodes, self.taking.node]
        self.handoff.took_over(ours)
        self.taking.took_over(self.handoff.former)
        self.dispatcher.inputs.tidy()

    def _is_ours(self, node: bytes) -> bool:
        """What that node knew is known here."""
        return node == self.taking.node or self.handoff.is_heir_of(node)

    def _is_open(self, record: OwnedRecord) -> bool:
        """We own it; then the journal is to say so."""
        if self.taking.is_activating(record.id):
            return True
        task = self.dispatcher.tasks.get(record.id)
        if task is None:
            return False
        if not task.is_written:
            task.is_written = True
            self._note(record, MARK_OWNED)
        return True

    def _note(self, record: OwnedRecord, mark: bytes) -> None:
        self._notes.append(Progress(record.id, record.attempt, record.strikes, mark))

    def _was_owned(self, record: OwnedRecord, former: bytes) -> bool:
        is_open = self._is_open(record)
        is_here = self.taking.repeats.is_here(record.id, record.ext, former)
        if is_here and not is_open:
            self.handoff.forget([record.id])  # it has ended here
        if is_here or is_open:
            return False
        was_offered, was_given = self.taking.forget(record.id), self.handoff.take_back(record.id)
        if was_offered or was_given:
            self._note(record, MARK_OWNED)
        return True

    def _has_ended(self, record: OwnedRecord) -> None:
        """That node owned it to its end; an offer of it to us came to nothing."""
        self.taking.forget(record.id)
        self.handoff.take_back(record.id)

    def _was_given(self, record: OwnedRecord, mark: Given, former: bytes) -> None:
        """That node gave it away, and had not heard that it is active there."""
        if self._is_open(record):
            return
        taker = taker_in(mark)
        given_to = self.handoff.unconfirmed.get(record.id)
        incoming = self.taking.tasks.get(record.id)
        if incoming is not None and (giver_in(mark), taker) in incoming.claims:
            self.taking.confirm(incoming)
        elif self._is_ours(taker):
            if incoming is None and given_to is None:
                self.handoff.forget([record.id])  # it was active here, and has ended
        elif given_to is None or given_to == former:
            if incoming is not None and incoming.disclaim(giver_in(mark)):
                # It was offered to us before or after that; both ways are gone after.
                attempt = max(record.attempt, incoming.journal_attempt)
                strikes = max(record.strikes, incoming.record.strikes)
                self._notes.append(Progress(record.id, attempt, strikes, incoming.mark))
            elif self.taking.forget(record.id) or given_to is not None:
                self._note(record, record.mark)
            self.handoff.resume([record])

    def _was_offered(self, record: OwnedRecord, claims: Sequence[Claim], now_ms: int) -> bool:
        """It was offered to that node, which had not heard that it is its own; True if it
        is ours again."""
        if self._is_open(record):
            return False
        ours = [claim.taker for claim in claims if self._is_ours(claim.giver)]
        theirs = [claim for claim in claims if not self._is_ours(claim.giver)]
        given_to = self.handoff.unconfirmed.get(record.id)
        if given_to in ours:
            self.handoff.take_back(record.id)
            self.taking.forget(record.id)
            self._note(record, MARK_OWNED)
            return True
        if given_to is not None and not theirs:
            return False
        # Nobody can say whether their ended givers had given these; ``ended`` is to ask.
        silent = [c for c in claims if c not in theirs and not self.taking.is_answered_here(c)]
        left = theirs + silent
        incoming = self.taking.tasks.get(record.id)
        if incoming is not None:
            for claim in left:
                incoming.claims.setdefault((claim.giver, claim.taker), claim)
            self._note(record, incoming.mark)
            return False
        self.taking.restore(record, left, now_ms)
        if not left:
            self.taking.drop([self.taking.tasks[record.id]])
        return False
