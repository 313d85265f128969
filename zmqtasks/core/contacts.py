"""Peers heard of: whom to dial, when, and when to stop trying.

::

    found --wanted--> dialling --an address answers--> connected --link lost--> idle
      ^                  |                                                       |
      +---- idle <-------+ none answers: later again, ever more seldom <---------+

A candidate is a rumour: it may be stale, repeated, or lead to another process that has
the address now. Only a link proves anything, so all that is decided here is whom to try.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from zmqtasks.core.effects import Dial, Effect, Hangup, Note
from zmqtasks.core.link import Link
from zmqtasks.core.links import DRAINING, Candidate, LinkId
from zmqtasks.ids import format_node
from zmqtasks.limits import (
    CANDIDATE_FORGOTTEN_MS,
    CANDIDATES_COUNT_MAX,
    ENDPOINTS_PER_PEER_MAX,
    PEERS_COUNT_MAX,
    REDIAL_MS_MAX,
    REDIAL_MS_MIN,
)
from zmqtasks.wire.messages import Hello

#: A connection over which nobody greeted is given up after this.
_SILENT_MS = REDIAL_MS_MAX
_CLIENT = ["producer"]
_ALL_ROLES = frozenset(("worker", "store", "broker", "producer", "beat", DRAINING))


class Contact:
    """A candidate and where we are with it."""

    __slots__ = (
        "candidate", "delay_ms", "dialled_epoch", "failing_since_ms", "next_ms", "state",
    )  # fmt: skip

    def __init__(self, candidate: Candidate, now_ms: int) -> None:
        self.candidate = candidate
        self.state = "idle"  # idle | dialling | connected
        self.next_ms = now_ms
        self.delay_ms = REDIAL_MS_MIN
        #: Which incarnation's addresses are being dialled.
        self.dialled_epoch = 0
        #: Since when no address answers, or none greets; -1 while that is not so.
        self.failing_since_ms = -1

    def failing_ms(self, now_ms: int) -> int:
        """For how long it could not be reached."""
        return now_ms - self.failing_since_ms if self.failing_since_ms >= 0 else 0

    def fails(self, now_ms: int) -> None:
        """It was tried in vain."""
        self.delay_ms = min(self.delay_ms * 2, REDIAL_MS_MAX)
        if self.failing_since_ms < 0:
            self.failing_since_ms = now_ms


class Contacts:
    """The candidates of one node. ``effects`` is drained by Membership.

    Args:
        hello: what this node says of itself.
        fingerprint: of the mesh key, "" without one.
        dial_roles: peers with one of these roles are dialled when found.
        links: Membership's own links, to see who is linked already.
    """

    def __init__(
        self, hello: Hello, mesh_name: str, fingerprint: str, dial_roles: frozenset[str],
        links: Mapping[LinkId, Link],
    ) -> None:  # fmt: skip
        self.hello = hello
        self.mesh_name = mesh_name
        self.fingerprint = fingerprint
        self.dial_roles = dial_roles
        self.links = links
        self.effects: list[Effect] = []
        #: {node id: candidate}.
        self.known: dict[bytes, Contact] = {}
        #: Further roles, and nodes, that are wanted for now.
        self._needed_roles: frozenset[str] = frozenset()
        self._needed_nodes: frozenset[bytes] = frozenset()
        self._now_ms = 0

    # --- hearing of peers ---------------------------------------------------------------

    def found(self, candidate: Candidate, now_ms: int) -> None:
        """A peer was heard of; dial it if it is one of ours and we want its role."""
        self._now_ms = now_ms
        node = candidate.node
        if node is None or node == self.hello.node or candidate.mesh != self.hello.mesh:
            return
        if candidate.fingerprint != self.fingerprint:
            self._note_other_key(candidate)
            return
        self._note_same_name(node, candidate.name, candidate.roles, candidate.source)
        contact = self.known.get(node)
        if contact is None:
            if len(self.known) >= CANDIDATES_COUNT_MAX:
                self._forget_one()
            self.known[node] = contact = Contact(candidate, now_ms)
        elif contact.candidate.epoch > candidate.epoch:
            return
        else:
            self._update(contact, candidate, now_ms)
        self._dial_if_due(contact)

    def _update(self, contact: Contact, candidate: Candidate, now_ms: int) -> None:
        """News of a known node: further addresses, or its next incarnation."""
        old = contact.candidate
        is_newer = old.epoch < candidate.epoch
        if (contact.state != "idle" and not is_newer) or old == candidate:
            return
        endpoints = candidate.endpoints if is_newer else candidate.endpoints + old.endpoints
        merged = tuple(dict.fromkeys(endpoints))[:ENDPOINTS_PER_PEER_MAX]
        contact.candidate = candidate._replace(endpoints=merged)
        contact.next_ms, contact.delay_ms = now_ms, REDIAL_MS_MIN

    def gone(self, node: bytes, epoch: int) -> None:
        """This process has ended, or left."""
        contact = self.known.get(node)
        if contact is not None and contact.candidate.epoch <= epoch:
            del self.known[node]
            if contact.state == "connected":
                self.effects.append(Hangup(node))

    def want_all(self, now_ms: int) -> None:
        """Dial everybody of this mesh from now on."""
        self._now_ms = now_ms
        self.dial_roles = _ALL_ROLES
        for contact in list(self.known.values()):
            self._dial_if_due(contact)

    def need(self, roles: frozenset[str], nodes: frozenset[bytes], now_ms: int) -> None:
        """Dial peers with one of these roles, and these nodes, too for as long as this is not
        taken back, unless they are linked already. Links that there are then stay."""
        self._now_ms = now_ms
        if roles == self._needed_roles and nodes == self._needed_nodes:
            return
        self._needed_roles, self._needed_nodes = roles, nodes
        if nodes or not roles <= self.dial_roles:
            for contact in list(self.known.values()):
                self._dial_if_due(contact)

    # --- dialling -----------------------------------------------------------------------

    def dialled(self, node: bytes, endpoint: str, now_ms: int) -> None:
        """The dialler found an address that answers ("": none does)."""
        self._now_ms = now_ms
        contact = self.known.get(node)
        if contact is None or contact.dialled_epoch != contact.candidate.epoch:
            if endpoint:  # an address of what we do not look for any more
                self.effects.append(Hangup(node))
            if contact is not None:
                contact.state = "idle"
                self._dial_if_due(contact)
            return
        if endpoint:
            contact.state = "connected"
            contact.next_ms = now_ms + _SILENT_MS
            contact.candidate = contact.candidate._replace(
                endpoints=tuple(dict.fromkeys((endpoint, *contact.candidate.endpoints)))
            )
            return
        self._failed(node, contact)

    def _failed(self, node: bytes, contact: Contact) -> None:
        contact.state = "idle"
        contact.next_ms = self._now_ms + contact.delay_ms
        contact.fails(self._now_ms)
        if contact.failing_ms(self._now_ms) >= CANDIDATE_FORGOTTEN_MS:
            del self.known[node]

    def greeted(self, link: Link, hello: Hello) -> None:
        """A peer said hello: remember on its link how it was found.

        Where we dialled an address for another node of that host, that one is not
        there any more.
        """
        self._note_same_name(hello.node, hello.name, hello.roles, "it has a link to this one")
        contact = self.known.get(hello.node)
        if contact is not None:
            contact.delay_ms = REDIAL_MS_MIN
            contact.failing_since_ms = -1
            link.source = contact.candidate.source
            if link.id.side == "out" and contact.candidate.endpoints:
                link.endpoint = contact.candidate.endpoints[0]
        elif not link.source:
            link.source = "dialled in" if link.id.side == "in" else "unknown"
        if link.id.side == "out":
            for node, other in list(self.known.items()):
                candidate = other.candidate
                if (
                    node != hello.node
                    and other.state == "connected"
                    and candidate.host_id == hello.host_id
                    and candidate.endpoints[0] in hello.endpoints
                ):
                    del self.known[node]

    def lost(self, node: bytes) -> None:
        """The link that we had dialled is lost; its connection is given up too."""
        self.effects.append(Hangup(node))
        contact = self.known.get(node)
        if contact is not None and contact.state == "connected":
            contact.state = "idle"
            contact.next_ms = self._now_ms + contact.delay_ms

    def tick(self, now_ms: int) -> None:
        """Dial again who is due."""
        self._now_ms = now_ms
        for contact in list(self.known.values()):
            if now_ms >= contact.next_ms:
                self._dial_if_due(contact)

    def pending(self, role: str = "") -> bool:
        """True while some peer that we want is neither linked nor given up on; with a role:
        one that has it."""
        linked = {link.peer.node for link in self.links.values() if link.peer and link.is_open}
        return any(
            node not in linked and contact.delay_ms < 4 * REDIAL_MS_MIN
            for node, contact in self.known.items()
            if (not role or role in contact.candidate.roles)
            and (self._wants(contact.candidate) or self._needs(contact.candidate))
        )

    def _wants(self, candidate: Candidate) -> bool:
        return candidate.source == "static" or not self.dial_roles.isdisjoint(candidate.roles)

    def _needs(self, candidate: Candidate) -> bool:
        if candidate.node in self._needed_nodes:
            return True
        return not self._needed_roles.isdisjoint(candidate.roles)

    def _is_linked(self, node: bytes) -> bool:
        return any(
            link.is_open and link.peer is not None and link.peer.node == node
            for link in self.links.values()
        )

    def _dial_if_due(self, contact: Contact) -> None:
        if contact.state == "dialling" or self._now_ms < contact.next_ms:
            return
        if len(self.links) >= PEERS_COUNT_MAX:
            return
        node = contact.candidate.node
        assert node is not None
        if not self._wants(contact.candidate):
            if not self._needs(contact.candidate):
                return
            if self._is_linked(node):
                contact.next_ms = self._now_ms + _SILENT_MS
                return
        if contact.state == "connected":
            if self._is_linked_out(node):
                contact.next_ms = self._now_ms + _SILENT_MS
                return
            self._give_up_connection(contact)
        candidate = self._without_taken(contact.candidate)
        if not candidate.endpoints:
            self._failed(node, contact)
            return
        contact.state = "dialling"
        contact.dialled_epoch = candidate.epoch
        self.effects.append(Dial(candidate))

    def _give_up_connection(self, contact: Contact) -> None:
        """Something answers at this address but does not greet: others come first."""
        candidate = contact.candidate
        assert candidate.node is not None
        self.effects.append(Hangup(candidate.node))
        contact.fails(self._now_ms)
        contact.candidate = candidate._replace(
            endpoints=(*candidate.endpoints[1:], *candidate.endpoints[:1])
        )

    def _is_linked_out(self, node: bytes) -> bool:
        return any(
            link.is_open and link.id.side == "out" and link.peer is not None
            and link.peer.node == node
            for link in self.links.values()
        )  # fmt: skip

    def _without_taken(self, candidate: Candidate) -> Candidate:
        """Leave out addresses where, as we know, another process of that host listens, or this
        very node: dialling one would take its connection away, or lead to ourselves."""
        taken = {
            endpoint
            for link in self.links.values()
            if link.peer is not None
            and link.peer.node != candidate.node
            and link.peer.host_id == candidate.host_id
            for endpoint in link.peer.endpoints
        }
        if candidate.host_id == self.hello.host_id:
            taken.update(self.hello.endpoints)
        if taken.isdisjoint(candidate.endpoints):
            return candidate
        return candidate._replace(endpoints=tuple(e for e in candidate.endpoints if e not in taken))

    def _forget_one(self) -> None:
        linked = {link.peer.node for link in self.links.values() if link.peer}
        for node in self.known:
            if node not in linked:
                del self.known[node]
                return

    def _note_same_name(self, node: bytes, name: str, roles: Collection[str], found: str) -> None:
        """What people tell one of two nodes of a name both do. Names of applications matter to
        nobody, and of those in the cache some are gone."""
        own = self.hello
        if name != own.name or found == "cache" or _CLIENT in (list(own.roles), list(roles)):
            return
        text = (
            f"two nodes of this mesh are called '{name}', this one ({format_node(own.node)}) and "
            f"{format_node(node)} ({found}): what is told to '{name}' both do, and logs do not "
            "tell them apart; start one of them with another --name"
        )
        self.effects.append(Note("warning", "peer.same_name", text, f"same-name {node.hex()}"))

    def _note_other_key(self, candidate: Candidate) -> None:
        ours = f"key {self.fingerprint}" if self.fingerprint else "no key"
        theirs = f"key {candidate.fingerprint}" if candidate.fingerprint else "no key"
        text = (
            f"a mesh of the same name '{self.mesh_name}' is here with another key "
            f"({candidate.source}: {theirs}; this node: {ours}), so they do not join: give "
            "both the same key file (--key) or different names (--mesh)"
        )
        once = f"other-key {candidate.fingerprint}"
        self.effects.append(Note("warning", "peer.other_key", text, once))
