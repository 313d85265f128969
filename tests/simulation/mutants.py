"""Bugs planted on purpose: a simulator that finds none of them proves nothing.

Each mutant is a context manager that breaks one rule of the machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import msgspec

from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call
from zmqtasks.core.custody import Custody
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.handoff import Handoff
from zmqtasks.core.incoming import IncomingTask, Phase
from zmqtasks.core.intake import Intake
from zmqtasks.core.lanes import OwnedTask
from zmqtasks.core.link import Link
from zmqtasks.core.linkevents import LeaseBack
from zmqtasks.core.links import LinkId
from zmqtasks.core.membership import Membership
from zmqtasks.core.offering import Offering
from zmqtasks.core.owned import Progress
from zmqtasks.core.ownedtasks import OwnedTasks
from zmqtasks.core.publishing import Publisher
from zmqtasks.core.resultreader import ResultReader
from zmqtasks.core.taking import Taking
from zmqtasks.core.written import WrittenTasks
from zmqtasks.journals.memory import _Content
from zmqtasks.node.chosen import ChosenIds, Fate
from zmqtasks.node.draining import Draining
from zmqtasks.node.journaling import JournalWriter
from zmqtasks.node.room import Room
from zmqtasks.wire.messages import Outcome, StateRecord, TaskState, VerdictRecord

Mutant = Callable[[], AbstractContextManager[None]]


@contextmanager
def _patched(owner: type, name: str, replacement: Any) -> Iterator[None]:
    with mock.patch.object(owner, name, replacement):
        yield


def outcome_of_any_attempt() -> AbstractContextManager[None]:
    """The owner takes an outcome without looking at its attempt number."""
    real = Dispatcher._done

    def done(self: Dispatcher, link: LinkId, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            task = self.tasks.get(outcome.id)
            worker = self.workers.get(link)
            if task is not None and worker is not None and task.attempt != outcome.attempt:
                if task.worker is not None:
                    task.worker.held.pop(task.id, None)
                elif task in task.lane.ready:
                    task.lane.ready.remove(task)
                worker.held[task.id] = task
                task.attempt, task.worker = outcome.attempt, worker
        real(self, link, outcomes)

    return _patched(Dispatcher, "_done", done)


def redelivery_of_the_same_attempt() -> AbstractContextManager[None]:
    """A redelivered task keeps its attempt number."""
    real = Dispatcher._redeliver

    def redeliver(self: Dispatcher, task: OwnedTask, *args: Any, **kwargs: Any) -> None:
        real(self, task, *args, **kwargs)
        if task.id in self.tasks:
            task.attempt -= 1

    return _patched(Dispatcher, "_redeliver", redeliver)


def nothing_is_sent_again() -> AbstractContextManager[None]:
    """What was in the pipes of a dropped connection stays lost."""

    def resend_after(self: Link, seq: int) -> list[list[bytes]]:
        self.acknowledged(seq)
        return []

    return _patched(Link, "resend_after", resend_after)


def acknowledged_before_commit() -> AbstractContextManager[None]:
    """A store tells publishers to let go when it has read, not when it has stored."""
    real = ResultReader.flush

    def flush(self: ResultReader) -> None:
        real(self)
        for effect in self.effects[:]:
            if isinstance(effect, fx.StoreRows):
                self.rows_stored(effect.batch, 0)

    return _patched(ResultReader, "flush", flush)


def lease_renewed_by_receipt() -> AbstractContextManager[None]:
    """Any heartbeat renews a worker's lease, though the owner may not hear the worker."""

    def renew(self: Membership, link: Link, echo_ms: int, now_ms: int) -> None:
        link.lease_until_ms = now_ms + self.timers.lease_ms
        if link.lease_lost:
            link.lease_lost = False
            self.events.append(LeaseBack(link.id))

    return _patched(Membership, "_renew_lease", renew)


def verdict_not_published() -> AbstractContextManager[None]:
    """Workers keep the owner's verdicts to themselves."""

    def publish(
        self: Publisher, owner: bytes, verdicts: list[VerdictRecord], now_ms: int, wall_ms: int
    ) -> None:
        for verdict in verdicts:
            entry = self.log.entries.pop(verdict.position, None)
            if entry is not None:
                self.log.bytes -= 200

    return _patched(Publisher, "publish_verdicts", publish)


