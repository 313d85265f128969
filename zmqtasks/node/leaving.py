"""The end of a process that may still own tasks.

Each of them goes the first way that is open to it:

1. to a node that takes it over: the worker that holds it, else a broker, else a worker that
   can run it, else any other taker;
2. into the journal of this process, for the next node of this host;
3. where there is no journal, it is waited for, and given up when the time is over.

The first takes at most ``exit_wait_s``, and ends sooner when nobody is there who can take
anything. Ctrl-C goes on to the second at once, and another one to the end. At-most-once
tasks are waited for until a worker took them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from zmqtasks.core.calls import weight
from zmqtasks.core.handoff import Handoff
from zmqtasks.core.lanes import OwnedTask
from zmqtasks.limits import JOURNAL_MERGE_BYTES_MAX, JOURNAL_MERGE_TASKS_MAX
from zmqtasks.words import counted

if TYPE_CHECKING:
    from zmqtasks.node.client import Client

#: For what is on its way to takers and to the disk when the wait ends, in seconds.
_LAST_WORDS_S = 1.0
_DISK_S = 10.0
#: A broker that was heard of is waited for so long, if workers would take the tasks, too.
_BROKER_S = 0.5
#: While nothing is on its way to any taker for so long, they take no more; longer than one
#: that has refused is left alone.
_QUIET_S = 1.2
#: Takers, and kinds of tasks, that are named.
_NAMES_MAX = 5


class Leaving:
    """Sees to the open tasks of a client, on the thread that ends the process. Used once.

    Methods that begin with ``_is`` and ``_get`` run on the I/O thread.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._mesh = client.runtime.mesh
        self._give_up_s = time.monotonic() + client.exit_wait_s
        #: Why tasks are not in the journal, "" while that is not so.
        self._refusal = ""
        self._busy_s = self._begun_s = time.monotonic()
        #: Tasks that end with this process, after ``run``.
        self.given_up_count = 0

    def run(self) -> str:
        """Wait as long as there is reason to; returns what people should know of it, "" for
        nothing."""
        on_loop = self._client.on_loop
        try:
            if on_loop(self._is_done):
                return ""
            self._hand_over()
        except KeyboardInterrupt:
            self._give_up_s = 0.0
        try:
            self._write_down()
            self._wait_on()
        except KeyboardInterrupt:
            self._refusal = self._refusal or "interrupted"
        return on_loop(self._get_report)

    # --- to others ------------------------------------------------------------------------

    def _hand_over(self) -> None:
        client = self._client
        if not self._left_s:
            return
        # Who is linked first need not be who should have them.
        client.conditions.wait(self._is_time_to_give, self._left_s)
        self._give(self._is_stuck)
        # Of what is decided already the taker shall hear.
        client.conditions.wait(self._is_quiet, max(self._left_s, _LAST_WORDS_S))

    def _give(self, until: Callable[[], bool]) -> None:
        client, mesh = self._client, self._mesh
        try:
            client.on_loop(lambda: mesh.leave_tasks(client.runtime.now_ms))
            client.conditions.wait(until, self._left_s)
        finally:
            # What is offered then stays here.
            client.on_loop(mesh.stay_with_tasks)

    @property
    def _left_s(self) -> float:
        return max(0.0, self._give_up_s - time.monotonic())

    def _is_done(self) -> bool:
        return not self._client.dispatcher.tasks and not self._lane_count and self._is_quiet()

    def _is_time_to_give(self) -> bool:
        """Whoever should have them is linked, or is not there."""
        offering = self._handoff.offering
        if offering.has_broker or not self._client.dispatcher.tasks:
            return True
        if not offering.is_served:
            return self._client.questions.is_all_found
        is_late = time.monotonic() >= self._begun_s + _BROKER_S
        return is_late or not self._mesh.membership.pending_dials("broker")

    def _is_quiet(self) -> bool:
        """Nothing is on its way to a taker or to the disk."""
        handoff = self._handoff
        if self._mesh.is_deciding or handoff.is_giving:
            return False
        return all(handoff.links.to(taker) is None for taker in set(handoff.unconfirmed.values()))

    def _is_stuck(self) -> bool:
        """Nobody takes any more of them."""
        client = self._client
        is_quiet = self._is_quiet()
        if is_quiet and not client.dispatcher.tasks:
            return True
        if not is_quiet or not client.questions.is_all_found:
            self._busy_s = time.monotonic()
            return False
        quiet_s = _QUIET_S if self._handoff.has_takers else 0.0
        return time.monotonic() - self._busy_s >= quiet_s

    @property
    def _handoff(self) -> Handoff:
        assert self._mesh.ownership is not None
        return self._mesh.ownership.handoff

    # --- to the disk ----------------------------------------------------------------------

    def _write_down(self) -> None:
        client = self._client
        give_up_s = time.monotonic() + _DISK_S
        while (piece := client.on_loop(self._get_piece)) is not None:
            try:
                self._wait_until(piece.is_told, give_up_s)
            finally:
                self._refusal = client.on_loop(piece.end)
            # Refused because of what it has to write already? Then when it has less of that.
            before = piece.backlog
            if self._refusal and not (
                before and self._wait_until(lambda: self._backlog < before, give_up_s)  # noqa: B023
            ):
                return
        # Also what was on its way before.
        self._wait_until(lambda: not self._mesh.is_deciding, give_up_s)

    def _wait_until(self, condition: Callable[[], bool], give_up_s: float) -> bool:
        return self._client.conditions.wait(condition, max(0.0, give_up_s - time.monotonic()))

    @property
    def _backlog(self) -> int:
        return self._client.journal.backlog

    def _get_piece(self) -> _Piece | None:
        """Write some of those that are not written; None if there are none."""
        tasks: list[OwnedTask] = []
        size = 0
        for task in self._client.dispatcher.tasks.values():
            if not task.may_be_written:
                continue
            size += weight(task.body, task.ext)
            if tasks and size > JOURNAL_MERGE_BYTES_MAX:
                break
            tasks.append(task)
            if len(tasks) >= JOURNAL_MERGE_TASKS_MAX:
                break
        if not tasks:
            return None
        piece = _Piece(tasks, self._backlog)
        self._client.dispatcher.written.put(tasks, piece.told)
        return piece

    # --- nowhere --------------------------------------------------------------------------

    def _wait_on(self) -> None:
        """What nobody took and no disk may still end, or find a taker."""
        client = self._client
        if client.on_loop(self._is_kept) or not self._left_s:
            return
        self._give(self._is_kept)
        client.conditions.wait(self._is_quiet, _LAST_WORDS_S)

    def _is_kept(self) -> bool:
        """No task would end with this process."""
        # What is offered is on its way to the journal first, which may refuse it.
        if self._lane_count or not self._is_quiet():
            return False
        return all(task.is_written for task in self._client.dispatcher.tasks.values())

    @property
    def _lane_count(self) -> int:
        return self._client.lane.open_count

    # --- what became of them --------------------------------------------------------------

    def _get_report(self) -> str:
        client = self._client
        handed = self._handoff.leaving_report()
        parts = [f"{count} handed to {name}" for name, count in list(handed.items())[:_NAMES_MAX]]
        if len(handed) > _NAMES_MAX:
            others = list(handed.values())[_NAMES_MAX:]
            parts.append(f"{sum(others)} to {counted(len(others), 'other node')}")
        tasks = client.dispatcher.tasks.values()
        written = sum(task.is_written and task.outcome is None for task in tasks)
        if written:
            parts.append(f"{written} written to disk here, a node of this host will run them")
        given_up = Counter(task.lane.kind.name for task in tasks if not task.is_written)
        for waiting in client.lane.describe():
            given_up[waiting["task"]] += waiting["count"]
        self.given_up_count = given_up.total()
        if given_up:
            parts.append(self._given_up(given_up))
        if not parts:
            return ""
        return "tasks that had not finished when this process ended: " + ", ".join(parts)

    def _given_up(self, counts: Counter[str]) -> str:
        names = ", ".join(f"{name}: {count}" for name, count in counts.most_common(_NAMES_MAX))
        why = f", since the journal does not take them ({self._refusal})" if self._refusal else ""
        return (
            f"{counts.total()} given up ({names}){why}; wait for their results, or raise "
            "exit_wait_s"
        )


class _Piece:
    """Tasks on their way to the journal."""

    def __init__(self, tasks: list[OwnedTask], backlog: int) -> None:
        self._tasks = tasks
        #: Changes that the journal had to write before these.
        self.backlog = backlog
        self._is_told = False
        self.refusal = ""

    def told(self, refusal: str) -> None:
        """See ``custody.Then``."""
        self._is_told = True
        self.refusal = refusal
        if refusal:
            for task in self._tasks:
                # One that has ended meanwhile settles when the note of that is written.
                task.is_written = task.outcome is not None

    def is_told(self) -> bool:
        """The journal has answered."""
        return self._is_told

    def end(self) -> str:
        """Wait no longer; returns why they are not in the journal, "" if they are."""
        if not self._is_told:
            self.told("the disk does not answer")
        return self.refusal
