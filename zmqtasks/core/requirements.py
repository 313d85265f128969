"""What a task needs of its worker: tags, amounts of resources, and what its pool can do.

Tags and amounts as text, which is a fact of the task's kind: ``gpu=1;ram_mb=4000;tag:cuda``,
amounts first, each part sorted, so that equal requirements are equal texts. What a pool must be
able to do follows from the time limits of a call; its owner makes it a fact of the kind, since
tasks of one kind can run on the same workers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from zmqtasks.amounts import GPU, MILLI, check_name, check_tag, shown, to_milli
from zmqtasks.errors import ConfigError
from zmqtasks.wire.messages import Kind

#: Of ``Kind.ext``: requirements as text, and the only node (id in hex) that may run it.
NEEDS_KEY: Final = "req"
NODE_KEY: Final = "to"
#: Of ``Hello.ext``: what a worker has.
TAGS_KEY: Final = "tags"
RESOURCES_KEY: Final = "res"
#: Of ``Hello.ext`` and of ``Kind.ext``: what a pool can do, and must be able to do.
CAN_KEY: Final = "can"
#: Of ``TaskRecord.ext``: soft and hard time limit of the call, in milliseconds, 0: none.
LIMITS_KEY: Final = "tl"

#: A pool raises SoftTimeLimitExceeded in an attempt at its soft limit.
SOFT_LIMIT: Final = "soft_limit"
#: It ends an attempt at its hard limit, whatever that does.
HARD_LIMIT: Final = "hard_limit"
#: What not every pool can do and calls may ask for, for people.
ABILITIES: Final = {
    SOFT_LIMIT: "a soft time limit (soft_time_limit)",
    HARD_LIMIT: "a hard time limit (time_limit)",
}

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
    #: Of ``ABILITIES``, what its pool can do; None: it does not say, and refuses itself.
    can: frozenset[str] | None = None


def offer_of(ext: Mapping[str, Any]) -> Offer:
    """What a worker has, by the ``ext`` of its HELLO; what makes no sense there is nothing."""
    tags, amounts, can = (ext.get(key) for key in (TAGS_KEY, RESOURCES_KEY, CAN_KEY))
    found: dict[str, int] = {}
    if isinstance(amounts, dict):
        for name, amount in amounts.items():
            with suppress(ConfigError, TypeError):
                found[check_name(name)] = to_milli(name, amount)
    known = tags if isinstance(tags, list) else ()
    return Offer(
        frozenset(tag for tag in known if isinstance(tag, str)),
        found,
        frozenset(ABILITIES).intersection(can) if isinstance(can, list) else None,
    )


def announced(
    tags: Sequence[str], resources: Mapping[str, float], can: Collection[str] | None = None
) -> dict[str, Any]:
    """What a worker says in the ``ext`` of its HELLO: the opposite of :func:`offer_of`."""
    return (
        ({TAGS_KEY: list(tags)} if tags else {})
        | ({RESOURCES_KEY: dict(resources)} if resources else {})
        | ({CAN_KEY: sorted(ABILITIES.keys() & can)} if can is not None else {})
    )


def abilities_for(ext: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What a pool must be able to do for a call with these facts: of ``ABILITIES``."""
    limits = ext.get(LIMITS_KEY) if ext is not None else None
    # From the wire: whoever made it may have put anything there.
    if not isinstance(limits, (list, tuple)) or len(limits) != len(ABILITIES):
        return ()
    return tuple(
        ability
        for ability, limit in zip(ABILITIES, limits, strict=True)
        if isinstance(limit, int) and limit > 0
    )


def kind_for(kind: Kind, ext: Mapping[str, Any] | None) -> Kind:
    """The kind as which an owner deals a call of this kind, with these facts."""
    wanted = abilities_for(ext)
    if not wanted and all(key != CAN_KEY for key, _ in kind.ext):
        return kind
    return _kind_with(kind, wanted)


@lru_cache(maxsize=1024)
def _kind_with(kind: Kind, wanted: tuple[str, ...]) -> Kind:
    facts = tuple(fact for fact in kind.ext if fact[0] != CAN_KEY)
    if wanted:
        facts += ((CAN_KEY, ";".join(wanted)),)
    return msgspec.structs.replace(kind, ext=facts)


def wanted_of(kind: Kind) -> frozenset[str]:
    """Of ``ABILITIES``, what the pool of a worker must be able to do to run it."""
    text = dict(kind.ext).get(CAN_KEY)
    return frozenset(text.split(";")) if isinstance(text, str) else frozenset()


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
    if not _is_able(offer, kind):
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
    able = [(node, offer) for node, offer in offers if _is_able(offer, kind)]
    if not able:
        limits = " and ".join(ABILITIES[name] for name in ABILITIES if name in wanted_of(kind))
        return (
            f"it was called with {limits}, which the pool of no worker that knows it can keep; "
            "start one with --pool process, or call it without"
        )
    offers = able
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


def _is_able(offer: Offer, kind: Kind) -> bool:
    return offer.can is None or wanted_of(kind) <= offer.can


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