def credit_not_checked() -> AbstractContextManager[None]:
    """Credit of an old session counts in the next one."""
    real = Intake.link_up

    def link_up(self: Intake, link: LinkId, peer: Any) -> None:
        kept = getattr(self, "_kept", {})
        real(self, link, peer)
        giver = self.givers.get(link)
        if giver is not None:
            last = kept.get(link)
            if last is not None:
                giver.received, giver.finished = last.received, last.finished
            kept[link] = giver
            self._kept = kept  # type: ignore[attr-defined]

    return _patched(Intake, "link_up", link_up)


def accepted_before_commit() -> AbstractContextManager[None]:
    """A durable call is accepted when the journal has been asked, not when it has it."""
    real = WrittenTasks.put

    def put(self: WrittenTasks, tasks: Sequence[OwnedTask], then: Callable[[str], None]) -> None:
        real(self, tasks, lambda refusal: None)
        then("")

    return _patched(WrittenTasks, "put", put)


def settled_before_the_journal_knows() -> AbstractContextManager[None]:
    """A written task settles at once, and leaves the journal some time later."""
    real = WrittenTasks.settle

    def settle(
        self: WrittenTasks, task: OwnedTask, told: Any, last: Progress | None = None
    ) -> None:
        real(self, task, told, last)
        self._settled(task, self._leaving.pop(task.id))

    return _patched(WrittenTasks, "settle", settle)


def attempt_not_noted() -> AbstractContextManager[None]:
    """The next attempt of a written task is given away before the journal knows of it."""

    def next_attempt(self: WrittenTasks, task: OwnedTask) -> None:
        self._notes.append(task)
        self._ready(task)

    return _patched(WrittenTasks, "next_attempt", next_attempt)


def attempt_repeated_after_restart() -> AbstractContextManager[None]:
    """A restarted owner gives resumed tasks away with the attempt of before."""

    def go_on(self: Dispatcher, task: OwnedTask) -> None:
        self._ready(task)

    return _patched(Dispatcher, "_go_on", go_on)


def anybody_may_claim() -> AbstractContextManager[None]:
    """A restarted owner takes outcomes of attempts that it has given up."""
    real = WrittenTasks.claimed

    def claimed(self: WrittenTasks, task: OwnedTask) -> bool:
        real(self, task)
        return True

    def is_claimed(self: Dispatcher, link: LinkId, task: OwnedTask | None, attempt: int) -> bool:
        worker = self.dealer.worker_at(link)
        if task is None or worker is None or task.worker is not None or task.outcome is not None:
            return False
        if task in task.lane.ready:
            task.lane.ready.remove(task)
        task.attempt, task.worker, task.is_noting = attempt, worker, False
        worker.held[task.id] = task
        return self.written.claimed(task)

    @contextmanager
    def both() -> Iterator[None]:
        with (
            _patched(WrittenTasks, "claimed", claimed),
            _patched(Dispatcher, "_is_claimed", is_claimed),
        ):
            yield

    return both()


def active_when_offered() -> AbstractContextManager[None]:
    """A taker works on what it is offered before its giver has let go of it."""
    real = Taking._stored

    def stored(self: Taking, arrival: Any, refusal: str) -> None:
        real(self, arrival, refusal)
        fresh: list[IncomingTask] = arrival.fresh
        there = [task for task in fresh if self.tasks.get(task.record.id) is task]
        self.activate([task for task in there if task.phase is Phase.STORED])

    return _patched(Taking, "_stored", stored)


def given_and_kept() -> AbstractContextManager[None]:
    """A giver goes on with what it has given away."""
    real = OwnedTasks.give

    def give(self: OwnedTasks, ids: Sequence[bytes]) -> list[OwnedTask]:
        given = real(self, ids)
        for task in given:
            self.tasks[task.id] = task
            self.open_bytes += len(task.body)
            task.offered = b""
            self._ready(task)
        return given

    return _patched(OwnedTasks, "give", give)


def offers_taken_from_memory() -> AbstractContextManager[None]:
    """A taker says that it has stored an offer as soon as the journal was asked to."""
    real = Custody.put

    def put(self: Custody, records: Any, then: Callable[[str], None], *, sync: bool) -> None:
        if any(record.mark for record in records):
            real(self, records, lambda refusal: None, sync=sync)
            then("")
        else:
            real(self, records, then, sync=sync)

    return _patched(Custody, "put", put)


