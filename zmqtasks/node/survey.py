"""One look at the whole mesh, for the commands that show it and for calls by name.

The nodes that a fresh process has found say nothing yet of those it has not: on this
host the directory is complete at once, beyond it multicast answers take their time, so
the look ends when every known peer is linked or given up, and not before the wait that
the caller allows for discovery.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from zmqtasks import paths
from zmqtasks.core import effects as fx
from zmqtasks.core.link import Link
from zmqtasks.ids import format_node
from zmqtasks.net.greeter import SILENT, UNREACHED
from zmqtasks.node.clock import now_ms
from zmqtasks.wire.messages import Hello, Inspect, Order

if TYPE_CHECKING:
    from zmqtasks.node.runtime import Runtime

_T = TypeVar("_T")
_LOOK_EVERY_S = 0.01
#: Of an address of ``--peer``: no node has said anything there.
_NO_ANSWER_YET = "no answer yet"
NOBODY_THERE = frozenset((UNREACHED, SILENT, _NO_ANSWER_YET))


class OnLoop(Protocol):
    """Runs a function on the loop's thread and gives what it returns."""

    def __call__(self, function: Callable[[], _T], /) -> _T:
        """See above."""


class SeenNode(NamedTuple):
    """A node that this process has a link to, or knows of."""

    node: str
    name: str
    roles: tuple[str, ...]
    #: "local", "mdns", "static" or "cache"; "dialled in" for who found us first.
    found_by: str
    #: "ipc" or "tcp", "" where nothing is known.
    transport: str
    #: Where it was dialled, "" if it dialled us.
    address: str
    #: Its answer, None if there was none.
    report: dict[str, Any] | None
    #: Why there is no answer, "" if there is one.
    trouble: str
    #: The question went to it.
    asked: bool = False


class Request(NamedTuple):
    """A command for nodes, see ``commands.py``."""

    what: str
    ids: Sequence[bytes] = ()
    args: Mapping[str, Any] = {}
    is_order: bool = False
    #: Only nodes with one of these roles; empty: all, this process included.
    roles: frozenset[str] = frozenset()
    #: Only nodes with one of these names, or patterns of names such as ``"w*"``, or ids in
    #: hex, or both as ``name@id``; None: all.
    destination: Sequence[str] | None = None
    #: Only these nodes, by id; None: all.
    nodes: frozenset[bytes] | None = None

    def is_for(self, peer: Hello) -> bool:
        """It is one of those who shall answer."""
        if self.roles and self.roles.isdisjoint(peer.roles):
            return False
        if self.nodes is not None and peer.node not in self.nodes:
            return False
        return self.destination is None or any(_is_named(peer, to) for to in self.destination)

    def is_found(self, peers: Sequence[Hello]) -> bool:
        """All that it names are among them."""
        there = {peer.node for peer in peers}
        names = {peer.name for peer in peers} | {format_node(node) for node in there}
        names.update(f"{peer.name}@{format_node(peer.node)}" for peer in peers)
        if self.nodes is not None:
            return self.nodes <= there
        return self.destination is not None and names.issuperset(self.destination)


def _is_named(peer: Hello, pattern: str) -> bool:
    node = format_node(peer.node)
    return fnmatchcase(peer.name, pattern) or pattern in (node, f"{peer.name}@{node}")


