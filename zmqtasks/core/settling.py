"""How the tasks of an owner end: with an outcome, or DEAD and kept for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from zmqtasks.core.calls import Call
from zmqtasks.core.custody import Custody
from zmqtasks.core.deadtasks import DeadTask, DeadTasks
from zmqtasks.core.dealing import always_auto
from zmqtasks.core.effects import Note
from zmqtasks.core.lanes import OwnedTask
from zmqtasks.core.links import LinkId
from zmqtasks.core.owned import Dead, OwnedRecord, parse_mark
from zmqtasks.core.ownedtasks import OwnedTasks
from zmqtasks.core.resultlog import TOLD_KEYS
from zmqtasks.core.written import Told
from zmqtasks.ids import format_task_id
from zmqtasks.wire.messages import Kind, Outcome, Status
from zmqtasks.words import counted


class SettlingTasks(OwnedTasks):
    """Settles tasks, for the Dispatcher.

    Args: see :class:`OwnedTasks`.
    """

    def __init__(
        self, tasks_max: int, bytes_max: int, custody: Custody | None = None,
        routes: Callable[[str], str] = always_auto,
    ) -> None:  # fmt: skip
        super().__init__(tasks_max, bytes_max, custody, routes)
        self.dead = DeadTasks()
        #: Outcomes for the owner itself to publish: those that it decided, and those of
        #: workers that were lost before a store had them.
        self.own_outcomes: list[tuple[Kind, Outcome]] = []
        #: {link: positions of outcomes that are settled, and of those that are refused}.
        self._verdicts: dict[LinkId, tuple[list[int], list[int]]] = {}

    @property
    def wall_ms(self) -> int:
        """Wall clock of the present turn, milliseconds since 1970: for people, and for what
        is to start or to end at a certain time."""
        return self.stories.wall_ms

    @wall_ms.setter
    def wall_ms(self, wall_ms: int) -> None:
        self.stories.wall_ms = self.written.wall_ms = self.waiting.wall_ms = wall_ms

    # --- settling -----------------------------------------------------------------------

    def _settle(self, task: OwnedTask, outcome: Outcome, link: LinkId | None) -> None:
        worker = task.worker
        if worker is not None:
            worker.held.pop(task.id, None)
        if self._cancelling:
            self._cancelling.pop(task.id, None)
        if task.is_written:
            self._settle_written(task, outcome, link, b"")
            return
        del self.tasks[task.id]
        self.open_bytes -= len(task.body)
        if worker is not None:
            worker.unstored.append((outcome.position, task.lane.kind, outcome.id))
        if link is not None:
            self._verdicts[link][0].append(outcome.position)
        self.kept.add(outcome)
        self._settled.append(outcome)

    def _settle_here(self, task: OwnedTask, status: Status, text: str) -> None:
        """An outcome that no worker has: the owner publishes it itself."""
        ext: dict[str, Any] = {"e": text}
        if task.ext is not None:
            ext |= {key: task.ext[key] for key in TOLD_KEYS if key in task.ext}
        outcome = Outcome(task.id, task.attempt, status, 0, 0, 0, 0, 0, b"", ext)
        mark = b""
        if status is Status.DEAD:
            mark = self._bury(task, text)
        if not task.is_written:
            self.own_outcomes.append((task.lane.kind, outcome))
            self._settle(task, outcome, None)
        else:
            if task.worker is not None:
                task.worker.held.pop(task.id, None)
            self._settle_written(task, outcome, None, mark)

    def _settle_written(
        self, task: OwnedTask, outcome: Outcome, link: LinkId | None, mark: bytes
    ) -> None:
        self._cancelling.pop(task.id, None)
        task.outcome = outcome
        task.worker = None
        task.fetching = None
        self.written.settle(task, (link, outcome.position), mark)

    def _left_journal(self, task: OwnedTask, told: list[Told]) -> None:
        outcome = task.outcome
        assert outcome is not None
        del self.tasks[task.id]
        self.open_bytes -= len(task.body)
        worker = None
        for link, position in told:
            if link is not None:
                self._verdicts.setdefault(link, ([], []))[0].append(position)
                worker = self.dealer.worker_at(link) or worker
        if worker is not None:
            worker.unstored.append((outcome.position, task.lane.kind, outcome.id))
        else:
            self.own_outcomes.append((task.lane.kind, outcome))
        self.kept.add(outcome)
        self._settled.append(outcome)

    # --- dead tasks -----------------------------------------------------------------------

    def _bury(self, task: OwnedTask, reason: str) -> bytes:
        """Keep a dead task for people; returns its mark in the journal."""
        dead = DeadTask(
            self.written.record_of(task), self.stories.of(task.id), reason, self.wall_ms
        )
        mark = dead.mark()
        shown = format_task_id(task.id)
        text = (
            f"task {shown} ({task.lane.kind.name}) is DEAD with {counted(task.strikes, 'strike')}: "
            f"{reason} (zmqtasks dead show {shown})"
        )
        self.effects.append(Note("warning", "task.dead", text))
        forgotten = self.dead.add(dead)
        if forgotten:
            self.custody.drop(forgotten, None, sync=False)
        if not task.is_written and self.custody.has_journal:
            record = self.written.record_of(task, mark)
            self.custody.put([record], lambda refusal: None, sync=False)
        return mark

    def resume_dead(self, records: Iterable[OwnedRecord]) -> None:
        """Keep the dead tasks that the journal holds."""
        for record in records:
            mark = parse_mark(record.mark)
            if isinstance(mark, Dead):
                self.dead.add(DeadTask(record, mark.story, mark.reason, mark.at_ms))

    def retry_dead(self, task_id: bytes, new_id: bytes, now_ms: int) -> bool:
        """Submit a dead task anew, as another task since this one has settled; False if
        there is no such dead task."""
        dead = self.dead.get(task_id)
        if dead is None:
            return False
        record = dead.record
        call = Call(new_id, record.kind, record.body, record.ext)
        self.stories.tell(new_id, "retried", of=task_id.hex())
        self.dead.remove(task_id)  # asked twice, it runs once
        if self.custody.has_journal:
            self._submit_durable([call], partial(self._retried, dead))
        else:
            self.submit([call], now_ms)
        return True

    def _retried(self, dead: DeadTask, refusal: str) -> None:
        record = dead.record
        if not refusal:
            self.custody.drop([record.id], None, sync=False)
            return
        self.dead.add(dead)
        text = f"dead task {record.kind.name} is not retried: {refusal}"
        self.effects.append(Note("error", "task.not_retried", text))

    def drop_dead(self, task_id: bytes) -> bool:
        """Keep a dead task no longer; False if there is no such one."""
        if not self.dead.remove(task_id):
            return False
        self.custody.drop([task_id], None, sync=False)
        return True
