"""The tasks of a dispatcher that are in its journal.

What concerns such a task is in the journal before anybody sees it:

* it settles for its caller and its worker when it has left the journal. Else it would run
  again after a restart, and end a second time;
* its next attempt is given away when the journal knows of that attempt. Else two attempts
  could carry one number.

Tasks with durability *disk* are synced each time, others only written: those survive the
end of the process, not a power loss.

After a restart nobody knows which attempts are somewhere. So for a moment every task is
*unsure*: a worker that still runs it, or has its outcome, may say so; then it goes on with
the next attempt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from zmqtasks.core.custody import Custody
from zmqtasks.core.lanes import (
    ONCE_KEY,
    REQUEUES_KEY,
    RETRIES_KEY,
    Lane,
    OwnedTask,
    count_in,
    is_noted,
)
from zmqtasks.core.links import LinkId
from zmqtasks.core.owned import Durability, OwnedRecord, Progress
from zmqtasks.limits import (
    RESUME_GRACE_MS,
    WRITE_BEHIND_COUNT,
    WRITE_BEHIND_EVERY_MS,
    WRITE_BEHIND_MS,
)

#: Whom to tell the verdict: the worker's link and the position in its log.
Told = tuple[LinkId | None, int]


class WrittenTasks:
    """Keeps the journal of a dispatcher in step with its tasks.

    Args:
        custody: the journal.
        tasks: the dispatcher's open tasks.
        ready: a task may be sent (again).
        settled: a task has left the journal and settles; who is to be told.
        doubtful: nobody has claimed a task after a restart.
        body_of: the arguments of a task as the journal is to have them.
    """

    def __init__(
        self, custody: Custody, tasks: dict[bytes, OwnedTask], *,
        ready: Callable[[OwnedTask], None], settled: Callable[[OwnedTask, list[Told]], None],
        doubtful: Callable[[OwnedTask], None], body_of: Callable[[OwnedTask], bytes],
    ) -> None:  # fmt: skip
        self.custody = custody
        self._tasks = tasks
        self._ready = ready
        self._settled = settled
        self._doubtful = doubtful
        self._body_of = body_of
        #: Time of the last tick.
        self.now_ms = 0
        #: Wall clock of the present turn.
        self.wall_ms = 0
        #: Ids of tasks that are not written, in the order of their submission, and how many
        #: came when.
        self._fresh: deque[bytes] = deque()
        self._came: deque[tuple[int, int]] = deque()
        #: When write-behind looks again; while the journal is full this lies further off.
        self._look_ms = 0
        #: {task id: whom to tell}, of those that leave the journal.
        self._leaving: dict[bytes, list[Told]] = {}
        self._drops: list[OwnedTask] = []
        self._last: list[tuple[OwnedTask, Progress]] = []
        self._notes: list[OwnedTask] = []
        self._changed: list[OwnedTask] = []
        #: {task id: whether the arguments too}, of those among them that have other facts.
        self._renewed: dict[bytes, bool] = {}
        #: Resumed tasks that nobody has claimed yet, until then.
        self.unsure: dict[bytes, OwnedTask] = {}
        self._unsure_until_ms: int | None = None

    # --- new ones -------------------------------------------------------------------------

    def submitted(self, ids: Sequence[bytes], now_ms: int) -> None:
        """These are not written yet; write them when they wait for long."""
        if self.custody.has_journal:
            self._fresh.extend(ids)
            self._came.append((now_ms, len(ids)))

    def put(self, tasks: Sequence[OwnedTask], then: Callable[[str], None]) -> None:
        """Write them, synced; ``then`` is told ("" or why not)."""
        for task in tasks:
            task.is_written = True
        self.custody.put([self.record_of(task) for task in tasks], then, sync=True)

    def record_of(self, task: OwnedTask, mark: bytes = b"") -> OwnedRecord:
        """The task as a journal keeps it."""
        return OwnedRecord(
            task.id, task.lane.kind, self._body_of(task), task.ext, _given_attempt(task),
            task.strikes, task.durability, self.wall_ms, mark,
        )  # fmt: skip

    def _write_behind(self, now_ms: int) -> None:
        fresh, came = self._fresh, self._came
        due: list[OwnedTask] = []
        while came and now_ms - came[0][0] >= WRITE_BEHIND_MS and len(due) < WRITE_BEHIND_COUNT:
            since_ms, count = came.popleft()
            take = min(count, WRITE_BEHIND_COUNT)
            if take < count:
                came.appendleft((since_ms, count - take))
            for _ in range(take):
                task = self._tasks.get(fresh.popleft())
                # Whoever is offered a task goes by what our journal knew of it then.
                if task is not None and task.may_be_written:
                    task.is_written = True
                    due.append(task)
        if due:
            records = [self.record_of(task) for task in due]
            self.custody.put(records, partial(self._written_behind, due, now_ms), sync=False)

    def write_all(self, now_ms: int) -> None:
        """Write every open task that is not written yet, synced: this process ends."""
        due = [task for task in self._tasks.values() if task.may_be_written]
        for task in due:
            task.is_written = True
        if due:
            records = [self.record_of(task) for task in due]
            self.custody.put(records, partial(self._written_behind, due, now_ms), sync=True)

    def _written_behind(self, tasks: list[OwnedTask], now_ms: int, refusal: str) -> None:
        if refusal:
            self._look_ms = now_ms + WRITE_BEHIND_MS
            self.not_written(tasks, now_ms)

    def not_written(self, tasks: Sequence[OwnedTask], now_ms: int) -> None:
        """The journal has refused these: they are as before."""
        # One that has ended meanwhile settles when the note of that is in the journal.
        again = [task for task in tasks if task.id in self._tasks and task.outcome is None]
        for task in again:
            task.is_written = False
        self.submitted([task.id for task in again], now_ms)

    # --- changes --------------------------------------------------------------------------

    def settle(self, task: OwnedTask, told: Told, last: Progress | None = None) -> None:
        """Its outcome is known: take it out of the journal first, or leave this there."""
        self._leaving[task.id] = [told]
        self.unsure.pop(task.id, None)
        if last is not None:
            self._last.append((task, last))
        else:
            self._drops.append(task)

    def told_again(self, task: OwnedTask, told: Told) -> None:
        """The same outcome came once more: its sender wants the verdict as well."""
        self._leaving[task.id].append(told)

    def next_attempt(self, task: OwnedTask) -> None:
        """It goes on with a new attempt number, when the journal knows."""
        task.is_noting = True
        task.lane.noting += 1
        self._notes.append(task)

    def renewed(self, task: OwnedTask, *, has_new_body: bool) -> None:
        """It goes on with a new attempt number, other facts and perhaps other arguments, when
        the journal knows."""
        self._renewed[task.id] = has_new_body or self._renewed.get(task.id, False)
        self.next_attempt(task)

    def changed(self, task: OwnedTask) -> None:
        """It has other facts, and goes on without waiting for the journal to know."""
        self._changed.append(task)

    def prepare(self, lane: Lane, ready: deque[OwnedTask], count: int) -> int:
        """Let the journal know before ``count`` tasks of this lane are given away.

        Args:
            ready: those of one priority.

        Returns:
            So many of the first ready ones may be given now; others wait for the journal.
        """
        may_go: list[OwnedTask] = []
        while ready and len(may_go) < count:
            task = ready[0]
            is_news = lane.is_learned and _may_be_guarded(task)
            if not task.is_written or (task.is_guarded and not is_news):
                if is_news:
                    task.ext = {**(task.ext or {}), ONCE_KEY: 1}
                may_go.append(ready.popleft())
            elif lane.noting < count:
                task.is_guarded = True
                if is_news:
                    task.ext = {**(task.ext or {}), ONCE_KEY: 1}
                    self._renewed.setdefault(task.id, False)
                self.next_attempt(ready.popleft())
            else:
                break  # after a restart all that are noted would count as given
        ready.extendleft(reversed(may_go))
        return len(may_go)

    def flush(self) -> None:
        """At the end of a turn: one note and one drop for all."""
        if self._notes:
            tasks, self._notes = self._notes, []
            progress = [self._progress_of(task) for task in tasks]
            self._renewed.clear()
            self.custody.note(progress, partial(self._noted, tasks), sync=_synced(tasks))
        if self._changed:
            tasks, self._changed = self._changed, []
            progress = [self._progress_of(task)._replace(ext=task.ext) for task in tasks]
            self.custody.note(progress, None, sync=_synced(tasks))
        if self._drops:
            tasks, self._drops = self._drops, []
            ids = [task.id for task in tasks]
            self.custody.drop(ids, partial(self._left, tasks), sync=_synced(tasks))
        if self._last:
            last, self._last = self._last, []
            tasks = [task for task, _ in last]
            self.custody.note([change for _, change in last], partial(self._left, tasks), sync=True)

    def _progress_of(self, task: OwnedTask) -> Progress:
        change = Progress(task.id, _given_attempt(task), task.strikes)
        has_new_body = self._renewed.get(task.id)
        if has_new_body is None:
            return change
        return change._replace(ext=task.ext, body=task.body if has_new_body else None)

    def _noted(self, tasks: list[OwnedTask], _refusal: str) -> None:
        for task in reversed(tasks):
            task.lane.noting -= 1
            is_waiting, task.is_noting = task.is_noting, False
            if is_waiting and task.id in self._tasks and task.outcome is None:
                self._ready(task)

    def _left(self, tasks: list[OwnedTask], _refusal: str) -> None:
        for task in tasks:
            told = self._leaving.pop(task.id, None)
            if told is not None:
                self._settled(task, told)

    # --- after a restart ------------------------------------------------------------------

    def resume(self, tasks: Sequence[OwnedTask]) -> None:
        """These were in the journal: their attempts may be somewhere."""
        for task in tasks:
            task.is_unsure = True
            self.unsure[task.id] = task
        self._unsure_until_ms = None

    def claimed(self, task: OwnedTask) -> bool:
        """A worker has this attempt of it; False when it is too late for that."""
        if not task.is_unsure:
            return False
        self.unsure.pop(task.id, None)
        task.is_unsure = task.is_waiting = False
        return True

    def go_on(self, now_ms: int) -> None:
        """Go on with what nobody has claimed in time; once a turn, when what came in has been
        looked at: a process that stood still finds the claims together with the hour.
        """
        if not self.unsure:
            return
        if self._unsure_until_ms is None:
            self._unsure_until_ms = now_ms + RESUME_GRACE_MS
        elif now_ms >= self._unsure_until_ms:
            tasks, self.unsure = list(self.unsure.values()), {}
            for task in tasks:
                task.is_unsure = False
                self._doubtful(task)

    # --- time -----------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When a turn is wanted next."""
        deadlines = [self._unsure_until_ms or self.now_ms] if self.unsure else []
        if self._came:
            deadlines.append(max(self._came[0][0] + WRITE_BEHIND_MS, self._look_ms))
        return min(deadlines, default=None)

    def tick(self, now_ms: int) -> None:
        """Write what has waited."""
        self.now_ms = now_ms
        due_ms = self._came[0][0] + WRITE_BEHIND_MS if self._came else now_ms + 1
        if now_ms >= max(due_ms, self._look_ms):
            self._look_ms = now_ms + WRITE_BEHIND_EVERY_MS
            self._write_behind(now_ms)


def _given_attempt(task: OwnedTask) -> int:
    """The last attempt that may have been given to a worker, as the journal should know it."""
    if task.is_guarded or task.worker is not None or not is_noted(task.lane.kind, task.ext):
        return task.attempt
    return max(0, task.attempt - 1)  # noted before it is given


def _may_be_guarded(task: OwnedTask) -> bool:
    """It was not said of it that it is not idempotent, and no attempt of it can have run but
    those that asked for the next one."""
    ext = task.ext
    if ext is None:
        return task.attempt == 1
    asked = count_in(ext, RETRIES_KEY) + count_in(ext, REQUEUES_KEY)
    return ONCE_KEY not in ext and task.attempt - 1 <= asked


def _synced(tasks: Sequence[OwnedTask]) -> bool:
    return any(task.durability is Durability.DISK for task in tasks)
