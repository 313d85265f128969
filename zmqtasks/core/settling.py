"""How the tasks of an owner end: with an outcome, or DEAD and kept for people."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from zmqtasks.core.calls import INPUTS_KEY, Call
from zmqtasks.core.custody import Custody
from zmqtasks.core.deadtasks import DeadTask, DeadTasks
from zmqtasks.core.dealing import always_auto
from zmqtasks.core.effects import Note
from zmqtasks.core.inputs import payload_of, refusal_of
from zmqtasks.core.lanes import OwnedTask
from zmqtasks.core.links import LinkId
from zmqtasks.core.offspring import (
    CAUSE_KEY,
    ERRBACKS_KEY,
    errback_calls,
    timed,
)
from zmqtasks.core.owned import (
    MARK_ENDED,
    Dead,
    Durability,
    Ended,
    OwnedRecord,
    Progress,
    parse_mark,
)
from zmqtasks.core.ownedtasks import OwnedTasks
from zmqtasks.core.resultlog import ADDED_KEY, TOLD_KEYS, told_arguments
from zmqtasks.core.written import Told
from zmqtasks.errors import DecodeError
from zmqtasks.ids import format_task_id
from zmqtasks.limits import INPUTS_COUNT_MAX, PAYLOAD_BYTES_MAX
from zmqtasks.wire.carried import CarriedCall, unpack_calls
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
        #: Tasks that end with one that they waited for, and that one's outcome.
        self._ending: deque[tuple[OwnedTask, Outcome]] = deque()
        #: Tasks that others took the place of, and the results of those.
        self._taking_over: deque[tuple[OwnedTask, bytes]] = deque()
        #: {task id: tasks that wait for it}, of those that go on when the journal has dropped it.
        self._after: dict[bytes, list[OwnedTask]] = {}
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
        if task.ext is not None and ERRBACKS_KEY in task.ext:
            self._call_errbacks(task, outcome)
        del self.tasks[task.id]
        self.open_bytes -= len(task.body)
        if worker is not None:
            worker.unstored.append((outcome.position, task.lane.kind, outcome.id))
        if link is not None:
            self._verdicts[link][0].append(outcome.position)
        self.kept.add(outcome, task.lane.kind)
        self._settled.append(outcome)
        if self.inputs.wanted:
            self._pass_on(task, outcome, is_written=False)

    def _settle_here(
        self, task: OwnedTask, status: Status, text: str, *, cause: Outcome | None = None,
        body: bytes = b"",
    ) -> None:  # fmt: skip
        """An outcome that no worker has: the owner publishes it itself.

        Args:
            cause: that of the task it waited for, which has not succeeded.
            body: the result or error in it.
        """
        ext: dict[str, Any] = {"e": text} if text else {}
        if task.ext is not None:
            ext |= {key: task.ext[key] for key in TOLD_KEYS if key in task.ext}
        ext |= told_arguments(task.lane.kind, task.body)
        if cause is not None:
            ext[CAUSE_KEY] = (cause.ext or {}).get(CAUSE_KEY, cause.id)
            if isinstance(cause.body, bytes) and _wants_one(task):
                body = cause.body
        outcome = Outcome(task.id, task.attempt, status, len(body), 0, 0, 0, 0, body, ext)
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
        if task.ext is not None and ERRBACKS_KEY in task.ext:
            self._call_errbacks(task, outcome)
        task.outcome = outcome
        task.worker = None
        task.fetching = None
        last = Progress(task.id, task.attempt, task.strikes, mark) if mark else None
        if self.inputs.wanted and self._pass_on(task, outcome, is_written=True):
            last = Progress(
                task.id, task.attempt, task.strikes, MARK_ENDED, ext={}, body=payload_of(outcome)
            )
        self.written.settle(task, (link, outcome.position), last)

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
        self.kept.add(outcome, task.lane.kind)
        self._settled.append(outcome)
        for other in self._after.pop(task.id, ()):
            self._go_on_after(other, outcome)

    # --- calls that come of it --------------------------------------------------------------

    def _call_errbacks(self, task: OwnedTask, outcome: Outcome) -> None:
        carried = self._unpacked((task.ext or {})[ERRBACKS_KEY], task.id)
        failed = Call(task.id, task.lane.kind, self.inputs.own_body_of(task), task.ext)
        is_durable = task.durability is Durability.DISK
        for call, is_kept in errback_calls(failed, outcome, carried, self.wall_ms):
            self._own_call(call, is_durable=is_durable or is_kept)

    def _unpacked(self, packed: object, task_id: bytes) -> list[CarriedCall]:
        try:
            return unpack_calls(packed)
        except DecodeError as exc:
            text = f"task {format_task_id(task_id)}: {exc}; they are not made"
            self.effects.append(Note("error", "calls.damaged", text))
            return []

    def _own_call(self, call: Call, *, is_durable: bool) -> None:
        """Own a call that comes of a task, be there room or not."""
        if not (is_durable and self.custody.has_journal):
            self.submit([call], self.written.now_ms)
            return

        def told(refusal: str) -> None:
            if refusal:  # the journal takes it when it has room; till then it is as good as others
                self.submit([call], self.written.now_ms)

        self._submit_durable([call], told)

    def _add_to_chords(self, outcome: Outcome) -> None:
        """Calls that a member of a chord has made are members of it, too."""
        carried = self._unpacked((outcome.ext or {})[ADDED_KEY], outcome.id)
        if outcome.status != Status.SUCCESS or not all(len(each.id) == 16 for each in carried):
            return
        members = [each.id for each in carried if each.is_for_inputs]
        changed = self.inputs.extend(outcome.id, members)
        if not changed:
            return  # the chord has ended, or is not here
        for task in changed:
            count = len((task.ext or {})[INPUTS_KEY][0])
            if count > INPUTS_COUNT_MAX:
                task.is_waiting = False
                self._settle_here(task, Status.FAILURE, (
                    f"its chord has grown to {count:,} members, and a task waits for "
                    f"{INPUTS_COUNT_MAX:,} others at most"
                ))  # fmt: skip
            elif task.is_written and task.id not in self._putting:
                self.written.changed(task)
        is_durable = any(task.durability is Durability.DISK for task in changed)
        for each in carried:
            call = Call(each.id, each.kind, each.body, each.ext)
            self._own_call(call, is_durable=each.is_durable or is_durable)

    # --- those that waited for it ---------------------------------------------------------

    def _pass_on(self, task: OwnedTask, outcome: Outcome, *, is_written: bool) -> bool:
        """Tell the tasks that wait for this one, which has ended.

        Args:
            is_written: it is in the journal, and leaves it in this turn.

        Returns:
            Its result is to stay there.
        """
        self.inputs.forget(task.id)
        if task.id not in self.inputs.wanted:
            return False
        payload = payload_of(outcome)
        if ADDED_KEY in (outcome.ext or {}):
            self._add_to_chords(outcome)
        for other in self.inputs.ended(task.id, payload):
            if is_written and not other.is_written:
                # Else it might run, and this one again after a restart, with another result.
                self._after.setdefault(task.id, []).append(other)
            else:
                self._go_on_after(other, outcome)
        if payload is None or not self.inputs.must_be_kept(task.id):
            return False
        self.inputs.is_kept(task.id, payload)
        if not is_written:
            record = OwnedRecord(task.id, task.lane.kind, payload, durability=task.durability,
                                 written_ms=self.wall_ms, mark=MARK_ENDED)  # fmt: skip
            self.custody.put([record], partial(self._not_kept, task.id), sync=False)
        return True

    def _not_kept(self, task_id: bytes, refusal: str) -> None:
        if refusal:
            self.inputs.is_not_kept(task_id)

    def _go_on_after(self, task: OwnedTask, outcome: Outcome) -> None:
        """One that it waited for has ended so."""
        if task.id not in self.inputs.blocked:
            return  # it went on, or elsewhere, meanwhile
        if outcome.status != Status.SUCCESS:
            self._end_with(task, outcome)
        else:
            self._one_less(task)

    def _one_less(self, task: OwnedTask) -> None:
        """One result more has come for it."""
        task.is_waiting = self.inputs.is_blocked(task)
        if not (task.is_waiting or task.offered):
            self._place(task)

    def _end_with(self, task: OwnedTask, cause: Outcome) -> None:
        """It does not run, since one that it waits for has not succeeded. Nor do those that
        wait for it: one by one, since a chain may be long."""
        self._ending.append((task, cause))
        if len(self._ending) > 1:
            return
        while self._ending:
            task, cause = self._ending[0]
            if self.tasks.get(task.id) is not task or task.outcome is not None:
                self._ending.popleft()  # another one that it waited for has failed, too
                continue
            task.is_waiting = False
            is_revoked = cause.status in (Status.CANCELLED, Status.EXPIRED, Status.IGNORED)
            status = Status.CANCELLED if is_revoked else Status.FAILURE
            self._settle_here(task, status, _why_not_run(cause), cause=cause)
            self._ending.popleft()

    def _is_blocked(self, task: OwnedTask) -> bool:
        """See ``OwnedTasks``."""
        wrong = task.id not in self.inputs.blocked and refusal_of(task.id, task.ext, task.body)
        if wrong:
            self._settle_here(task, Status.FAILURE, f"it cannot wait for others: {wrong}")
            return True
        failed = self.inputs.block(task, self.written.now_ms)
        if failed is not None:
            self._end_with(task, failed)
            return True
        if self.inputs.is_blocked(task):
            task.is_waiting = True
            self._may_go_elsewhere(task)
            return True
        result = self.inputs.replacement(task)
        if result is not None:
            self._take_over(task, result)
            return True
        self.open_bytes -= len(task.body)
        task.body, ext = self.inputs.joined(task)
        task.ext = timed(ext, self.wall_ms) or None
        self.waiting.watch(task)
        self.open_bytes += len(task.body)
        task.attempt += 1  # others may have it as it was before: what was offered to them
        if len(task.body) > PAYLOAD_BYTES_MAX:
            self._settle_here(task, Status.FAILURE, (
                f"its arguments, with the results that it waited for, have {len(task.body):,} bytes"
                f", and {PAYLOAD_BYTES_MAX:,} can travel; let those tasks return less, or the "
                "place where it is"
            ))  # fmt: skip
            return True
        if task.is_written:
            self.written.renewed(task, has_new_body=True)
            return True
        return False

    def _take_over(self, task: OwnedTask, result: bytes) -> None:
        """What took its place has succeeded, and so has it. Those that stood for others which
        it took the place of follow one by one, since a task may be replaced again and again."""
        self._taking_over.append((task, result))
        if len(self._taking_over) > 1:
            return
        while self._taking_over:
            task, result = self._taking_over[0]
            if self.tasks.get(task.id) is task and task.outcome is None:
                task.is_waiting = False
                self._settle_here(task, Status.SUCCESS, "", body=result)
            self._taking_over.popleft()

    def told(self, outcome: Outcome) -> None:
        """How a task of another owner ended, which ``inputs.to_follow`` has named."""
        if ADDED_KEY in (outcome.ext or {}):
            self._add_to_chords(outcome)
        for task in self.inputs.ended(outcome.id, payload_of(outcome)):
            self._go_on_after(task, outcome)

    def resume_results(self, records: Iterable[OwnedRecord]) -> None:
        """Results that the journal holds for tasks that wait for more of them."""
        for record in records:
            if isinstance(parse_mark(record.mark), Ended):
                self.inputs.is_kept(record.id, record.body)
                for task in self.inputs.ended(record.id, record.body):
                    self._one_less(task)

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


def _wants_one(task: OwnedTask) -> bool:
    """It waits for one task, and what that raised is raised by this one, too."""
    ids, shape = (task.ext or {}).get(INPUTS_KEY, ((), None))
    return len(ids) == 1 and not isinstance(shape, list)


def _why_not_run(cause: Outcome) -> str:
    first = (cause.ext or {}).get(CAUSE_KEY, cause.id)
    text = (cause.ext or {}).get("e", "") if first == cause.id else ""
    return f"it did not run, because task {format_task_id(first)} has not succeeded" + (
        f": {text}" if text else ""
    )