def dropped_when_offered() -> AbstractContextManager[None]:
    """A giver lets go of its own copy when it makes an offer."""
    real = Offering._send

    def send(self: Offering, number: int, *, is_lasting: bool) -> None:
        tasks = [task for task, _ in self.offers[number].tasks if task.worker is None]
        real(self, number, is_lasting=is_lasting)
        for task in self.dispatcher.give([task.id for task in tasks]):
            self.custody.drop([task.id], None, sync=False)

    return _patched(Offering, "_send", send)


def dropped_before_it_is_confirmed() -> AbstractContextManager[None]:
    """A giver forgets that it gave a task before the taker says that it has it."""
    real = Handoff._decided

    def decided(
        self: Handoff, tasks: Sequence[OwnedTask], taker: bytes, link: LinkId, refusal: str
    ) -> None:
        real(self, tasks, taker, link, refusal)
        self.confirmed([task.id for task in tasks], taker)

    return _patched(Handoff, "_decided", decided)


def late_outcomes_told_apart_by_their_task_only() -> AbstractContextManager[None]:
    """An owner takes the outcome of any attempt of a settled task for the one it knows."""
    real = Dispatcher._late

    def late(
        self: Dispatcher, link: LinkId, outcome: Outcome, positions: list[int], refused: list[int]
    ) -> None:
        task = self.tasks.get(outcome.id)
        if self.kept.get(outcome.id) is not None:
            positions.append(outcome.position)
        elif task is not None and task.outcome is not None:
            self.written.told_again(task, (link, outcome.position))
        else:
            real(self, link, outcome, positions, refused)

    return _patched(Dispatcher, "_late", late)


