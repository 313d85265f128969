"""What a node tells of the outcomes it has: to their owners, to subscribers, to stores.

::

    finished attempt --numbered--> result log --PUB--> subscribers
                                      |   +---DONE---> its owner --verdict--> log, PUB
                                      +--REPLAY--> stores that missed it

The log keeps what others must still get; this machine decides who is told now. To stores
that are far behind it publishes no more, since that would only wait in sockets, without
bounds: it tells them how far the log has come, and they ask for the rest at their own pace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from zmqtasks.core.batching import MessageBounds
from zmqtasks.core.effects import Effect, Note, Publish, Send
from zmqtasks.core.held import Finished
from zmqtasks.core.intake import Intake
from zmqtasks.core.links import SELF, LinkId
from zmqtasks.core.replaying import Replays
from zmqtasks.core.resultlog import ResultLog, with_kind, without_body
from zmqtasks.core.resultreader import ResultReader
from zmqtasks.core.spillrows import SpillPiece, SpillState
from zmqtasks.limits import PUB_AHEAD_BYTES_MAX, STORE_GONE_MS, STORE_LEFT_MS
from zmqtasks.wire.messages import (
    Done,
    Hello,
    Kind,
    Message,
    Outcome,
    PubHead,
    PubResults,
    Rack,
    Replay,
    Settled,
    VerdictRecord,
)
from zmqtasks.words import counted

#: Topics are this byte and the origin's node id.
RESULTS_TOPIC = b"R"
#: What a record weighs on the wire beside its payload, roughly.
_RECORD_BYTES = 100


class Publisher:
    """The outcomes of one node on their way. ``effects`` is drained each turn.

    Args:
        hello: what this node says of itself.
        links: {node: the link to use for it}, kept by the owner of this machine.
        intake: tells the credit that travels with DONE; None without a worker.
        reader: the node's own store, which reads without a socket.
        inline_bytes_max: results up to this size travel inside DONE.
        log: empty.
        unacked_bytes: what was sent on a link and not acknowledged.
    """

    def __init__(
        self, hello: Hello, links: Mapping[bytes, LinkId], intake: Intake | None,
        reader: ResultReader | None, inline_bytes_max: int, log: ResultLog,
        unacked_bytes: Callable[[LinkId], int],
    ) -> None:  # fmt: skip
        self.hello = hello
        self.links = links
        self.intake = intake
        self.reader = reader
        self.inline_bytes_max = inline_bytes_max
        self.log = log
        self.replays = Replays(log, unacked_bytes)
        self.effects: list[Effect] = []
        #: Topics (prefixes) that somebody subscribes to.
        self.topics: set[bytes] = set()
        #: {store node that is away: until when it counts}, and those that said goodbye.
        self._away: dict[bytes, int] = {}
        self._left: set[bytes] = set()
        #: ``(position, bytes)`` of what was published and not stored, and the sum of it.
        self._ahead: deque[tuple[int, int]] = deque()
        self._ahead_bytes = 0
        #: Stores are to hear how far the log is, since something was not published.
        self._owes_head = False
        #: Results go to the disk at the moment; what was said of a disk that fails.
        self._is_spilling = False
        self._disk_trouble = ""
        if reader is not None:
            self.log.store_seen(hello.node)

    # --- who listens ----------------------------------------------------------------------

    def subscription(self, topic: bytes, subscribed: bool) -> None:
        """Somebody subscribes to our PUB (or the last one stopped)."""
        if not topic.startswith(RESULTS_TOPIC):
            return
        if not subscribed:
            self.topics.discard(topic)
            return
        self.topics.add(topic)
        head = PubHead(self.hello.node, self.hello.epoch, self.log.head)
        self.effects.append(Publish(topic, head))

    def store_up(self, node: bytes) -> None:
        """A store is linked: nothing goes from the log before it has it."""
        self._away.pop(node, None)
        self._left.discard(node)
        self.log.store_seen(node)

    def store_down(self, node: bytes, reason: str, now_ms: int) -> None:
        """A store is lost; it may come back, also one that has said goodbye: stores are
        stopped to be upgraded, too."""
        if reason == "left":
            self._left.add(node)
            self._away[node] = now_ms + STORE_LEFT_MS
        else:
            self._away[node] = now_ms + STORE_GONE_MS

    @property
    def misses_store(self) -> bool:
        """What is in the log waits for a store, and none is linked."""
        log = self.log
        return (
            log.is_awaited and self.reader is None and not any(n in self.links for n in log.stores)
        )

    @property
    def deciders_away(self) -> frozenset[bytes]:
        """Owners that are not linked and have to decide on outcomes of the log."""
        undecided = self.log.undecided.items()
        return frozenset(node for node, waiting in undecided if waiting and node not in self.links)

    @property
    def is_idle(self) -> bool:
        """Nobody who is there, or is only lost, waits for anything of the log."""
        if any(node in self.links for node, waiting in self.log.undecided.items() if waiting):
            return False
        return not self.log.is_awaited or self._left.issuperset(self.log.stores)

    def tick(self, now_ms: int) -> None:
        """Trim the log; give up stores that have been away for too long."""
        self._note_dropped(self.log.trim(now_ms))
        for node, until_ms in list(self._away.items()):
            if now_ms >= until_ms:
                del self._away[node]
                self._give_up(node)

    def _give_up(self, node: bytes) -> None:
        """Results wait no more for this store."""
        has_left = node in self._left
        self._left.discard(node)
        awaited = self.log.awaited_count if self.log.is_awaited else 0
        self.log.store_left(node)
        if not has_left:
            text = f"a store ({node.hex()}) has been away too long: results wait no more for it"
            self.effects.append(Note("warning", "store.gone", text))
        elif awaited and not self.log.stores:
            text = (
                f"the store that left ({node.hex()}) has not come back, nor another one: "
                f"{counted(awaited, 'record')} of results kept for readers only, as far as there "
                "is room"
            )
            self.effects.append(Note("warning", "store.gone", text))

    def bound(self, now_ms: int) -> None:
        """Keep the log within its memory; ``log.is_choked`` tells then whether it is."""
        self._note_dropped(self.log.bound(now_ms))

    def flush(self, now_ms: int) -> None:
        """Once a turn: keep the log within its memory, send what was asked for again."""
        log, effects = self.log, self.effects
        self.bound(now_ms)
        if log.spill.effects:
            effects += log.spill.effects
            log.spill.effects = []
            self._note_spilling()
        self.replays.flush()
        if self.replays.effects:
            effects += self.replays.effects
            self.replays.effects = []
        if self._owes_head:
            self._owes_head = False
            head = PubHead(self.hello.node, self.hello.epoch, log.head)
            effects.append(Publish(RESULTS_TOPIC + self.hello.node, head))

    def _note_dropped(self, count: int) -> None:
        if count:
            text = (
                f"{counted(count, 'outcome')} dropped before a store had them, since the store has "
                "been away or slow for too long and there is no room for more; `zmqtasks status` "
                "counts them all"
            )
            self.effects.append(Note("error", "results.dropped", text, "results dropped"))

    # --- the disk -------------------------------------------------------------------------

    def _note_spilling(self) -> None:
        is_spilling = not self.log.spill.is_empty
        if is_spilling and not self._is_spilling and self.log.stores:
            text = (
                f"a store is away or slow: what exceeds {self.log.bytes_max} bytes of results "
                "waits on the disk for it"
            )
            self.effects.append(Note("warning", "results.spilled", text))
        self._is_spilling = is_spilling

    def spilled(self, error: str, state: SpillState, now_ms: int) -> None:
        """A ``SpillWrite`` was carried out, or not: why."""
        self.log.spilled(error, state, now_ms)
        trouble = self.log.spill.failing
        if trouble and not self._disk_trouble:
            text = f"results cannot wait on the disk, so they wait in memory: {trouble}"
            self.effects.append(Note("error", "results.disk", text))
        elif self._disk_trouble and not trouble:
            self.effects.append(Note("warning", "results.disk", "results go to the disk again"))
        self._disk_trouble = trouble

    def spill_read(self, token: int, piece: SpillPiece) -> None:
        """A ``SpillRead`` was carried out."""
        self.replays.read(token, piece)
        self._note_lost(piece.lost_count, "their checksums do not match")

    def spill_trimmed(self, state: SpillState) -> None:
        """A ``SpillTrim`` was carried out."""
        self.log.spill.trimmed(state)

    def spill_broken(self, error: str, now_ms: int) -> None:
        """What was on the disk is lost."""
        self._note_lost(self.log.spill_broken(error, now_ms), error)

    def _note_lost(self, count: int, why: str) -> None:
        if count:
            self.log.spill.lost_count += count
            text = f"{counted(count, 'outcome')} lost that waited on the disk for a store: {why}"
            self.effects.append(Note("error", "results.lost", text))

    # --- messages -------------------------------------------------------------------------

    def received(
        self, link: LinkId, node: bytes, message: Message, now_ms: int, wall_ms: int
    ) -> bool:
        """A message of ``node`` about our log; False if it is none."""
        if isinstance(message, Settled):
            verdicts = self.log.decide(message.ranges, message.refused, now_ms)
            self.log.undecidable(message.unknown, node)
            self.publish_verdicts(node, verdicts, now_ms, wall_ms)
        elif isinstance(message, Rack):
            self.log.stored(node, message.position)
            self._count_ahead()
        elif isinstance(message, Replay):
            self.replays.asked(link, message)
        else:
            return False
        return True

    # --- telling --------------------------------------------------------------------------

    def report(self, finished: Sequence[Finished], now_ms: int, wall_ms: int) -> None:
        """Attempts ended here: number, publish, and tell their owners."""
        intake = self.intake
        assert intake is not None
        made = self.log.append(finished, now_ms)
        by_owner: dict[bytes, list[tuple[Kind, Outcome]]] = {}
        links: dict[bytes, LinkId] = {}
        for done, pair in zip(finished, made, strict=True):
            task = done.task
            by_owner.setdefault(task.owner, []).append(pair)
            links[task.owner] = task.link
        for owner, pairs in by_owner.items():
            self._publish(owner, pairs, [], now_ms, wall_ms)
            link = links[owner] if intake.is_linked(links[owner]) else self.links.get(owner)
            if link is not None:
                self._send_done(link, [o for _, o in pairs if self.log.is_undecided(o)])

    def report_again(self, link: LinkId, owner: bytes) -> None:
        """An owner is back, or on another link: what it was told before may be lost."""
        again = self.log.undecided_of(owner)
        if again:
            self._send_done(link, again)

    def take_over(self, attempts: Iterable[tuple[bytes, int]]) -> None:
        """This node owns these tasks now: it hears of those attempts that have ended here."""
        own = self.hello.node
        taken = [self.log.taken_over(task_id, attempt, own) for task_id, attempt in attempts]
        self._send_done(SELF, [outcome for outcome in taken if outcome is not None])

    def _send_done(self, link: LinkId, outcomes: Sequence[Outcome]) -> None:
        limit = self.intake.limit_for(link) if self.intake is not None else 0
        batch: list[Outcome] = []
        bounds = MessageBounds()
        for outcome in outcomes:
            if outcome.size > self.inline_bytes_max and link != SELF:
                outcome = without_body(outcome)
            if not bounds.takes(outcome.body):
                self.effects.append(Send(link, Done(limit, batch)))
                batch = []
            batch.append(outcome)
        if batch:
            self.effects.append(Send(link, Done(limit, batch)))

    def publish_own(self, made: Sequence[tuple[Kind, Outcome]], now_ms: int, wall_ms: int) -> None:
        """Outcomes that this node tells of as the owner of their tasks."""
        for kind, outcome in made:
            appended = self.log.append_own(kind, outcome, now_ms)
            self._publish(self.hello.node, *appended, now_ms, wall_ms)

    def publish_verdicts(
        self, owner: bytes, verdicts: list[VerdictRecord], now_ms: int, wall_ms: int
    ) -> None:
        """What an owner has decided about outcomes of this log."""
        if verdicts:
            self._publish(owner, [], verdicts, now_ms, wall_ms)

    def _publish(
        self, owner: bytes, pairs: list[tuple[Kind, Outcome]], verdicts: list[VerdictRecord],
        now_ms: int, wall_ms: int,
    ) -> None:  # fmt: skip
        """PUB for who subscribes; the own store reads without a socket."""
        topic = RESULTS_TOPIC + owner
        wanted = any(topic.startswith(prefix) for prefix in self.topics)
        if not wanted and self.reader is None:
            return
        node, epoch = self.hello.node, self.hello.epoch
        parts = _pub_parts(node, epoch, pairs, verdicts)
        if self.reader is not None:
            for part in parts:
                self.reader.published(part, now_ms, wall_ms)
            self.reader.head_announced(node, epoch, self.log.head, now_ms)
        if not wanted:
            return
        if self._is_far_ahead(pairs, verdicts):
            # What was sent at most once has no other way to its caller.
            pairs = [pair for pair in pairs if not self.log.is_undecided(pair[1])]
            parts = _pub_parts(node, epoch, pairs, []) if pairs else []
        self.effects += [Publish(topic, part) for part in parts]

    def _is_far_ahead(
        self, pairs: Sequence[tuple[Kind, Outcome]], verdicts: Sequence[VerdictRecord]
    ) -> bool:
        """Some linked store is too far behind for these to be published too."""
        if not self._count_ahead():
            return False
        if self._ahead_bytes >= PUB_AHEAD_BYTES_MAX:
            self._owes_head = True
            return True
        last = verdicts[-1].position if verdicts else pairs[-1][1].position
        size = sum(outcome.size + _RECORD_BYTES for _, outcome in pairs)
        size += _RECORD_BYTES * len(verdicts)
        self._ahead.append((last, size))
        self._ahead_bytes += size
        return False

    def _count_ahead(self) -> bool:
        """Forget what the linked stores have; False: there are none."""
        stores = self.log.stores
        linked = [position for node, position in stores.items() if node in self.links]
        slowest = min(linked, default=self.log.head)
        while self._ahead and self._ahead[0][0] <= slowest:
            self._ahead_bytes -= self._ahead.popleft()[1]
        return bool(linked)


def _pub_parts(
    node: bytes, epoch: int, pairs: list[tuple[Kind, Outcome]], verdicts: list[VerdictRecord]
) -> list[PubResults]:
    parts: list[PubResults] = []
    kinds: dict[Kind, int] = {}
    part = PubResults(node, epoch, [], [], [])
    bounds = MessageBounds()
    for kind, outcome in pairs:
        if not bounds.takes(outcome.body):
            part.kinds = list(kinds)
            parts.append(part)
            part = PubResults(node, epoch, [], [], [])
            kinds = {}
        part.outcomes.append(with_kind(outcome, kinds.setdefault(kind, len(kinds))))
    part.kinds = list(kinds)
    part.verdicts = verdicts
    parts.append(part)
    return parts
