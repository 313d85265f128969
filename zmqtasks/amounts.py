"""Names and amounts of resources, and tags: how they are written.

Amounts are counted in thousandths, so that ``cpu=0.1`` ten times is exactly one ``cpu``.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from zmqtasks.errors import ConfigError

#: The resource whose units have names; a task gets whole ones, and is told which.
GPU: Final = "gpu"
#: Of ``RunTask.ext``: names of the GPUs that the attempt has.
GPUS_KEY: Final = "gpus"
MILLI: Final = 1_000

_AMOUNT_MAX = 10**12
_GPUS_MAX = 1024
_IDS_PREFIX = "id:"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_TAG = re.compile(r"[^\s;,\x00-\x1f\x7f]{1,128}")
_ID = re.compile(r"[A-Za-z0-9_./-]{1,128}")


class Resource(NamedTuple):
    """What a worker has of one resource."""

    name: str
    amount: float
    #: Names of the GPUs, as ``CUDA_VISIBLE_DEVICES`` takes them.
    ids: tuple[str, ...] = ()


def check_name(name: str) -> str:
    """The name of a resource, if it can be one.

    Raises:
        ConfigError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name of a resource; use a letter, then letters, digits and '_.-'"
        )
    return name


def check_tag(tag: str) -> str:
    """A tag, if it can be one.

    Raises:
        ConfigError: it cannot.
    """
    if not _TAG.fullmatch(tag):
        raise ConfigError(f"{tag!r} is no tag; use 1 to 128 characters without blanks, ';' and ','")
    return tag


def to_milli(name: str, amount: float) -> int:
    """An amount in thousandths.

    Raises:
        ConfigError: not above 0, too large, too fine, or a piece of a GPU.
    """
    milli = round(amount * MILLI) if 0 < amount < _AMOUNT_MAX else 0
    if milli <= 0:
        raise ConfigError(f"{name}={amount}: an amount is 0.001 at least and below {_AMOUNT_MAX}")
    if name == GPU and milli % MILLI:
        raise ConfigError(f"{name}={amount}: GPUs are given whole; write a whole number")
    return milli


def shown(milli: int) -> str:
    """Thousandths as a plain number."""
    return f"{milli / MILLI:f}".rstrip("0").rstrip(".")


def parse_resource(entry: str) -> Resource:
    """What ``NAME=AMOUNT``, or ``gpu=id:ID:ID``, says that a worker has.

    Raises:
        ConfigError: not of that form, or an amount that cannot be.
    """
    name, equals, amount = entry.partition("=")
    if not equals:
        raise ConfigError(
            f"{entry!r} is no resource; write NAME=AMOUNT, for example ram_mb=16000 or gpu=2, or "
            "gpu=id:0:3 for GPUs 0 and 3"
        )
    check_name(name)
    if amount.startswith(_IDS_PREFIX):
        return _named_gpus(entry, name, amount.removeprefix(_IDS_PREFIX).split(":"))
    try:
        count = float(amount)
    except ValueError:
        raise ConfigError(f"{entry!r}: {amount!r} is no amount; write a number") from None
    to_milli(name, count)
    if name == GPU:
        return _named_gpus(entry, name, [str(i) for i in range(min(int(count), _GPUS_MAX + 1))])
    return Resource(name, int(count) if count == int(count) else count)


def _named_gpus(entry: str, name: str, ids: list[str]) -> Resource:
    if name != GPU:
        raise ConfigError(f"{entry!r}: only {GPU} has ids; write {name}=AMOUNT")
    if len(ids) > _GPUS_MAX:
        raise ConfigError(f"{entry!r}: {_GPUS_MAX} GPUs at most")
    for gpu in ids:
        if not _ID.fullmatch(gpu):
            raise ConfigError(f"{entry!r}: {gpu!r} is no id of a GPU; write for example gpu=id:0:3")
    if len(set(ids)) < len(ids):
        raise ConfigError(f"{entry!r} names a GPU twice")
    return Resource(name, len(ids), tuple(ids))