def torn_end_believed() -> AbstractContextManager[None]:
    """After a power loss the commit that was torn counts, as far as it is there."""
    real = _Content.cut

    def cut(self: _Content, kept_count: int) -> _Content:
        left = real(self, kept_count)
        for change in self.unsynced[kept_count : kept_count + 1]:
            for record in list(change.puts.values())[:1]:
                torn = msgspec.structs.replace(record, body=record.body[: len(record.body) // 2])
                left.written.setdefault(record.id, torn)
                left.synced.setdefault(record.id, torn)
        return left

    return _patched(_Content, "cut", cut)


def torn_end_skipped_with_what_was_synced() -> AbstractContextManager[None]:
    """After a power loss the last task that was synced goes with the torn end."""
    real = _Content.cut

    def cut(self: _Content, kept_count: int) -> _Content:
        left = real(self, kept_count)
        for task_id in list(left.written)[-1:]:
            del left.written[task_id]
            left.synced.pop(task_id, None)
        return left

    return _patched(_Content, "cut", cut)


def verdict_before_the_drop() -> AbstractContextManager[None]:
    """A worker hears the verdict on a written task before the journal has let go of it."""
    real = Dispatcher._settle_written

    def settle_written(
        self: Dispatcher, task: OwnedTask, outcome: Outcome, link: LinkId | None, mark: bytes
    ) -> None:
        real(self, task, outcome, link, mark)
        if link is not None:
            self._verdicts.setdefault(link, ([], []))[0].append(outcome.position)

    return _patched(Dispatcher, "_settle_written", settle_written)


# --- planted into what only some worlds have --------------------------------------------------


def run_once_and_again() -> AbstractContextManager[None]:
    """What is not idempotent is redelivered like anything else."""
    real = Dispatcher._redeliver

    def redeliver(self: Dispatcher, task: OwnedTask, *args: Any, **kwargs: Any) -> None:
        real(self, task, *args, **{**kwargs, "ran": False})

    return _patched(Dispatcher, "_redeliver", redeliver)


def room_never_given_back() -> AbstractContextManager[None]:
    """Calls with a key count twice."""

    def give_back(self: Room, count: int, size: int) -> None:
        pass

    return _patched(Room, "give_back", give_back)


def room_without_end() -> AbstractContextManager[None]:
    """Calls pass however many are open."""

    def fits(self: Room, count: int, size: int) -> bool:
        return True

    return _patched(Room, "_fits", fits)


def neighbours_not_heard() -> AbstractContextManager[None]:
    """What others know of a key does not count."""

    def is_known(record: StateRecord) -> bool:
        return False

    @contextmanager
    def patched() -> Iterator[None]:
        with mock.patch("tests.simulation.caller._is_known", is_known):
            yield

    return patched()


def content_not_compared() -> AbstractContextManager[None]:
    """A key stands for whatever it is used for."""
    real = ChosenIds.fate_of

    def fate_of(self: ChosenIds, call: Call) -> Fate:
        fate = real(self, call)
        return Fate.OPEN if fate is Fate.OTHER else fate

    return _patched(ChosenIds, "fate_of", fate_of)


def written_not_synced() -> AbstractContextManager[None]:
    """What waits for the journal together is written, but not synced."""

    def commit(self: JournalWriter, group: Sequence[Any], *, puts: bool = True) -> None:
        self._journal.commit(
            [record for batch in group for record in batch.puts] if puts else (),
            [change for batch in group for change in batch.progress],
            [task_id for batch in group for task_id in batch.drops],
            sync=False,
        )
        for batch in group:
            batch.progress = batch.drops = ()
            if puts:
                batch.puts = ()

    return _patched(JournalWriter, "_commit", commit)


def waits_for_takers_without_end() -> AbstractContextManager[None]:
    """A node that stops waits until others have taken all that it owns."""
    real = Draining._until_given

    def until_given(self: Draining, now_ms: int) -> int:
        wait_ms = real(self, now_ms)
        return max(wait_ms, 100) if self._runtime.mesh.tasks_left else wait_ms

    return _patched(Draining, "_until_given", until_given)


def clocks_compared() -> AbstractContextManager[None]:
    """A lease begins with the sender's time in its heartbeat, as if all clocks were one."""
    real = Membership._renew_lease

    def renew(self: Membership, link: Link, echo_ms: int, now_ms: int) -> None:
        real(self, link, link.echo_ms, now_ms)

    return _patched(Membership, "_renew_lease", renew)


def verdict_awaited_from_the_dead() -> AbstractContextManager[None]:
    """Who gave a task away waits for its taker's heir, though that has only run it, and the
    verdict died with the taker."""

    def is_denial(record: StateRecord) -> bool:
        return record.state == TaskState.UNKNOWN

    @contextmanager
    def patched() -> Iterator[None]:
        with mock.patch("zmqtasks.core.given._is_denial", is_denial):
            yield

    return patched()


#: {bug: what the worlds have where it shows soonest, and nothing else}. Each is expected in one
#: of thirty such worlds at least, whatever the seeds.
KINDS: dict[Mutant, str] = {
    outcome_of_any_attempt: "alone,long,narrow,sluggish",
    redelivery_of_the_same_attempt: "disconnect,crash,child",
    nothing_is_sent_again: "disconnect",
    acknowledged_before_commit: "crash,slowstore,alone",
    lease_renewed_by_receipt: "alone,long,sluggish",
    verdict_not_published: "crash",
    credit_not_checked: "alone,long,sluggish",
    accepted_before_commit: "ownercrash,slowdisk,diskfull,durable",
    settled_before_the_journal_knows: "ownercrash,slowdisk,durable",
    attempt_not_noted: "ownercrash,crash,slowdisk,child,durable,alone,long",
    attempt_repeated_after_restart: "ownercrash,crash,disconnect,slowdisk,child,durable",
    anybody_may_claim: "partition,alone,narrow,sluggish",
    active_when_offered: "brokers",
    given_and_kept: "brokers",
    offers_taken_from_memory: "slowdisk,powercut,ownercrash,crash,brokers",
    dropped_when_offered: "ownercrash,diskfull,brokers",
    dropped_before_it_is_confirmed: "ownercrash,disconnect,slowdisk,brokers",
    late_outcomes_told_apart_by_their_task_only: "slowstore,pubdrop,alone,long,sluggish",
    torn_end_believed: "ownercrash,powercut,pause,freeze,disconnect,alone",
    torn_end_skipped_with_what_was_synced: "ownercrash,powercut,durable,long",
    verdict_before_the_drop: "ownercrash,slowdisk,durable",
    run_once_and_again: "once,crash,child,disconnect",
    room_never_given_back: "keys,limits",
    room_without_end: "limits",
    neighbours_not_heard: "keys,alone",
    content_not_compared: "keys",
    written_not_synced: "ownercrash,powercut,durable,writer",
    waits_for_takers_without_end: "drain,partition,broker,long,sluggish",
    clocks_compared: "clocks",
    verdict_awaited_from_the_dead: "curt,brokers,long",
}
MUTANTS: dict[str, Mutant] = {mutant.__name__: mutant for mutant in KINDS}
