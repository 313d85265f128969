"""Tasks that wait for others to end, and what has come of those.

A task says in its facts which tasks it waits for (``INPUTS_KEY``). It is open like any other
and nobody gets it until all of them have succeeded; then their results are joined to its
arguments (``wire/joined.py``), and it goes on as if it had been called with them. When one of
them ends otherwise it ends as well, without having run. So a workflow is nothing but its
tasks: what journals, handoffs, cancellations and clocks do to tasks they do to it.

The result of a task that has left ``tasks`` is kept here for those that still wait. If one of
these is in the journal the result stays there too, in place of its task (``ENDED``), until
none of them wants it: so the disk writes each result once, however many others are awaited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from zmqtasks.core.calls import INPUTS_KEY
from zmqtasks.core.lanes import OwnedTask
from zmqtasks.errors import DecodeError
from zmqtasks.limits import INPUTS_COUNT_MAX, RESUME_GRACE_MS
from zmqtasks.wire.joined import Joined, Shape, is_shape, join, split
from zmqtasks.wire.messages import Outcome, Status

#: Key in the facts of a task that waits: it does not run itself, the result of the only one
#: that it waits for is its own. So a running task is replaced by another one.
REPLACED_KEY = "rp"


class _Blocked(msgspec.Struct):
    """A task that waits for others."""

    task: OwnedTask
    ids: list[bytes]
    shape: Shape | None
    #: {position in ``ids``: payload}, of those that have succeeded.
    results: dict[int, bytes]
    #: {position: id} of those that have not ended yet.
    missing: dict[int, bytes]
    #: So many results are in its arguments already.
    folded_count: int = 0


class Inputs:
    """What the blocked tasks of a dispatcher wait for.

    Args:
        tasks: its open tasks.
        kept: the outcome of a task that has settled here, if it is known.
        release: these results are wanted no more, and are in the journal.
    """

    def __init__(
        self, tasks: Mapping[bytes, OwnedTask], kept: Callable[[bytes], Outcome | None],
        release: Callable[[list[bytes]], None],
    ) -> None:  # fmt: skip
        self._tasks = tasks
        self._kept = kept
        self._release = release
        #: {task id: task} of those that wait.
        self.blocked: dict[bytes, _Blocked] = {}
        #: {awaited task id: {(id of one that waits for it, or still needs its result; the
        #: position there)}}, in order; many may wait for one, and each goes by itself.
        self.wanted: dict[bytes, dict[tuple[bytes, int], None]] = {}
        #: {task id: payload} of results that are in the journal in place of their tasks.
        self._written: dict[bytes, bytes] = {}
        #: Ids that nobody here knows, and since when; somebody else may own them.
        self.foreign: dict[bytes, int] = {}
        #: Those of them whose owners are being asked.
        self._followed: set[bytes] = set()
        #: Bytes of the results that have come.
        self.held_bytes = 0

    # --- those that wait ------------------------------------------------------------------

    def block(self, task: OwnedTask, now_ms: int) -> Outcome | None:
        """It waits from now on, if anything is missing; see ``is_blocked``.

        Returns:
            The outcome of one that has not succeeded, so that this task never runs.
        """
        if task.id in self.blocked:
            return None
        ids, shape = (task.ext or {})[INPUTS_KEY]
        blocked = _Blocked(task, ids, shape, {}, {})
        self.blocked[task.id] = blocked
        for position, payload in split(task.body).results.items():
            self._take(blocked, position, payload)
        blocked.folded_count = len(blocked.results)
        failed: Outcome | None = None
        for position, task_id in enumerate(ids):
            self.wanted.setdefault(task_id, {})[task.id, position] = None
            if position in blocked.results:
                continue
            if task_id in self._written:
                self._take(blocked, position, self._written[task_id])
                continue
            outcome = self._outcome_of(task_id)
            if outcome is None:
                blocked.missing[position] = task_id
                if task_id not in self._tasks:
                    self.foreign.setdefault(task_id, now_ms)
            elif outcome.status != Status.SUCCESS:
                failed = outcome
            else:
                self._take(blocked, position, payload_of(outcome) or b"")
        return failed

    def _take(self, blocked: _Blocked, position: int, payload: bytes) -> None:
        blocked.missing.pop(position, None)
        blocked.results[position] = payload
        self.held_bytes += len(payload)

    def _outcome_of(self, task_id: bytes) -> Outcome | None:
        task = self._tasks.get(task_id)
        return task.outcome if task is not None else self._kept(task_id)

    def is_blocked(self, task: OwnedTask) -> bool:
        """Something is missing."""
        blocked = self.blocked.get(task.id)
        return blocked is not None and bool(blocked.missing)

    def missing_of(self, task_id: bytes) -> list[bytes]:
        """Ids of the tasks that it still waits for."""
        blocked = self.blocked.get(task_id)
        return list(blocked.missing.values()) if blocked is not None else []

    def came(self, task_id: bytes) -> None:
        """This task is open here from now on."""
        self.foreign.pop(task_id, None)

    def went(self, task_id: bytes, now_ms: int) -> None:
        """This task is not open here any more, and has not ended here."""
        self.forget(task_id)
        if any(p in self.blocked[i].missing for i, p in self.wanted.get(task_id, ())):
            self.foreign[task_id] = now_ms

    def extend(self, task_id: bytes, more: list[bytes]) -> list[OwnedTask]:
        """Whatever still waits for the results of several, this one's among them, waits for
        those of these as well: they come last in its list.

        Returns:
            The tasks whose facts have changed so.
        """
        changed: dict[bytes, OwnedTask] = {}
        waiting = dict.fromkeys(other for other, _ in self.wanted.get(task_id, ()))
        looked_at: set[bytes] = set()
        while waiting:
            other, _ = waiting.popitem()
            looked_at.add(other)
            blocked = self.blocked[other]
            if REPLACED_KEY in (blocked.task.ext or {}):  # it stands for that one
                further = (each for each, _ in self.wanted.get(other, ()))
                waiting |= dict.fromkeys(each for each in further if each not in looked_at)
            if other in changed or not isinstance(blocked.shape, list):
                continue
            fresh = [each for each in more if each not in blocked.ids and each != other]
            first = len(blocked.ids)
            blocked.ids = [*blocked.ids, *fresh]
            blocked.shape = [*blocked.shape, *range(first, len(blocked.ids))]
            for position, awaited in enumerate(fresh, first):
                blocked.missing[position] = awaited
                self.wanted.setdefault(awaited, {})[other, position] = None
            task = blocked.task
            task.ext = {**(task.ext or {}), INPUTS_KEY: [blocked.ids, blocked.shape]}
            changed[other] = task
        return list(changed.values())

    # --- those that end -------------------------------------------------------------------

    def ended(self, task_id: bytes, payload: bytes | None) -> list[OwnedTask]:
        """A task has ended, here or elsewhere; ``payload``: of its result, if it succeeded.

        Returns:
            Those that waited for it. Each has all that it waits for, or still waits, or, when
            that one has not succeeded, ends as well.
        """
        self.foreign.pop(task_id, None)
        self._followed.discard(task_id)
        waiting: dict[bytes, OwnedTask] = {}
        for other, position in self.wanted.get(task_id, ()):
            blocked = self.blocked[other]
            if position not in blocked.missing:
                continue
            waiting[other] = blocked.task
            if payload is not None:
                self._take(blocked, position, payload)
        return list(waiting.values())

    def must_be_kept(self, task_id: bytes) -> bool:
        """Its result belongs into the journal: somebody who is there still waits for others."""
        return any(
            (blocked := self.blocked[other]).task.is_written
            and (blocked.missing or blocked.task.offered)
            for other, _ in self.wanted.get(task_id, ())
        )

    def is_kept(self, task_id: bytes, payload: bytes) -> None:
        """The journal has, or will have, this result in place of its task."""
        self._written[task_id] = payload

    def is_not_kept(self, task_id: bytes) -> None:
        """The journal has refused it."""
        self._written.pop(task_id, None)

    def replacement(self, task: OwnedTask) -> bytes | None:
        """The result of a task that was replaced, None of others."""
        if REPLACED_KEY not in (task.ext or {}):
            return None
        (payload,) = self.blocked[task.id].results.values()
        return payload

    # --- those that go on -----------------------------------------------------------------

    def body_of(self, task: OwnedTask) -> bytes:
        """Its arguments with all results that have come."""
        blocked = self.blocked.get(task.id)
        if blocked is None:
            return task.body
        body = split(task.body).body
        return join(Joined(body, blocked.results, blocked.shape)) if blocked.results else body

    def own_body_of(self, task: OwnedTask) -> bytes:
        """Its arguments; of one that still waits without the results that have come, which
        are of no use without the others."""
        is_waiting = task.id in self.blocked and REPLACED_KEY not in (task.ext or {})
        return split(task.body).body if is_waiting else task.body

    def fold(self, task: OwnedTask) -> bytes | None:
        """Its arguments with all results that have come, if there are new ones."""
        blocked = self.blocked.get(task.id)
        if blocked is None or len(blocked.results) == blocked.folded_count:
            return None
        blocked.folded_count = len(blocked.results)
        return self.body_of(task)

    def has_more(self, task_id: bytes) -> bool:
        """Results have come that are not in its arguments yet."""
        blocked = self.blocked.get(task_id)
        return blocked is not None and len(blocked.results) > blocked.folded_count

    def joined(self, task: OwnedTask) -> tuple[bytes, dict[str, Any] | None]:
        """Arguments and facts of a task that waits for nothing any more."""
        body = self.body_of(task)
        ext = {key: fact for key, fact in (task.ext or {}).items() if key != INPUTS_KEY}
        self.forget(task.id)
        return body, ext or None

    def forget(self, task_id: bytes) -> None:
        """It waits no longer: it goes on, or has ended, or is somebody else's."""
        blocked = self.blocked.pop(task_id, None)
        if blocked is None:
            return
        self.held_bytes -= sum(map(len, blocked.results.values()))
        released: list[bytes] = []
        for position, awaited in enumerate(blocked.ids):
            left = self.wanted[awaited]
            del left[task_id, position]
            if left:
                continue
            del self.wanted[awaited]
            self.foreign.pop(awaited, None)
            self._followed.discard(awaited)
            if self._written.pop(awaited, None) is not None:
                released.append(awaited)
        if released:
            self._release(released)

    # --- after a restart ------------------------------------------------------------------

    def tidy(self) -> None:
        """Let the journal forget results that nobody wants."""
        unwanted = [task_id for task_id in self._written if task_id not in self.wanted]
        for task_id in unwanted:
            del self._written[task_id]
        if unwanted:
            self._release(unwanted)

    # --- tasks of others ------------------------------------------------------------------

    def to_follow(self, now_ms: int) -> list[bytes]:
        """Ids whose outcome others must tell: nobody here has had them for a while. Each is
        named once."""
        due = [
            task_id
            for task_id, since_ms in self.foreign.items()
            if task_id not in self._followed and now_ms - since_ms >= RESUME_GRACE_MS
        ]
        self._followed.update(due)
        return due

    def next_deadline_ms(self) -> int | None:
        """When ``to_follow`` is wanted next."""
        if len(self.foreign) <= len(self._followed):
            return None
        return min(
            since_ms + RESUME_GRACE_MS
            for task_id, since_ms in self.foreign.items()
            if task_id not in self._followed
        )


