"""What a task needs of its worker: tags, and amounts of resources.

As text, which is a fact of the task's kind: ``gpu=1;ram_mb=4000;tag:cuda;tag:x86``, amounts
first, each part sorted, so that equal requirements are equal texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple

from zmqtasks.amounts import GPU, MILLI, check_name, check_tag, shown, to_milli
from zmqtasks.errors import ConfigError
from zmqtasks.wire.messages import Kind

#: Of ``Kind.ext``: requirements as text, and the only node (id in hex) that may run it.
NEEDS_KEY: Final = "req"
NODE_KEY: Final = "to"
#: Of ``Hello.ext``: what a worker has.
TAGS_KEY: Final = "tags"
RESOURCES_KEY: Final = "res"

_TAG_PREFIX = "tag:"


class Needs(NamedTuple):
    """What a task needs, all of it."""

    tags: frozenset[str]
    #: ``(name, thousandths)``, sorted.
    amounts: tuple[tuple[str, int], ...]


NOTHING: Final = Needs(frozenset(), ())


def format_needs(resources: Mapping[str, float], tags: Iterable[str] = ()) -> str:
    """Requirements as the text that travels; "" for none.

    Args:
        resources: {name: amount above 0}; ``gpu`` in whole numbers.
        tags: that a worker must have, all of them.

    Raises:
        ConfigError: a name, an amount or a tag that cannot be; names it and the remedy.
    """
    amounts = sorted((check_name(name), to_milli(name, n)) for name, n in resources.items())
    parts = [f"{name}={shown(milli)}" for name, milli in amounts]
    return ";".join(parts + [_TAG_PREFIX + check_tag(tag) for tag in sorted(set(tags))])


@lru_cache(maxsize=1024)
def parse_needs(text: str) -> Needs:
    """The opposite of :func:`format_needs`.

    Raises:
        ConfigError: no such text.
    """
    tags: set[str] = set()
    amounts: dict[str, int] = {}
    for part in filter(None, text.split(";")):
        if part.startswith(_TAG_PREFIX):
            tags.add(check_tag(part.removeprefix(_TAG_PREFIX)))
            continue
        name, equals, amount = part.partition("=")
        if not equals:
            raise ConfigError(f"{part!r} is no requirement; write NAME=AMOUNT or tag:NAME")
        try:
            number = float(amount)
        except ValueError:
            raise ConfigError(f"{part!r}: {amount!r} is no amount; write a number") from None
        amounts[check_name(name)] = to_milli(name, number)
    return Needs(frozenset(tags), tuple(sorted(amounts.items())))


# --- who can run what ---------------------------------------------------------------------


class Offer(NamedTuple):
    """What a worker has, as it announces it."""

    tags: frozenset[str]
    #: {name: thousandths}.
    amounts: Mapping[str, int]


def offer_of(ext: Mapping[str, Any]) -> Offer:
    """What a worker has, by the ``ext`` of its HELLO; what makes no sense there is nothing."""
    tags, amounts = ext.get(TAGS_KEY), ext.get(RESOURCES_KEY)
    found: dict[str, int] = {}
    if isinstance(amounts, dict):
        for name, amount in amounts.items():
            with suppress(ConfigError, TypeError):
                found[check_name(name)] = to_milli(name, amount)
    known = tags if isinstance(tags, list) else ()
    return Offer(frozenset(tag for tag in known if isinstance(tag, str)), found)


def announced(tags: Sequence[str], resources: Mapping[str, float]) -> dict[str, Any]:
    """What a worker says in the ``ext`` of its HELLO: the opposite of :func:`offer_of`."""
    return ({TAGS_KEY: list(tags)} if tags else {}) | (
        {RESOURCES_KEY: dict(resources)} if resources else {}
    )


def needs_of(kind: Kind) -> Needs | None:
    """What tasks of this kind need; None: nobody can know what is meant."""
    if not kind.ext:
        return NOTHING
    text = dict(kind.ext).get(NEEDS_KEY, "")
    try:
        return parse_needs(text) if isinstance(text, str) else None
    except ConfigError:
        return None


def addressee(kind: Kind) -> str:
    """The only node (id in hex) that may run it, whatever queues that serves; "" for any."""
    node = dict(kind.ext).get(NODE_KEY, "") if kind.ext else ""
    return node if isinstance(node, str) else ""


def fits(needs: Needs, offer: Offer) -> bool:
    """Could a worker with nothing else to do run it?"""
    return needs.tags <= offer.tags and all(
        milli <= offer.amounts.get(name, 0) for name, milli in needs.amounts
    )


def suits(kind: Kind, node: bytes, offer: Offer) -> bool:
    """Is this node, which has that, one that may run tasks of this kind?"""
    if not kind.ext:
        return True
    wanted = dict(kind.ext).get(NODE_KEY, "")
    if wanted and wanted != node.hex():
        return False
    needs = needs_of(kind)
    return needs is not None and fits(needs, offer)


def explain_misfit(kind: Kind, offers: Sequence[tuple[bytes, Offer]]) -> str:
    """What none of these nodes has, for people; "" if one of them may run it.

    Args:
        kind: of the tasks.
        offers: ``(node, what it has)`` of those that could run it otherwise.
    """
    if any(suits(kind, node, offer) for node, offer in offers):
        return ""
    wanted = dict(kind.ext).get(NODE_KEY, "")
    if wanted:
        offers = [(node, offer) for node, offer in offers if node.hex() == wanted]
        if not offers:
            return f"it is for node {wanted} only, which is not in sight"
    needs = needs_of(kind)
    if needs is None:
        return f"what it needs cannot be read: {dict(kind.ext).get(NEEDS_KEY)!r}"
    for tag in sorted(needs.tags):
        if all(tag not in offer.tags for _, offer in offers):
            there = sorted(set().union(*(offer.tags for _, offer in offers)))
            has = f"they have {', '.join(map(repr, there))}" if there else "they have no tags"
            return f"it needs a worker with tag '{tag}', and none has it; {has}"
    for name, milli in needs.amounts:
        most = max(offer.amounts.get(name, 0) for _, offer in offers)
        if most < milli:
            has = f"the most that one has is {shown(most)}" if most else "none has any"
            return f"it needs {name}={shown(milli)}, and {has}"
    return f"no worker has all that it needs: {format_text(needs)}"


def format_text(needs: Needs) -> str:
    """Parsed requirements as text."""
    amounts = [f"{name}={shown(milli)}" for name, milli in needs.amounts]
    return ";".join(amounts + [_TAG_PREFIX + tag for tag in sorted(needs.tags)])


# --- what is free -------------------------------------------------------------------------


class Stock:
    """What a worker has, and which of its resources are free.

    Args:
        resources: {name: amount}, of ``gpu`` as many as there are names in ``gpus``.
        gpus: names of the GPUs, as ``CUDA_VISIBLE_DEVICES`` takes them.
        tags: of this worker.
        node: its id.
    """

    def __init__(
        self, resources: Mapping[str, float] | None = None, gpus: Sequence[str] = (),
        tags: Iterable[str] = (), node: bytes = b"",
    ) -> None:  # fmt: skip
        self.node = node
        self.free = {name: to_milli(name, n) for name, n in (resources or {}).items()}
        #: What there is when nothing runs.
        self.offer = Offer(frozenset(tags), dict(self.free))
        self.gpus = list(gpus)

    def fits(self, needs: Needs) -> bool:
        """All of it is free now."""
        free = self.free
        return all(milli <= free.get(name, 0) for name, milli in needs.amounts)

    def lacking(self, needs: Needs) -> list[str]:
        """The resources of which there is not enough free now."""
        return [name for name, milli in needs.amounts if milli > self.free.get(name, 0)]

    def take(self, needs: Needs, preferred: Sequence[str]) -> list[str]:
        """It is in use from now on; it must fit.

        Args:
            needs: what is taken.
            preferred: GPUs to take if they are free.

        Returns:
            The GPUs.
        """
        taken: list[str] = []
        for name, milli in needs.amounts:
            self.free[name] -= milli
            if name == GPU:
                likely = [gpu for gpu in preferred if gpu in self.gpus]
                rest = [gpu for gpu in self.gpus if gpu not in likely]
                taken = (likely + rest)[: milli // MILLI]
                self.gpus = [gpu for gpu in self.gpus if gpu not in taken]
        return taken

    def give_back(self, needs: Needs, gpus: Iterable[str]) -> None:
        """It is free again."""
        for name, milli in needs.amounts:
            self.free[name] += milli
        self.gpus += gpus
