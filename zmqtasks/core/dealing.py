"""Who gets which READY task: lanes of tasks, the workers that can run them, their credit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from zmqtasks.core.batching import MessageBounds
from zmqtasks.core.diagnosis import WARN_AFTER_MS, explain_waiting
from zmqtasks.core.effects import Effect, Note, Send
from zmqtasks.core.held import STRIKES_KEY
from zmqtasks.core.lanes import Lane, OwnedTask, WorkerLink, load_of
from zmqtasks.core.links import LinkId
from zmqtasks.core.recalling import Recalling
from zmqtasks.wire.messages import Demand, Hello, Kind, TaskRecord, Tasks

Prepare: TypeAlias = Callable[[Lane, deque[OwnedTask], int], int]
#: {worker: tasks that it is to get}.
Batches: TypeAlias = dict[LinkId, list[OwnedTask]]


def always_auto(_queue: str) -> str:
    """The route of every queue where nothing else is set."""
    return "auto"


class Dealer:
    """Deals the ready tasks of a dispatcher to workers.

    Args:
        routes: ``"direct"``, ``"broker"`` or ``"auto"`` for a queue.
        prepare: called with a lane that is noted or learned, its ready tasks of one priority,
            and a number of them that could be sent; tells how many of the first ones may be.
    """

    def __init__(self, routes: Callable[[str], str], prepare: Prepare) -> None:
        self.effects: list[Effect] = []
        self.lanes: dict[Kind, Lane] = {}
        #: The link that is used for each worker node.
        self.workers: dict[LinkId, WorkerLink] = {}
        #: Further links to the same nodes: using both would only split the credit.
        self.spares: dict[LinkId, WorkerLink] = {}
        #: Something changed that may let a task be sent.
        self.is_touched = False
        self._routes = routes
        self._prepare = prepare
        self._turn = 0
        self._warn_at_ms: int | None = None
        #: When the first kind is kept back from a worker no longer.
        self._kept_until_ms: int | None = None
        self._recalling = Recalling()

    # --- lanes and workers ----------------------------------------------------------------

    def lane_of(self, kind: Kind) -> Lane:
        """Where tasks of this kind wait."""
        lane = self.lanes.get(kind)
        if lane is None:
            self.lanes[kind] = lane = Lane(kind, self._routes(kind.queue))
            for worker in self.workers.values():
                self._enlist(worker, lane)
        return lane

    @staticmethod
    def _enlist(worker: WorkerLink, lane: Lane) -> None:
        """It gets tasks of this lane, if it can run them."""
        if worker.serves(lane.kind):
            lane.workers.append(worker)
            lane.is_learned |= not lane.is_guarded and worker.guards(lane.kind)

    def link_up(self, link: LinkId, peer: Hello) -> None:
        """A peer is there; it is a worker if it has slots."""
        if peer.slots <= 0 or "worker" not in peer.roles:
            return
        worker = WorkerLink(link, peer)
        if any(other.link.peer == link.peer for other in self.workers.values()):
            self.spares[link] = worker
        else:
            self._use(worker)

    def _use(self, worker: WorkerLink) -> None:
        self.workers[worker.link] = worker
        for lane in self.lanes.values():
            self._enlist(worker, lane)
        self.is_touched = True

    def link_down(self, link: LinkId) -> WorkerLink | None:
        """Use the link no more; another one to the same node takes its place.

        Returns:
            What the link was to us, None if it was a spare or no worker's.
        """
        self.spares.pop(link, None)
        worker = self.workers.pop(link, None)
        if worker is None:
            return None
        for lane in self.lanes.values():
            if worker in lane.workers:
                lane.workers.remove(worker)
        for spare in self.spares.values():
            if spare.link.peer == link.peer:
                del self.spares[spare.link]
                self._use(spare)
                break
        self.is_touched = True
        return worker

    def peer_changed(self, link: LinkId, peer: Hello) -> None:
        """A worker says something else of itself: it may run other tasks now."""
        worker = self.workers.get(link) or self.spares.get(link)
        if worker is None:
            return
        worker.greeted(peer)
        worker.kept_back.clear()  # its rates may be others now
        if link in self.workers:
            for lane in self.lanes.values():
                if worker in lane.workers:
                    lane.workers.remove(worker)
            self._use(worker)

    def worker_at(self, link: LinkId) -> WorkerLink | None:
        """The worker that is used over this link, or over another one to the same node."""
        worker = self.workers.get(link)
        if worker is None and link in self.spares:
            others = (other for other in self.workers.values() if other.link.peer == link.peer)
            worker = next(others, None)
        return worker

    def paused(self, link: LinkId, paused: bool) -> None:
        """Send it no new work, or work again."""
        worker = self.workers.get(link) or self.spares.get(link)
        if worker is not None:
            worker.paused = paused
            self.is_touched = True

    def credit(self, link: LinkId, limit: int) -> None:
        """A worker may be sent ``limit`` tasks in all; lower than before is old news."""
        worker = self.workers.get(link) or self.spares.get(link)
        if worker is not None and limit > worker.limit:
            worker.limit = limit
            self.is_touched = True

    def exclude(self, worker: WorkerLink, lane: Lane, text: str) -> None:
        """The worker announced these tasks but gave one back as unknown to it."""
        kind = lane.kind
        worker.refused.add((kind.app, kind.name, kind.queue))
        if worker in lane.workers:
            lane.workers.remove(worker)
        self.effects.append(
            Note("warning", "task.refused", text, f"task refused {kind.app} {kind.name}")
        )

    def keep_back(self, worker: WorkerLink, lane: Lane, until_ms: int) -> None:
        """Send it none of these before that: it said so."""
        worker.kept_back[lane.kind] = until_ms
        self._kept_until_ms = min(until_ms, self._kept_until_ms or until_ms)

    def void(self, worker: WorkerLink) -> None:
        """Send it nothing before it grants fresh credit: it said so."""
        worker.limit = min(worker.limit, worker.sent)

    def _let_go(self, now_ms: int) -> None:
        """Some kinds are kept back no longer."""
        self._kept_until_ms = None
        for worker in self.workers.values():
            for kind, until_ms in list(worker.kept_back.items()):
                if until_ms <= now_ms:
                    del worker.kept_back[kind]
                else:
                    self._kept_until_ms = min(until_ms, self._kept_until_ms or until_ms)

    # --- dealing --------------------------------------------------------------------------

    def deal(self, now_ms: int) -> None:
        """Send what can be sent, and say what waits."""
        if self._kept_until_ms is not None and now_ms >= self._kept_until_ms:
            self._let_go(now_ms)
        waiting = [lane for lane in self.lanes.values() if lane.ready]
        lanes = [lane for lane in waiting if lane.route != "broker"]
        batches: Batches = {}
        for lane in lanes:
            if lane.ready.apart:
                self._deal_apart(lane, batches)
        if any(lane.ready.urgent for lane in lanes):
            urgencies = {priority for lane in lanes for priority in lane.ready.priorities()}
            for priority in sorted(urgencies, reverse=True):
                same = [lane for lane in lanes if lane.ready.at(priority)]
                self._deal_lanes(same, priority, batches)
        else:
            self._deal_lanes(lanes, 0, batches)
        for link, batch in batches.items():
            self._send_batch(self.workers[link], batch)
        for lane in waiting:
            if not lane.ready or lane.workers:
                lane.unserved_since_ms = -1
            elif lane.unserved_since_ms < 0:
                lane.unserved_since_ms = now_ms
                self._warn_at_ms = now_ms + WARN_AFTER_MS
        self._demand(lanes)
        self._recall(now_ms)

    def _deal_lanes(self, lanes: list[Lane], priority: int, batches: Batches) -> None:
        """In turn, to each its share of the credit, then what is left of it."""
        if len(lanes) > 1:
            self._turn += 1
            first = self._turn % len(lanes)
            lanes = lanes[first:] + lanes[:first]
            share = max(1, self._credit_left() // len(lanes))
            for lane in lanes:
                self._deal_lane(lane, priority, share, batches)
        for lane in lanes:
            count = len(lane.ready.at(priority))
            if count:
                self._deal_lane(lane, priority, count, batches)

    def _recall(self, now_ms: int) -> None:
        self._recalling.look(self.workers.values(), self.lanes.values(), now_ms)
        self.effects += self._recalling.effects
        self._recalling.effects.clear()

    def _credit_left(self) -> int:
        return sum(w.limit - w.sent for w in self.workers.values() if not w.paused)

    def _deal_apart(self, lane: Lane, batches: Batches) -> None:
        """Give each of those that may kill workers to one that has no other of them."""
        tasks = lane.ready.apart
        open_workers = [w for w in _open_workers(lane) if w.takes_apart]
        count = min(len(tasks), len(open_workers))
        if lane.is_noted or lane.is_learned:
            count = self._prepare(lane, tasks, count)
        for worker in sorted(open_workers, key=load_of)[:count]:
            task = tasks.popleft()
            task.worker, worker.apart = worker, task.id
            worker.held[task.id] = task
            worker.sent += 1
            batches.setdefault(worker.link, []).append(task)

    def _deal_lane(self, lane: Lane, priority: int, count_max: int, batches: Batches) -> None:
        """Give ready tasks of a priority to the least loaded workers that have credit."""
        open_workers = _open_workers(lane)
        ready = lane.ready.at(priority)
        left = min(count_max, len(ready))
        if (lane.is_noted or lane.is_learned) and open_workers:
            # Those behind them are not in the journal as given.
            credit = sum(w.limit - w.sent for w in open_workers)
            left = min(left, self._prepare(lane, ready, credit))
        while left and open_workers:
            worker = min(open_workers, key=load_of) if len(open_workers) > 1 else open_workers[0]
            room = worker.limit - worker.sent
            take = left if len(open_workers) == 1 else max(1, left // (2 * len(open_workers)))
            take = min(take, room, left)
            batch = batches.setdefault(worker.link, [])
            held = worker.held
            for _ in range(take):
                task = ready.popleft()
                task.worker = worker
                held[task.id] = task
                batch.append(task)
            worker.sent += take
            left -= take
            if worker.sent >= worker.limit:
                open_workers.remove(worker)

    def _send_batch(self, worker: WorkerLink, batch: list[OwnedTask]) -> None:
        kinds: dict[Kind, int] = {}
        records: list[TaskRecord] = []
        bounds = MessageBounds()
        for task in batch:
            if not bounds.takes(task.body):
                self.effects.append(Send(worker.link, Tasks(list(kinds), records)))
                kinds, records = {}, []
            index = kinds.setdefault(task.lane.kind, len(kinds))
            ext = {**(task.ext or {}), STRIKES_KEY: task.strikes} if task.strikes else task.ext
            records.append(TaskRecord(index, task.id, task.attempt, task.body, ext))
        self.effects.append(Send(worker.link, Tasks(list(kinds), records)))

    def _demand(self, lanes: list[Lane]) -> None:
        """Tell workers how much waits for their credit, when that changed notably."""
        backlog: dict[LinkId, int] = {}
        for lane in lanes:
            for worker in lane.workers:
                if lane.kind not in worker.kept_back:
                    count = len(lane.ready)
                    if lane.ready.apart:
                        count -= len(lane.ready.apart) - worker.takes_apart
                    backlog[worker.link] = backlog.get(worker.link, 0) + count
        for link, worker in self.workers.items():
            waiting = backlog.get(link, 0)
            told = worker.demanded
            if waiting > 2 * told or waiting < told // 2 or (told and not waiting):
                worker.demanded = waiting
                self.effects.append(Send(link, Demand(waiting)))

    # --- warnings -------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When ``tick`` is wanted next."""
        deadlines = (self._warn_at_ms, self._kept_until_ms, self._recalling.next_deadline_ms())
        return min((at_ms for at_ms in deadlines if at_ms is not None), default=None)

    def tick(self, now_ms: int) -> None:
        """Warn of tasks that nobody can run, look for those that can be given now."""
        if self._kept_until_ms is not None and now_ms >= self._kept_until_ms:
            self.is_touched = True
        recall_ms = self._recalling.next_deadline_ms()
        if recall_ms is not None and now_ms >= recall_ms:
            self._recall(now_ms)
        if self._warn_at_ms is None or now_ms < self._warn_at_ms:
            return
        self._warn_at_ms = None
        for lane in self.lanes.values():
            if not lane.ready or lane.workers or lane.unserved_since_ms < 0:
                continue
            if now_ms - lane.unserved_since_ms < WARN_AFTER_MS:
                self._warn_at_ms = lane.unserved_since_ms + WARN_AFTER_MS
                continue
            text = self.why_waiting(lane)
            if text != lane.warned:
                lane.warned = text
                self.effects.append(Note("warning", "task.unserved", text, f"unserved {text}"))

    def why_waiting(self, lane: Lane) -> str:
        """One sentence on why this kind's tasks wait, and what present workers offer."""
        return explain_waiting(lane.kind, [worker.peer for worker in self.workers.values()])

    def why_unserved(self, kinds: Iterable[Kind]) -> str:
        """Why no present worker can run tasks of one of these kinds; "" if all can be."""
        workers = self.workers.values()
        for kind in kinds:
            if not any(worker.serves(kind) for worker in workers):
                return explain_waiting(kind, [worker.peer for worker in workers])
        return ""


def _open_workers(lane: Lane) -> list[WorkerLink]:
    """Those that may be sent tasks of this kind now."""
    return [
        worker
        for worker in lane.workers
        if worker.limit > worker.sent and not worker.paused and lane.kind not in worker.kept_back
    ]
