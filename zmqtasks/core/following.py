"""Tasks of other owners that tasks of this node wait for: asks how they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zmqtasks.core.calls import UNKNOWN_STATUS
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import QuestionAnswered
from zmqtasks.limits import HANDOFF_IDS_MAX
from zmqtasks.wire.messages import Outcome, TaskState


class Following:
    """Asks about them, and tells the dispatcher.

    Args:
        dispatcher: whose tasks wait, if there is one.
        ask: asks everybody about these tasks, now and whenever there is news (True), at this
            time; returns a token.
        drop: nobody waits for the answer to this token any more.
    """

    def __init__(
        self, dispatcher: Dispatcher | None, ask: Callable[[Sequence[bytes], bool, int], int],
        drop: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._dispatcher = dispatcher
        self._ask = ask
        self._drop = drop
        #: {token: ids of which it has not been said how they ended}.
        self._open: dict[int, set[bytes]] = {}
        #: What was answered, for the next round of this turn.
        self.answers: list[QuestionAnswered] = []

    def flush(self, now_ms: int) -> None:
        """Pass answers on, and ask about those that nobody here has."""
        assert self._dispatcher is not None
        answers, self.answers = self.answers, []
        for answer in answers:
            self._answered(answer)
        inputs = self._dispatcher.inputs
        if not inputs.foreign and not self._open:
            return
        for token, ids in list(self._open.items()):
            if ids.isdisjoint(inputs.wanted):
                del self._open[token]
                self._drop(token)
        due = inputs.to_follow(now_ms)
        for first in range(0, len(due), HANDOFF_IDS_MAX):
            part = due[first : first + HANDOFF_IDS_MAX]
            self._open[self._ask(part, True, now_ms)] = set(part)

    def takes(self, effect: object) -> bool:
        """Whether this is an answer to one of its questions."""
        if not isinstance(effect, QuestionAnswered) or effect.token not in self._open:
            return False
        self.answers.append(effect)
        return True

    def _answered(self, answer: QuestionAnswered) -> None:
        assert self._dispatcher is not None
        ids = self._open[answer.token]
        for record in answer.states:
            outcome = record.outcome if record.state == TaskState.SETTLED else None
            if record.state == TaskState.UNKNOWN:
                text = "nobody knows how it ended"
                outcome = Outcome(
                    record.id, 0, UNKNOWN_STATUS, 0, 0, 0, 0, 0, b"", {"e": text}
                )  # fmt: skip
            if outcome is not None and record.id in ids:
                ids.discard(record.id)
                self._dispatcher.told(outcome)
        if answer.final:
            del self._open[answer.token]
