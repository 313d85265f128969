"""Offered tasks whose giver cannot say whose they are.

A giver with a journal is waited for, as long as it takes: it, or its heir, has the task.
All that is asked of others meanwhile is whether somebody owns the task, or knows its
outcome; then it is certainly not ours.

A giver without a journal takes its knowledge with it. If it has ended, or has not been
reached for ``OWNER_GONE_MS``, and nobody else has the task, it becomes ours by a *guess*.
If it was wrong, and the giver says so, we give way.

Nobody has it when all have said so twice in a row, while nobody was away who may have it as
an heir: one that is just restarting with the giver's journal would be its owner too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.incoming import IncomingTask, Phase
from zmqtasks.core.lanes import is_guarded
from zmqtasks.core.links import SELF, LinkId
from zmqtasks.core.openlinks import OpenLinks
from zmqtasks.core.polling import Findings, Polls, Suspects
from zmqtasks.ids import format_node
from zmqtasks.limits import (
    HANDOFF_ASK_MS_MAX,
    HANDOFF_IDS_MAX,
    HANDOFF_RETRY_MS,
    OWNER_GONE_MS,
)


class _Away:
    """A giver that cannot be asked."""

    __slots__ = ("ask_ms", "delay_ms", "was_asked")

    def __init__(self, ask_ms: int) -> None:
        #: When to ask everybody else, and the time from there to the next time.
        self.ask_ms = ask_ms
        self.delay_ms = OWNER_GONE_MS
        #: Everybody was asked about what was stored of its tasks by then.
        self.was_asked = False


class Doubts:
    """What a taker does while a giver is away.

    Args:
        node: this node's id.
        tasks: {task id: task} offered to this node.
        links: those of the taker.
        dispatcher: owns what was guessed.
        drop, activate: the taker's verdicts.
        may_conclude: whoever might know a task that has been sought since that time, in
            milliseconds, was there to be asked.
    """

    def __init__(
        self, node: bytes, tasks: Mapping[bytes, IncomingTask], links: OpenLinks,
        dispatcher: Dispatcher, *, drop: Callable[[Sequence[IncomingTask]], None],
        activate: Callable[[Sequence[IncomingTask]], None],
        may_conclude: Callable[[int], bool],
    ) -> None:  # fmt: skip
        self.node = node
        self.polls = Polls(parity=1, node=node)
        #: {task id: givers that may object}, of tasks that are ours by a guess.
        self.guessed: dict[bytes, list[bytes]] = {}
        self._tasks = tasks
        self._links = links
        self._dispatcher = dispatcher
        self._drop = drop
        self._activate = activate
        self._may_conclude = may_conclude
        #: Those that nobody else seems to have.
        self._orphaned = Suspects()
        self._now_ms = 0
        self._away: dict[bytes, _Away] = {}
        self._prune_ms = 0

    def is_back(self, giver: bytes) -> None:
        """It, or its heir, can be asked."""
        self._away.pop(giver, None)

    def is_away(self, giver: bytes, ask_ms: int) -> None:
        """It cannot be asked now; when that has lasted until then, ask others."""
        if any(task.claims_by(giver) for task in self._tasks.values()):
            self._away.setdefault(giver, _Away(ask_ms))

    def link_down(self, link: LinkId) -> None:
        """It will not answer."""
        self.polls.link_down(link)

    def next_deadline_ms(self) -> int | None:
        """When ``tick`` is wanted next."""
        times_ms = [away.ask_ms for away in self._away.values()]
        again_ms = self._orphaned.next_deadline_ms()
        if again_ms is not None:
            times_ms.append(again_ms)
        return min(times_ms, default=None)

    def tick(self, now_ms: int) -> None:
        """Ask others about the tasks of givers that stay away, ever more seldom."""
        self._now_ms = now_ms
        if self._orphaned:
            self._ask_again()
        if self.guessed and now_ms >= self._prune_ms:
            self._prune_ms = now_ms + OWNER_GONE_MS
            self._forget_ended()
        for giver, away in list(self._away.items()):
            if now_ms < away.ask_ms:
                continue
            away.ask_ms = now_ms + away.delay_ms
            away.delay_ms = min(2 * away.delay_ms, HANDOFF_ASK_MS_MAX)
            away.was_asked = True
            ids = [task_id for task_id, task in self._tasks.items() if task.claims_by(giver)]
            if ids:
                self.ask(ids)
            else:
                del self._away[giver]

    def _ask_again(self) -> None:
        due = self._orphaned.due(self._now_ms)
        for task_id in due:
            if task_id not in self._tasks:
                self._orphaned.drop(task_id)
        self.ask(due)

    def _forget_ended(self) -> None:
        """There is nothing left to give back."""
        tasks = self._dispatcher.tasks
        for task_id in [task_id for task_id in self.guessed if task_id not in tasks]:
            del self.guessed[task_id]

    def stored(self, tasks: Iterable[IncomingTask]) -> None:
        """These are in the journal now; what others were asked meanwhile did not name them."""
        self.ask(
            task.record.id
            for task in tasks
            if task.is_disowned
            or any(self._was_asked(claim.giver) for claim in task.claims.values())
        )

    def _was_asked(self, giver: bytes) -> bool:
        away = self._away.get(giver)
        return away is not None and away.was_asked

    def ask(self, ids: Iterable[bytes]) -> None:
        """Does anybody, this node included, know better of these?"""
        stored = [
            task_id
            for task_id in ids
            if task_id in self._tasks and self._tasks[task_id].phase is Phase.STORED
        ]
        self._poll(stored, self._heard)

    def _poll(self, ids: Sequence[bytes], then: Callable[[Findings], None]) -> None:
        # What ran here is in our own log, and a store may be ours.
        links = [SELF, *self._links]
        for first in range(0, len(ids), HANDOFF_IDS_MAX):
            self.polls.start(ids[first : first + HANDOFF_IDS_MAX], links, then)

    def _heard(self, findings: Findings) -> None:
        # Somebody may have become its owner since it answered, or was not heard at all.
        self._poll([task.record.id for task in self._judge(findings)], self._heard_again)

    def _heard_again(self, findings: Findings) -> None:
        guessed = self._judge(findings)
        for task in guessed:
            self._orphaned.drop(task.record.id)
            task.is_guessed = True
            attempt = task.record.attempt + 1  # the giver may have given the last one away
            task.record = msgspec.structs.replace(task.record, attempt=attempt)
            if is_guarded(task.record.kind, task.record.ext):
                task.is_fresh = False  # it may have been started, and must not be again
        self._activate(guessed)

    def _judge(self, findings: Findings) -> list[IncomingTask]:
        """Returns those that whoever might have them does not have."""
        orphans: list[IncomingTask] = []
        nowhere: list[IncomingTask] = []
        for task_id, finding in findings.items():
            task = self._tasks.get(task_id)
            if task is None or task.phase is not Phase.STORED or self._will_be_told(task):
                self._orphaned.drop(task_id)
            elif finding.settled is not None or finding.owner:
                self._orphaned.drop(task_id)
                orphans.append(task)
            elif any(claim.is_lasting for claim in task.claims.values()):
                self._orphaned.drop(task_id)  # it may be in that journal
            elif finding.offer > (max(claim.number for claim in task.claims.values()), self.node):
                self._orphaned.drop(task_id)
                orphans.append(task)  # it was offered to that node after us
            else:
                self._orphaned.add(task_id, self._now_ms, HANDOFF_RETRY_MS)
                if self._may_conclude(self._orphaned.since_ms(task_id)):
                    nowhere.append(task)
        self._drop(orphans)
        return nowhere

    def _will_be_told(self, task: IncomingTask) -> bool:
        return any(
            not claim.is_unknown and self._links.to(claim.giver) is not None
            for claim in task.claims.values()
        )

    def confirmed(self, ids: Iterable[bytes]) -> None:
        """The guess was right, or its giver does not care."""
        for task_id in ids:
            self.guessed.pop(task_id, None)

    def give_way(self, ids: Iterable[bytes]) -> list[bytes]:
        """A giver that was thought to be gone has kept these.

        Returns:
            Those that were ours by a guess and are not any longer.
        """
        owner = self._dispatcher
        away: list[bytes] = []
        for task_id in ids:
            givers = self.guessed.pop(task_id, None)
            task = owner.tasks.get(task_id)
            if givers is None or task is None or task.outcome is not None:
                continue
            if task in task.lane.ready:
                task.lane.ready.remove(task)
            owner.written.unsure.pop(task_id, None)
            task.offered = givers[0]
            owner.stories.tell(task_id, "given up", to=format_node(givers[0]))
            away.append(task_id)
        owner.give(away)
        return away
