"""Equal arguments have equal digests, in whatever process and order they were made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks.wire.content import DIGEST_BYTES, content_digest
from zmqtasks.wire.payload import JSON, encode_arguments

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    plain,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@dataclass
class Order:
    item: str
    tags: set[str] = field(default_factory=set)


def digest(*args: Any, name: str = "add", app: str = "shop", **kwargs: Any) -> bytes:
    return content_digest(app, name, encode_arguments(args, kwargs))


@given(st.lists(values, max_size=3), st.dictionaries(st.text(), values, max_size=3))
def test_any_call_has_a_digest_that_its_copy_has_too(
    args: list[Any], kwargs: dict[str, Any]
) -> None:
    body = encode_arguments(args, kwargs)
    turned = encode_arguments(args, dict(reversed(kwargs.items())))
    assert len(content_digest("a", "n", body)) == DIGEST_BYTES
    assert content_digest("a", "n", body) == content_digest("a", "n", turned)


def test_order_of_dicts_and_sets_makes_no_difference() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(x=1, y=2) == digest(y=2, x=1)
    assert digest(Counter("aab")) == digest(Counter("baa"))
    assert digest([{(1, frozenset("abc")): {3, 2, 1}}]) == digest(
        [{(1, frozenset("cba")): {1, 2, 3}}]
    )
    script = (
        "from tests.unit.wire.test_content import *;"
        "print(digest(Order('tea', set('abcdefghij')), {frozenset('klmnop')}).hex())"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, timeout=60,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(made) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (((1,), {}), ((2,), {})),
        (((1, 2), {}), ((2, 1), {})),
        ((([1, 2],), {}), (([2, 1],), {})),
        ((((1, 2),), {}), (([1, 2],), {})),
        (((1,), {}), ((1.0,), {})),
        (((1,), {}), (("1",), {})),
        ((("1",), {}), ((b"1",), {})),
        (((True,), {}), ((1,), {})),
        ((({1, 2},), {}), ((frozenset({1, 2}),), {})),
        ((({},), {}), (([],), {})),
        (((OrderedDict(a=1, b=2),), {}), ((OrderedDict(b=2, a=1),), {})),
        (((), {"x": 1}), ((1,), {})),
        ((({"a": {"b": 1}},), {}), (({"a": {"b": 2}},), {})),
        (((1 << 70,), {}), ((1 << 71,), {})),
    ],
)
def test_other_arguments_have_another_digest(one: Any, other: Any) -> None:
    assert digest(*one[0], **one[1]) == digest(*one[0], **one[1])
    assert digest(*one[0], **one[1]) != digest(*other[0], **other[1])


def test_task_and_app_are_part_of_the_content() -> None:
    assert len({digest(1), digest(1, name="sub"), digest(1, app="bank")}) == 3
    assert digest(app="a", name="bc") != digest(app="ab", name="c")


def test_arguments_in_json_and_with_lone_surrogates_have_a_digest() -> None:
    as_json = encode_arguments((1, {"a": 2}), {}, serializer=JSON)
    assert content_digest("a", "n", as_json) == content_digest("a", "n", as_json)
    assert content_digest("a", "n", as_json) != digest(1, {"a": 2}, app="a", name="n")
    assert digest("\udc80") != digest("\udc81")


def test_digest_never_changes() -> None:
    # Kept by journals and owners: another version must make the same.
    assert digest(17, name="tasks.pay", tags={"b", "a"}).hex() == "aaf2b914f8e4b060"
