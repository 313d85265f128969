"""Revoking tasks, wherever they are: here, on their way here, or given away.

A task that was given away is revoked by its new owner: that one is told, until it has
answered. One that is offered to this node waits for its giver's word, and so does its
cancellation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from zmqtasks.core.cancelling import UNKNOWN
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import Effect, Send
from zmqtasks.core.given import GivenTasks
from zmqtasks.core.links import LinkId
from zmqtasks.core.openlinks import OpenLinks
from zmqtasks.core.ownedtasks import Cancellation
from zmqtasks.limits import REVOKED_OWED_MAX
from zmqtasks.wire.messages import Message, Order, Report, Status

#: ``Order.what``, and the request number of those between owners.
REVOKE = "revoke"
FORWARD_REQUEST = 0
#: It belongs to another node, which is told.
GIVEN = "given"
#: Owners that one cancellation passes through: more would be running in a circle.
_HOPS_MAX = 8


class _Owed(NamedTuple):
    """A cancellation whose task's owner has not answered."""

    how: Cancellation
    hops: int


class Revoking:
    """Passes cancellations on. ``effects`` is drained each turn.

    Args:
        dispatcher: owns the tasks that are here.
        given: knows who has those that were.
        links: to other owners.
        is_incoming: whether a task is offered to this node.
    """

    def __init__(
        self, dispatcher: Dispatcher, given: GivenTasks, links: OpenLinks,
        is_incoming: Callable[[bytes], bool],
    ) -> None:  # fmt: skip
        self.dispatcher = dispatcher
        self.given = given
        self.links = links
        self.effects: list[Effect] = []
        self._is_incoming = is_incoming
        #: {task id: how} of tasks that are offered to this node.
        self._awaited: dict[bytes, _Owed] = {}
        #: {task id: how} of tasks that are owned elsewhere.
        self._owed: dict[bytes, _Owed] = {}
        #: {(link, how): tasks} to be said at the end of the turn.
        self._words: dict[tuple[LinkId, _Owed], list[bytes]] = {}

    def revoke(self, ids: Iterable[bytes], args: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out an ORDER.

        Args:
            ids: of any tasks.
            args: ``terminate``: also those that run, with ``signal`` (15).

        Returns:
            ``data``: {id in hex: "revoked", "running" (its worker is asked), "settled", "given" (to
            another node, which is told) or "unknown"}; ``takers``: {id in hex: that node}.
        """
        terminate, signal, hops = args.get("terminate"), args.get("signal"), args.get("hops")
        number = signal if isinstance(signal, int) else 15
        how = Cancellation(Status.CANCELLED, bool(terminate), number if terminate else 0)
        owed = _Owed(how, hops + 1 if isinstance(hops, int) else 0)
        done: dict[str, str] = {}
        takers: dict[str, str] = {}
        for task_id in ids:
            said, taker = self._revoke(task_id, owed)
            done[task_id.hex()] = said
            if taker:
                takers[task_id.hex()] = taker.hex()
        return {"data": done, "takers": takers}

    def _revoke(self, task_id: bytes, owed: _Owed) -> tuple[str, bytes]:
        said = self.dispatcher.cancel_so(task_id, owed.how)
        if said != UNKNOWN:
            return said, b""
        if self._is_incoming(task_id):
            self._awaited[task_id] = owed
        taker = self.given.taker_of(task_id)
        if taker is not None:
            self._pass_on(task_id, taker, owed)
            return GIVEN, taker
        return said, b""

    def _pass_on(self, task_id: bytes, taker: bytes, owed: _Owed) -> None:
        if owed.hops >= _HOPS_MAX:
            return
        self._owed.pop(task_id, None)
        self._owed[task_id] = owed
        if len(self._owed) > REVOKED_OWED_MAX:
            del self._owed[next(iter(self._owed))]
        link = self.links.to(taker)
        if link is not None:
            self._words.setdefault((link, owed), []).append(task_id)

    def link_up(self, node: bytes) -> None:
        """It is there (again), and may have missed what it was told."""
        for task_id, owed in list(self._owed.items()):
            if self.given.taker_of(task_id) == node:
                self._pass_on(task_id, node, owed)

    def received(self, link: LinkId, message: Message) -> bool:
        """An order to revoke tasks, or the answer of a new owner to one; False: neither."""
        if isinstance(message, Order) and message.what == REVOKE:
            report = Report(message.request, self.revoke(message.ids, message.args))
            self.effects.append(Send(link, report))
        elif isinstance(message, Report) and message.request == FORWARD_REQUEST:
            self._answered(message.data.get("data"))
        else:
            return False
        return True

    def _answered(self, done: object) -> None:
        for shown in done if isinstance(done, dict) else ():
            with suppress(TypeError, ValueError):
                self._owed.pop(bytes.fromhex(shown), None)

    def flush(self) -> None:
        """Look at what has come and gone, and tell others: once a turn."""
        given, self.dispatcher.given_cancelled = self.dispatcher.given_cancelled, {}
        for task_id, how in given.items():
            taker = self.given.taker_of(task_id)
            if taker is not None:
                self._pass_on(task_id, taker, _Owed(how, 0))
        for task_id, owed in list(self._awaited.items()):
            if not self._is_incoming(task_id):
                del self._awaited[task_id]
                self.dispatcher.cancel_so(task_id, owed.how)
        words, self._words = self._words, {}
        for (link, owed), ids in words.items():
            args = {"terminate": owed.how.terminate, "signal": owed.how.signal, "hops": owed.hops}
            self.effects.append(Send(link, Order(FORWARD_REQUEST, REVOKE, ids, args)))
