"""Which link leads to a node, and who speaks for one that has ended."""

from __future__ import annotations

from tests.support.machines import hello, link_to
from zmqtasks.core.openlinks import Heirs, OpenLinks
from zmqtasks.limits import HEIR_OF_COUNT_MAX

A, B = b"node-001", b"node-002"


def test_first_link_is_used_until_it_is_closed() -> None:
    links = OpenLinks()
    first, second = link_to(A, "out"), link_to(A, "in")
    assert links.up(first, hello(A))
    assert not links.up(second, hello(A))
    assert links.to(A) == first
    assert list(links) == [first]
    assert links.down(first) == second
    assert links.to(A) == second
    assert links.down(second) is None
    assert links.to(A) is None
    assert links.down(second) is None


def test_each_life_of_a_link_is_a_session_of_its_own() -> None:
    links = OpenLinks()
    link = link_to(A)
    assert links.session(link) == 0
    links.up(link, hello(A))
    first = links.session(link)
    links.down(link)
    assert links.session(link) == 0
    links.up(link, hello(A))
    assert links.session(link) > first


def test_last_heir_speaks_for_a_node() -> None:
    heirs = Heirs()
    assert heirs.of(A) == A
    heirs.announced(B, [A, B])
    assert (heirs.of(A), heirs.of(B)) == (B, B)
    assert heirs.formers(B) == [A]


def test_memory_of_heirs_is_bounded() -> None:
    heirs = Heirs()
    nodes = [number.to_bytes(8, "big") for number in range(HEIR_OF_COUNT_MAX + 1)]
    heirs.announced(B, nodes)
    assert heirs.of(nodes[0]) == nodes[0]
    assert heirs.of(nodes[1]) == B
