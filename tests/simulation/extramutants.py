"""Bugs planted on purpose that only worlds with extras show, see ``mutants.py``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import msgspec

from zmqtasks.core import readytasks
from zmqtasks.core.attempts import Attempts
from zmqtasks.core.cancelling import CancellingTasks
from zmqtasks.core.inputs import Inputs
from zmqtasks.core.lanes import OwnedTask
from zmqtasks.core.owned import OwnedRecord
from zmqtasks.core.ownedtasks import OwnedTasks
from zmqtasks.core.settling import SettlingTasks
from zmqtasks.core.waiting import Waiting
from zmqtasks.wire.messages import Outcome, RetryRecord, Status


def expired_task_is_given() -> AbstractContextManager[Any]:
    """Nobody looks whether the time of a task has ended."""
    return mock.patch("zmqtasks.core.waiting.end_of", return_value=0)


def task_is_given_before_its_time() -> AbstractContextManager[Any]:
    """Nobody looks whether the time of a task has come."""
    return mock.patch.object(Waiting, "is_early", return_value=False)


def retry_before_its_delay() -> AbstractContextManager[Any]:
    """Every retry is given at once."""
    real = Attempts._retry

    def retry(self: Attempts, task: OwnedTask, record: RetryRecord) -> None:
        real(self, task, msgspec.structs.replace(record, delay_ms=0))

    return mock.patch.object(Attempts, "_retry", retry)


def retry_is_not_counted() -> AbstractContextManager[Any]:
    """A retry counts as a rejection, which has no end."""
    real = Attempts._retry

    def retry(self: Attempts, task: OwnedTask, record: RetryRecord) -> None:
        real(self, task, msgspec.structs.replace(record, counts=False))

    return mock.patch.object(Attempts, "_retry", retry)


def cancel_forgotten_by_the_next_owner() -> AbstractContextManager[Any]:
    """Whoever owns a task next, or again, does not look whether it was cancelled."""
    real = OwnedTasks._restore

    def restore(self: OwnedTasks, record: OwnedRecord) -> OwnedTask:
        task = real(self, record)
        self._cancelling.pop(task.id, None)
        return task

    return mock.patch.object(OwnedTasks, "_restore", restore)


def cancelled_task_goes_on() -> AbstractContextManager[Any]:
    """A cancelled task whose worker is lost, or that asks for it, gets another attempt."""
    return mock.patch.object(CancellingTasks, "_is_cancelled", return_value=False)


def priorities_are_ignored() -> AbstractContextManager[Any]:
    """Tasks are given in the order in which they came."""
    return mock.patch.object(readytasks, "priority_of", return_value=0)


def task_goes_on_before_all_have_ended() -> AbstractContextManager[Any]:
    """A task that waits for several goes on when one of them is missing."""

    def is_blocked(self: Inputs, task: OwnedTask) -> bool:
        blocked = self.blocked.get(task.id)
        return blocked is not None and len(blocked.missing) > (len(blocked.ids) > 1)

    return mock.patch.object(Inputs, "is_blocked", is_blocked)


def failure_is_taken_for_a_result() -> AbstractContextManager[Any]:
    """A task goes on although one that it waits for has failed."""

    real = SettlingTasks._go_on_after

    def go_on(self: SettlingTasks, task: OwnedTask, outcome: Outcome) -> None:
        for position, task_id in list(self.inputs.blocked[task.id].missing.items()):
            if task_id == outcome.id:
                self.inputs._take(self.inputs.blocked[task.id], position, b"")
        real(self, task, msgspec.structs.replace(outcome, status=Status.SUCCESS))

    return mock.patch.object(SettlingTasks, "_go_on_after", go_on)


def joined_before_the_journal_knows() -> AbstractContextManager[Any]:
    """A task is given away with its results while the journal still has it as waiting."""
    real = SettlingTasks._is_blocked

    def is_blocked(self: SettlingTasks, task: OwnedTask) -> bool:
        was_written, task.is_written = task.is_written, False
        try:
            return real(self, task)
        finally:
            task.is_written = was_written

    return mock.patch.object(SettlingTasks, "_is_blocked", is_blocked)


EXTRA_MUTANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    mutant.__name__: mutant
    for mutant in (
        expired_task_is_given, task_is_given_before_its_time, retry_before_its_delay,
        retry_is_not_counted, cancel_forgotten_by_the_next_owner, cancelled_task_goes_on,
        priorities_are_ignored, task_goes_on_before_all_have_ended, failure_is_taken_for_a_result,
        joined_before_the_journal_knows,
    )
}  # fmt: skip
