"""Work taken back from busy workers for idle ones, as for those that join late.

Workers give back by themselves what would wait behind tasks that take long. This is for
the rest: what waits at one for resources, or behind more short tasks than another has.
A worker is idle if it has room and none of our tasks, and nothing else is there for it. If
that lasts for a moment, the newest tasks of a worker that holds more than it has slots are
asked back, as many as the idle one has slots. An attempt is asked back once: whatever the
idle worker was thought to be, nothing wanders to and fro.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

from zmqtasks.core.effects import Effect, Send
from zmqtasks.core.lanes import Lane, OwnedTask, WorkerLink, load_of
from zmqtasks.core.links import LinkId
from zmqtasks.wire.messages import Recall

#: How long a worker is idle before work is taken back for it: short tasks are done by then.
RECALL_AFTER_MS = 100


class Recalling:
    """Looks for idle workers. ``effects`` is drained with those of the dealer."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        #: {idle worker: since when}.
        self._idle: dict[LinkId, int] = {}

    def look(self, workers: Collection[WorkerLink], lanes: Iterable[Lane], now_ms: int) -> None:
        """After tasks were dealt, and when ``next_deadline_ms`` has come."""
        idle = [w for w in workers if not w.held and w.limit > w.sent and not w.paused]
        busy = [w for w in workers if len(w.held) > w.slots] if idle else []
        if not busy:
            self._idle.clear()
            return
        served = {id(w) for lane in lanes if lane.ready for w in lane.workers}
        idle = [w for w in idle if id(w) not in served]
        self._idle = {w.link: self._idle.get(w.link, now_ms) for w in idle}
        for worker in idle:
            if now_ms >= self._idle[worker.link] + RECALL_AFTER_MS:
                self._idle[worker.link] = now_ms
                self._recall_for(worker, busy)

    def _recall_for(self, idle: WorkerLink, busy: Iterable[WorkerLink]) -> None:
        wanted = min(idle.slots, idle.limit - idle.sent)
        for worker in sorted(busy, key=load_of, reverse=True):
            tasks = _newest(worker, idle)[:wanted]
            if tasks:
                for task in tasks:
                    task.recalled = task.attempt
                wanted -= len(tasks)
                message = Recall([(task.id, task.attempt) for task in tasks])
                self.effects.append(Send(worker.link, message))
            if not wanted:
                return

    def next_deadline_ms(self) -> int | None:
        """When ``look`` is wanted next."""
        return min(self._idle.values()) + RECALL_AFTER_MS if self._idle else None


def _newest(worker: WorkerLink, idle: WorkerLink) -> list[OwnedTask]:
    """The tasks that come after as many as it has slots, newest first, that the idle one can
    run and that were not asked back before."""
    excess = islice(reversed(worker.held.values()), len(worker.held) - worker.slots)
    return [
        task
        for task in excess
        if not task.started and task.recalled != task.attempt and idle.serves(task.lane.kind)
    ]
