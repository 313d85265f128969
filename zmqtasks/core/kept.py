"""Settled outcomes that an owner keeps for late readers, within bounds."""

from __future__ import annotations

from collections import OrderedDict

from zmqtasks.limits import SETTLED_KEPT_BYTES_MAX, SETTLED_KEPT_COUNT_MAX
from zmqtasks.wire.messages import Kind, Outcome


class KeptOutcomes:
    """{task id: outcome}, the oldest dropped when over a limit.

    Without a store this is what another process can still read, see the settings
    reference for how long.
    """

    def __init__(
        self, count_max: int = SETTLED_KEPT_COUNT_MAX, bytes_max: int = SETTLED_KEPT_BYTES_MAX
    ) -> None:
        self.count_max = count_max
        self.bytes_max = bytes_max
        self.bytes = 0
        #: With the kind of the task, None where that is not known. In the order in which they
        #: came: a plain dict would look past every entry removed before to find its first.
        self._outcomes: OrderedDict[bytes, tuple[Outcome, Kind | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._outcomes)

    def add(self, outcome: Outcome, kind: Kind | None = None) -> None:
        """Keep this one, unless the task's outcome is kept already."""
        outcomes = self._outcomes
        if outcome.id in outcomes:
            return
        outcomes[outcome.id] = outcome, kind
        self.bytes += outcome.size
        while len(outcomes) > self.count_max or self.bytes > self.bytes_max:
            _, (oldest, _) = outcomes.popitem(last=False)
            self.bytes -= oldest.size

    def get(self, task_id: bytes) -> Outcome | None:
        """The outcome of a task, or None."""
        found = self._outcomes.get(task_id)
        return None if found is None else found[0]

    def kind_of(self, task_id: bytes) -> Kind | None:
        """What kind of task it was, None where that is not known."""
        found = self._outcomes.get(task_id)
        return None if found is None else found[1]

    def forget(self, task_id: bytes) -> None:
        """Drop one; unknown ids are no error."""
        found = self._outcomes.pop(task_id, None)
        if found is not None:
            self.bytes -= found[0].size
