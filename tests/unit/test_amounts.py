"""How resources and tags are written."""

from __future__ import annotations

import pytest

from zmqtasks.amounts import Resource, check_tag, parse_resource, shown, to_milli
from zmqtasks.errors import ConfigError


@pytest.mark.parametrize(("entry", "resource"), [
    ("ram_mb=16000", Resource("ram_mb", 16_000)),
    ("cpu=0.5", Resource("cpu", 0.5)),
    ("gpu=2", Resource("gpu", 2, ("0", "1"))),
    ("gpu=id:3", Resource("gpu", 1, ("3",))),
    ("gpu=id:0:3", Resource("gpu", 2, ("0", "3"))),
    ("gpu=id:GPU-8932f937:MIG-GPU-1/0", Resource("gpu", 2, ("GPU-8932f937", "MIG-GPU-1/0"))),
])  # fmt: skip
def test_what_a_worker_has_is_written_as_name_and_amount(entry: str, resource: Resource) -> None:
    assert parse_resource(entry) == resource


@pytest.mark.parametrize(("entry", "reason"), [
    ("gpu", "write NAME=AMOUNT"),
    ("=3", "is no name of a resource"),
    ("a b=3", "is no name of a resource"),
    ("cpu=many", "is no amount"),
    ("cpu=", "is no amount"),
    ("cpu=0", "0.001 at least"),
    ("cpu=-1", "0.001 at least"),
    ("cpu=nan", "0.001 at least"),
    ("cpu=inf", "0.001 at least"),
    ("gpu=1.5", "GPUs are given whole"),
    ("gpu=100000", "1024 GPUs at most"),
    ("gpu=id:", "is no id of a GPU"),
    ("gpu=id:0:0", "names a GPU twice"),
    ("disk=id:0", "only gpu has ids"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_the_reason(entry: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_resource(entry)


def test_amounts_are_counted_in_thousandths() -> None:
    assert 10 * to_milli("cpu", 0.1) == to_milli("cpu", 1)
    assert [shown(milli) for milli in (1, 500, 4_000, 16_000_000)] == ["0.001", "0.5", "4", "16000"]


@pytest.mark.parametrize("tag", ["", "two words", "a;b", "a,b", "x" * 129])
def test_tag_that_cannot_be_is_refused(tag: str) -> None:
    with pytest.raises(ConfigError, match="is no tag"):
        check_tag(tag)
