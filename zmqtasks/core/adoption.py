"""The journal of an ended node has come into ours: what that means for each of its tasks.

What that node knew is ours to know now, and what it owned is ours. Where our own journal
had a task already, the two of them were about to hand it over; then that is over.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from zmqtasks.core.handoff import Handoff
from zmqtasks.core.incoming import claims_of
from zmqtasks.core.owned import (
    MARK_OWNED,
    Dead,
    Given,
    Incoming,
    OwnedRecord,
    Progress,
    given_to,
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
            if isinstance(mark, Given):
                is_ours = self._was_given(record, mark.node)
            elif isinstance(mark, Incoming):
                is_ours = self._was_offered(record, mark, former, now_ms)
            else:
                is_ours = not isinstance(mark, Dead) and self._was_owned(record)
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
        self.handoff.took_over(nodes)
        self.taking.took_over(nodes)

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

    def _was_owned(self, record: OwnedRecord) -> bool:
        if self._is_open(record):
            return False
        if self.taking.forget(record.id) or self.handoff.take_back(record.id):
            self._note(record, MARK_OWNED)
        return True

    def _was_given(self, record: OwnedRecord, taker: bytes) -> bool:
        if self._is_open(record):
            return False
        if taker == self.taking.node:
            incoming = self.taking.tasks.get(record.id)
            if incoming is not None:
                self.taking.confirm(incoming)
            elif record.id not in self.handoff.unconfirmed:
                self.handoff.unconfirmed[record.id] = taker
                self.handoff.confirmed([record.id], taker)
            return False
        if self.taking.forget(record.id):
            self._note(record, given_to(taker))
        self.handoff.resume([record])
        return False

    def _was_offered(self, record: OwnedRecord, mark: Incoming, former: bytes, now_ms: int) -> bool:
        if self._is_open(record):
            return False
        if self.handoff.unconfirmed.get(record.id) == former:
            # From us to it, and it had not heard that it was its own.
            self.handoff.take_back(record.id)
            self._note(record, MARK_OWNED)
            return True
        claims = claims_of(mark, former)
        incoming = self.taking.tasks.get(record.id)
        if incoming is not None:
            for giver, claim in claims.items():
                incoming.claims.setdefault(giver, claim)
            self._note(record, incoming.mark)
            return False
        # What we offered and have not given is not that node's.
        claims.pop(self.taking.node, None)
        self.taking.restore(record, claims, now_ms)
        if not claims:
            self.taking.drop([self.taking.tasks[record.id]])
        return False
