"""A taker whose givers are only in the test."""

from __future__ import annotations

from tests.support.machines import ADD, hello, link_to, task_id
from tests.unit.core.handing import Node
from zmqtasks.core.links import LinkId
from zmqtasks.core.marks import OfferMark, offers_of
from zmqtasks.core.owned import Durability, Incoming, parse_mark
from zmqtasks.wire.messages import Handed, Hello, Kind, Message, Offer, OfferRecord, Stored

G, H, T, W = b"giver-01", b"giver-02", b"taker-01", b"worker-9"
ONE, TWO = task_id(1), task_id(2)


class Taker(Node):
    """A broker, and the links to givers that are not there but in the test."""

    def __init__(self) -> None:
        super().__init__(T, "broker", "worker")
        self.peers: dict[LinkId, Hello] = {}
        self.start(0)

    def link(self, node: bytes = G, *, side: str = "in", epoch: int = 1) -> LinkId:
        link = link_to(node, side, epoch)
        self.peers[link] = hello(node, "producer", epoch=epoch)
        self.link_up(link, self.peers[link])
        return link

    def unlink(self, link: LinkId, reason: str = "silent") -> None:
        self.link_down(link, self.peers.pop(link), reason)

    def says(self, link: LinkId) -> list[Message]:
        """What it has said on a link since this was last asked; all else is dropped."""
        said = [message for to, message in self.out if to == link]
        self.out = []
        return [message for message in said if type(message).__name__ != "Credit"]

    def write_all(self) -> None:
        while self.writes:
            self.write()

    def again(self, *, power: bool = False) -> None:
        """Killed, and started again."""
        self.end()
        if power:
            self.disk.lose_unsynced()
        self.peers.clear()
        self.start(self.now_ms)

    def offers(self) -> list[OfferMark]:
        """Those of task 1 in its journal."""
        mark = parse_mark(self.records()[ONE].mark)
        assert isinstance(mark, Incoming)
        return offers_of(mark)


def offer(
    number: int, *ids: bytes, lasting: bool = True, attempt: int = 1, held: bool = False,
    kind: Kind = ADD, watch: bool = False,
) -> Offer:  # fmt: skip
    tasks = [OfferRecord(0, ident, attempt, 0, Durability.DISK, held, b"args") for ident in ids]
    return Offer(number, [kind], tasks, lasting, watch)


def handed(
    number: int, *, given: tuple[bytes, ...] = (), kept: tuple[bytes, ...] = (),
    unknown: tuple[bytes, ...] = (), taker: bytes = T,
) -> Handed:  # fmt: skip
    return Handed(number, list(given), list(kept), list(unknown), taker)


def stored(taker: Taker, link: LinkId, message: Offer) -> None:
    """The offer arrives and is stored."""
    taker.receive(link, message)
    taker.write_all()
    assert taker.says(link) == [Stored(message.request, "", [])]