class Survey:
    """Questions to everybody and their answers; one for each client.

    Methods that begin with an underscore, and ``report_got``, run on the loop's thread.
    """

    def __init__(self, runtime: Runtime, on_loop: OnLoop) -> None:
        self._runtime = runtime
        self._on_loop = on_loop
        self._number = 0
        self._begun_ms = runtime.now_ms
        #: {number of the request: its answers}
        self._rounds: dict[int, _Round] = {}

    # --- what others call ---------------------------------------------------------------

    def settle(
        self, wait_s: float, enough: Callable[[Sequence[Hello]], bool] | None = None,
        *, all_known: bool = False,
    ) -> list[Hello]:  # fmt: skip
        """Wait until everybody who can be found is linked.

        Args:
            wait_s: seconds at most; all of them are waited where peers beyond this host
                may still answer.
            enough: looks at the linked peers and says that nobody else matters.
            all_known: ``enough`` counts once all are linked, or given up, that are known by then.

        Returns:
            What each linked peer says of itself.
        """
        self._on_loop(self._want_everybody)
        give_up = time.monotonic() + wait_s
        while True:
            is_dialling = all_known and self._on_loop(self._runtime.mesh.membership.pending_dials)
            peers = self._on_loop(self._peers)
            is_enough = enough is not None and not is_dialling and enough(peers)
            if is_enough or time.monotonic() >= give_up:
                return peers
            if self._on_loop(self._is_settled):
                return self._on_loop(self._peers)
            time.sleep(_LOOK_EVERY_S)

    def ask(self, timeout_s: float) -> list[SeenNode]:
        """Ask every linked node to describe itself, and wait for the answers.

        Returns:
            Those, and the ones that are known but did not answer.
        """
        return self.inspect("status", (), timeout_s)

    def inspect(self, what: str, ids: Sequence[bytes], timeout_s: float) -> list[SeenNode]:
        """Ask every linked node about something, see ``custodian.py``."""
        return self._round(lambda number: Inspect(number, what, list(ids)), timeout_s)

    def stories(self, task_id: bytes, timeout_s: float) -> list[tuple[str, dict[str, Any]]]:
        """``(node, what it tells)`` of all nodes in sight that know this task, and of our own."""
        runtime = self._runtime
        self._on_loop(self._want_everybody)
        give_up = time.monotonic() + timeout_s
        while self._on_loop(runtime.mesh.membership.pending_dials) and time.monotonic() < give_up:
            time.sleep(_LOOK_EVERY_S)
        own = self._on_loop(lambda: runtime.custodian.story_of(task_id))
        told = [(runtime.name, own)] if own is not None else []
        for node in self.inspect("story", [task_id], timeout_s):
            story = ((node.report or {}).get("stories") or {}).get(task_id.hex())
            if story:
                told.append((node.name, story))
        return told

    def names(self) -> dict[str, str]:
        """{node id in hex: name} of all linked nodes, and of our own."""
        own = self._runtime.mesh.hello
        return {format_node(peer.node): peer.name for peer in [own, *self._on_loop(self._peers)]}

    def order(self, what: str, ids: Sequence[bytes], timeout_s: float) -> list[SeenNode]:
        """Let every linked node do something, see ``custodian.py``."""
        return self._round(lambda number: Order(number, what, list(ids)), timeout_s)

    def _round(
        self, make: Callable[[int], Inspect | Order], timeout_s: float,
        nodes: Collection[bytes] | None = None,
    ) -> list[SeenNode]:  # fmt: skip
        done: Future[None] = Future()
        number = self._on_loop(lambda: self._ask(make, done, nodes))
        # Those without an answer are named.
        with contextlib.suppress(TimeoutError):
            done.result(timeout_s)
        return self._on_loop(lambda: self._seen(number))

    def command(self, request: Request, timeout_s: float) -> list[SeenNode]:
        """Let nodes answer something, or do it; those that did not answer are told, too.

        Args:
            request: what, and who.
            timeout_s: seconds that they have; those on other hosts also have to be found
                in this time.
        """
        give_up = time.monotonic() + timeout_s
        nodes = {peer.node for peer in self.find(request, timeout_s)}
        make: Callable[[int], Inspect | Order]
        make = partial(
            _message, Order if request.is_order else Inspect, request.what, request.ids,
            request.args,
        )  # fmt: skip
        left_s = max(give_up - time.monotonic(), timeout_s / 2)
        seen = [node for node in self._round(make, left_s, nodes) if self._is_meant(request, node)]
        own = self._on_loop(lambda: self._own(request))
        others = {peer.name: peer.roles for peer in self._on_loop(self._peers)}
        return [
            *seen,
            *own,
            *(_but_there(node, request, others) for node in missing(request, seen)),
        ]

    def find(self, request: Request, timeout_s: float) -> list[Hello]:
        """The linked peers that a request is for, when all could be found, or time is up."""
        give_up = time.monotonic() + timeout_s
        self._on_loop(self._want_everybody)
        while True:
            # At one moment: who comes up between two looks would be neither here nor awaited.
            peers, is_all = self._on_loop(
                lambda: (self._asked_peers(), self._is_all_found(request))
            )
            if is_all or time.monotonic() >= give_up:
                return [peer for peer in peers if request.is_for(peer)]
            time.sleep(_LOOK_EVERY_S)

    def _is_all_found(self, request: Request) -> bool:
        """All that it names are here, or there was time to find everybody; and nobody is still
        being dialled, who may have the same name."""
        runtime = self._runtime
        asked = self._asked_peers()
        if request.nodes is not None and request.is_found(asked):
            return True
        if runtime.finding.is_awaiting_peers:
            return False
        if runtime.mesh.membership.pending_dials() or len(asked) < len(self._peers()):
            return False
        is_time = runtime.now_ms >= self._begun_ms + runtime.finding.grace_ms
        return is_time or request.is_found(asked)

    def _asked_peers(self) -> list[Hello]:
        """Those whom the machines know already: a link may have come up in this very turn."""
        mesh = self._runtime.mesh
        return [peer for peer in self._peers() if mesh.is_linked(peer.node)]

    @staticmethod
    def _is_meant(request: Request, node: SeenNode) -> bool:
        if node.name:
            return bool(node.report is not None or node.asked)
        # Known and not linked: its roles are known at best, and its id.
        if request.destination is not None or request.nodes is not None:
            return node.node in (request.destination or ())
        return not (request.roles and request.roles.isdisjoint(node.roles))

    def _own(self, request: Request) -> list[SeenNode]:
        """What this process answers itself."""
        own = self._runtime.mesh.hello
        if not request.is_for(own):
            return []
        control = self._runtime.control
        answer = control.ordered if request.is_order else control.inspected
        report = answer(request.what, request.ids, request.args)
        return [SeenNode(
            format_node(own.node), own.name, tuple(own.roles), "self", "", "", report, "",
        )]  # fmt: skip

    def report_got(self, effect: fx.ReportGot) -> None:
        """A node answered."""
        round_ = self._rounds.get(effect.request)
        if round_ is not None:
            round_.got(effect.link.peer[1:9], effect.data)

    def unreached(self) -> list[SeenNode]:
        """Nodes that are known to be there, but are not linked."""
        return self._on_loop(self._unreached)

    def silent_peers(self) -> dict[str, str]:
        """{address of ``--peer`` where no node of this mesh answers: why}."""
        found = self._on_loop(self._runtime.finding.static_troubles)
        return {address: why or _NO_ANSWER_YET for address, why in found.items()}

    @property
    def looked_s(self) -> float:
        """For how many seconds this client has been looking for nodes."""
        return (now_ms() - self._begun_ms) / 1000

    def looked_at(self) -> list[str]:
        """Where peers were looked for, in words."""
        runtime = self._runtime
        settings = runtime.settings
        places = [f"this host ({paths.runtime_dir(settings)})"]
        if settings.peers:
            places.append(f"peers {', '.join(settings.peers)}")
        if not runtime.finding.beyond_host:
            places.append(
                "not beyond this host, since there is no mesh key (zmqtasks keygen makes one)"
            )
        elif settings.mdns:
            places.append("the local network (multicast DNS)")
        if runtime.fingerprint:
            places.append(f"with mesh key {runtime.fingerprint}")
        return places

    # --- on the loop's thread -----------------------------------------------------------

    def _peers(self) -> list[Hello]:
        return [link.peer for link in self._links() if link.peer is not None]

    def _want_everybody(self) -> None:
        self._runtime.mesh.membership.want_all(self._runtime.now_ms)

    def _is_settled(self) -> bool:
        runtime = self._runtime
        if runtime.mesh.membership.pending_dials():
            return False
        # Multicast answers cannot be known to be complete.
        return not (runtime.finding.grace_ms or runtime.finding.is_awaiting_peers)

    def _links(self) -> list[Link]:
        links: dict[bytes, Link] = {}
        for link in self._runtime.mesh.membership.links.values():
            # Which of two links to a node counts is the same for all that look.
            if link.is_open and link.peer is not None and (
                link.peer.node not in links or link.id.side == "out"
            ):  # fmt: skip
                links[link.peer.node] = link
        return list(links.values())

    def _ask(
        self, make: Callable[[int], Inspect | Order], done: Future[None],
        nodes: Collection[bytes] | None,
    ) -> int:  # fmt: skip
        self._number = number = self._number + 1
        asked = {link.peer[1:9] for link in self._runtime.mesh.ask_all(make(number), nodes)}
        there = [_seen_link(link, None) for link in self._links()]
        self._rounds[number] = _Round(done, asked, there)
        if not asked:
            done.set_result(None)
        return number

    def _seen(self, number: int) -> list[SeenNode]:
        round_ = self._rounds.pop(number)
        linked = {link.peer.node: link for link in self._links() if link.peer is not None}
        gone = round_.gone(linked)
        gone_ids = {node.node for node in gone}
        return [
            *(
                _seen_link(link, round_.answers.get(node))._replace(asked=node in round_.asked)
                for node, link in linked.items()
            ),
            *gone,
            *(node for node in self._unreached() if node.node not in gone_ids),
        ]

    def _unreached(self) -> list[SeenNode]:
        seen: list[SeenNode] = []
        linked = {peer.node for peer in self._peers()}
        for node, known in self._runtime.mesh.membership.candidates.items():
            found = known.candidate
            if node in linked or found.source == "cache":
                continue  # the cache remembers many that are gone
            addresses = ", ".join(found.endpoints)
            seen.append(SeenNode(
                format_node(node), "", found.roles, found.source, "", addresses, None,
                f"cannot be reached at {addresses}",
            ))  # fmt: skip
        return seen


