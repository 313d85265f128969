from __future__ import annotations

import pytest

from zmqtasks.errors import DecodeError, FrameTooLarge
from zmqtasks.pools.protocol import Answer, CancelTask, LogRecord, StopChild, ToChild
from zmqtasks.pools.stream import (
    PREFIX_BYTES,
    batch_bytes_max,
    encode_batch,
    from_child_reader,
    to_child_reader,
)

BATCHES: list[list[ToChild]] = [
    [StopChild()],
    [Answer(request=1, error="no"), CancelTask(id=b"i" * 16, attempt=2)],
    [StopChild(), StopChild(), StopChild()],
]


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 1000])
def test_batches_survive_any_cut(piece: int) -> None:
    data = b"".join(bytes(encode_batch(batch)) for batch in BATCHES)
    reader = to_child_reader(1000)
    found = []
    for at in range(0, len(data), piece):
        found += reader.feed(data[at : at + piece])
    assert found == BATCHES


def test_prefix_is_the_length_of_what_follows() -> None:
    data = encode_batch([StopChild()])
    assert int.from_bytes(data[:PREFIX_BYTES], "big") == len(data) - PREFIX_BYTES


def test_batch_above_the_limit_is_refused_by_its_prefix() -> None:
    with pytest.raises(FrameTooLarge, match="1001 bytes, 1000 at most"):
        to_child_reader(1000).feed((1001).to_bytes(4, "big"))


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\x91\x91\xa5wrong", b"\x90\x90", b"\x91" * 100, b"\xdd\xff\xff\xff\xff"],
)
def test_bytes_that_are_no_batch_are_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        from_child_reader(1000).feed(len(body).to_bytes(4, "big") + body)


def test_message_of_the_other_direction_is_refused() -> None:
    record = LogRecord(id=b"", name="", stream="stdout", level=20, logger="", text="x")
    with pytest.raises(DecodeError):
        to_child_reader(1000).feed(bytes(encode_batch([record])))


def test_limit_leaves_room_for_the_largest_payload() -> None:
    assert batch_bytes_max(1_000) > 2_000
