"""What running tasks say of themselves: from their workers to whoever wants to hear it.

The owner keeps the last state that each attempt gave itself, for questions, and passes all
news on: to the callers in its own process, and to nodes that watch the task. A node that
hears of a task that is not its own has asked for it: its callers are told. One that takes
news more slowly than they come misses some, as it sees by the numbers of items.
"""

from __future__ import annotations

from collections import OrderedDict

from zmqtasks.core.answers import Answers
from zmqtasks.core.batching import batches
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import Effect, Send, TasksUpdated
from zmqtasks.core.links import LinkId
from zmqtasks.limits import SAID_BYTES_MAX, SAID_COUNT_MAX
from zmqtasks.wire.messages import Message, UpdateRecord, Updates

#: ``UpdateRecord.number`` of a state.
_STATE = -1


class Sayings:
    """News of running tasks. ``effects`` is drained each turn.

    Args:
        dispatcher: of this node; it is told where to look for the last state of a task.
        answers: of this node, which knows who watches what.
    """

    def __init__(self, dispatcher: Dispatcher, answers: Answers) -> None:
        self._dispatcher = dispatcher
        self._answers = answers
        self.effects: list[Effect] = []
        #: What came in this turn, and who is to hear what of it.
        self._heard: list[UpdateRecord] = []
        self._told: dict[LinkId, list[UpdateRecord]] = {}
        #: {task id: the last state that it gave itself}, the oldest dropped beyond a limit.
        self._last: OrderedDict[bytes, UpdateRecord] = OrderedDict()
        self._bytes = 0
        dispatcher.last_said = self.last_of

    def received(self, link: LinkId, message: Message) -> bool:
        """A message; False if it is none of news."""
        if not isinstance(message, Updates):
            return False
        tasks = self._dispatcher.tasks
        for record in message.updates:
            task = tasks.get(record.id)
            if task is not None:
                if task.is_unsure:
                    self._dispatcher.claim(link, [(record.id, record.attempt)])
                if (
                    task.attempt != record.attempt
                    or task.worker is None
                    or task.worker.link.peer != link.peer
                ):
                    continue  # of an attempt that was given up
                self._keep(record)
                self._pass_on(record)
            self._heard.append(record)
        return True

    def _keep(self, record: UpdateRecord) -> None:
        if record.number != _STATE:
            return
        former = self._last.pop(record.id, None)
        self._bytes += len(record.meta) - (len(former.meta) if former is not None else 0)
        self._last[record.id] = record
        while len(self._last) > SAID_COUNT_MAX or self._bytes > SAID_BYTES_MAX:
            _, oldest = self._last.popitem(last=False)
            self._bytes -= len(oldest.meta)

    def _pass_on(self, record: UpdateRecord) -> None:
        # Here and not at the end of the turn: the outcome may follow in the same turn, and
        # after it nobody watches any more.
        watchers = dict.fromkeys(link for link, _ in self._answers.watchers.get(record.id, ()))
        for link in filter(self._answers.has_room, watchers):
            self._told.setdefault(link, []).append(record)

    def last_of(self, task_id: bytes, attempt: int) -> UpdateRecord | None:
        """The last state that this attempt gave itself."""
        found = self._last.get(task_id)
        return found if found is not None and found.attempt == attempt else None

    def flush(self) -> None:
        """Tell everybody; once a turn, before what has settled is told."""
        if not self._heard:
            return
        self.effects.append(TasksUpdated(self._heard))
        for link, records in self._told.items():
            # With the answers: they leave before the outcomes that those tell.
            self._answers.effects += [
                Send(link, Updates(batch)) for batch in batches(records, lambda news: news.meta)
            ]
        self._heard = []
        self._told.clear()
