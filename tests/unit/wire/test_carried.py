"""Calls that travel with a task."""

from __future__ import annotations

import pytest

from zmqtasks.errors import DecodeError
from zmqtasks.wire.carried import CarriedCall, pack_calls, unpack_calls
from zmqtasks.wire.messages import Kind

ADD = Kind("shop", "tasks.add", "d1", "default", (("idem", 0),))


def test_calls_are_the_same_when_they_have_travelled() -> None:
    calls = [
        CarriedCall(b"one", ADD, b"body", {"in": [[b"id"], 0]}, is_durable=True),
        CarriedCall(b"two", ADD, b"", None, is_for_inputs=True),
    ]
    assert unpack_calls(pack_calls(calls)) == calls
    assert unpack_calls(pack_calls([])) == []


def test_names_that_are_no_text_are_refused() -> None:
    packed = pack_calls([CarriedCall(b"one", ADD, b"body")])
    with pytest.raises(DecodeError, match="cannot be read"):
        unpack_calls(packed.replace(b"shop", b"\xff\xfe\xff\xff"))


@pytest.mark.parametrize("packed", [b"", b"damaged", b"\xc0", None, 5, "text"])
def test_damaged_calls_are_refused(packed: object) -> None:
    with pytest.raises(DecodeError, match="cannot be read"):
        unpack_calls(packed)