class _Round:
    """One question to everybody.

    Args:
        done: set when all have answered.
        asked: to whom it went.
        there: who was linked then.
    """

    def __init__(self, done: Future[None], asked: set[bytes], there: Sequence[SeenNode]) -> None:
        self.answers: dict[bytes, dict[str, Any]] = {}
        self.asked = frozenset(asked)
        self._there = there
        self._done = done
        self._waiting = asked

    def gone(self, linked: Collection[bytes]) -> list[SeenNode]:
        """Those who were asked and have left since: some may have answered, as when told to."""
        return [
            before._replace(
                report=self.answers.get(node), asked=True,
                trouble="" if node in self.answers else "it left before it answered",
            )
            for before in self._there
            if (node := bytes.fromhex(before.node)) in self.asked and node not in linked
        ]  # fmt: skip

    def got(self, node: bytes, data: dict[str, Any]) -> None:
        """One answer."""
        self.answers[node] = data
        self._waiting.discard(node)
        if not self._waiting and not self._done.done():
            self._done.set_result(None)


def _seen_link(link: Link, report: dict[str, Any] | None) -> SeenNode:
    assert link.peer is not None
    return SeenNode(
        format_node(link.peer.node), link.peer.name, tuple(link.peer.roles), link.source,
        link.endpoint.partition("://")[0], link.endpoint, report,
        "" if report is not None else f"did not answer (its link is {link.state.value})",
    )  # fmt: skip


def _message(
    cls: type[Inspect] | type[Order], what: str, ids: Sequence[bytes], args: Mapping[str, Any],
    number: int,
) -> Inspect | Order:  # fmt: skip
    return cls(number, what, list(ids), dict(args))


def _but_there(node: SeenNode, request: Request, others: Mapping[str, Sequence[str]]) -> SeenNode:
    """The same; if a node has this name and another role, that is why it does not answer."""
    found = next((name for name in others if fnmatchcase(name, node.name)), None)
    if found is None or not request.roles or not request.roles.isdisjoint(others[found]):
        return node
    roles = " and ".join(f"{role}s" for role in sorted(request.roles))
    why = f"{request.what} is for {roles}, and it is a {' and '.join(others[found])}"
    return node._replace(trouble=why)


def missing(
    request: Request, seen: Sequence[SeenNode], why: str = "no node in sight has this name"
) -> list[SeenNode]:
    """Destinations that name none of these nodes, and why there is no answer from there."""
    names = [text for node in seen for text in (node.name, node.node, f"{node.name}@{node.node}")]
    return [
        SeenNode("", pattern, (), "", "", "", None, why)
        for pattern in request.destination or ()
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