def payload_of(outcome: Outcome) -> bytes | None:
    """The result of a task that has succeeded, None of others."""
    if outcome.status != Status.SUCCESS:
        return None
    assert isinstance(outcome.body, bytes), "an owner has the results of what has succeeded"
    return outcome.body


def refusal_of(task_id: bytes, ext: Mapping[str, Any] | None, body: bytes) -> str:
    """Why these cannot be the facts and arguments of a task that waits for others; "" if they
    can."""
    found = (ext or {}).get(INPUTS_KEY)
    if found is None:
        return ""
    if not isinstance(found, list) or len(found) != 2:
        return f"{INPUTS_KEY!r} is a list of ids and a shape"
    ids, shape = found
    if not isinstance(ids, list) or len(ids) > INPUTS_COUNT_MAX:
        return f"a task waits for {INPUTS_COUNT_MAX:,} others at most"
    if not all(isinstance(awaited, bytes) and len(awaited) == 16 for awaited in ids):
        return "the ids of what a task waits for are 16 bytes each"
    if REPLACED_KEY in (ext or {}) and len(ids) != 1:
        return "one task takes its place"
    if task_id in ids:
        return "it would wait for itself"
    if shape is not None and not is_shape(shape, len(ids)):
        return "the shape names a result that the task does not wait for"
    try:
        positions = split(body).results.keys()
    except DecodeError as exc:
        return str(exc)
    if not all(0 <= position < len(ids) for position in positions):
        return "its arguments have a result that it does not wait for"
    return ""
