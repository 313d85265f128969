"""The bytes of protocol version 1: a node that changes them talks to no other.

New fields go to the end of a message or into its ``ext``; then these stay as they are and
old bytes are still read.
"""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.wire.samples import SAMPLES
from zmqtasks.wire import codec
from zmqtasks.wire.messages import CatalogEntry, Heartbeat, Inspect, Message, MessageType

HEADER = "5a5401%02x000000000000000100000002000000000000000300000000000000%02x"
GOLDEN: dict[str, str] = {
    "Hello": (
        "dc0014c4086e6f64652d6f6e6501020304c4086d65736868617368010190a6686f73742d3191a6776f72"
        "6b6572c404686f73742a91ae6970633a2f2f2f72756e2f782e7291ae6970633a2f2f2f72756e2f782e70"
        "91ae6970633a2f2f2f72756e2f782e6c0291a764656661756c749195a473686f70a97461736b732e6164"
        "64a26431a628782c20792981a46964656d0081a176a3312e30"
    ),
    "Welcome": "950203040180",
    "Heartbeat": "98cd03e8cd0384320c07030281a17306",
    "Bye": "91a7647261696e6564",
    "Error": "9201ac616e6f74686572206d657368",
    "Ack": "90",
    "Nak": "910b",
    "Tasks": (
        "939195a473686f70a97461736b732e616464a26431a764656661756c749192a3736967a628782c207929"
        "919500c410000102030405060708090a0b0c0d0e0f02c4046172677381a16fc4086e6f64652d6f6e6564"
    ),
    "Demand": "9164",
    "Settled": "939292010592070791069108",
    "Submitted": "9209a0",
    "Credit": "9140",
    "Reject": (
        "949193c410000102030405060708090a0b0c0d0e0f0102b674686520776f726b65722069732064726169"
        "6e696e6740cd01f4"
    ),
    "Started": "919192c410000102030405060708090a0b0c0d0e0f01",
    "Done": (
        "9240919ac410000102030405060708090a0b0c0d0e0f01000700cf0000018bcfe56800ccfa05c4057661"
        "6c756581a177a6776f726b6572"
    ),
    "Submit": (
        "9409c410000102030405060708090a0b0c0d0e0f9195a473686f70a97461736b732e616464a26431a764"
        "656661756c749192a3736967a628782c207929919500c4100f0e0d0c0b0a0908070605040302010001c4"
        "046172677381a170c410000102030405060708090a0b0c0d0e0f"
    ),
    "Rack": "9108",
    "Replay": "930108c3",
    "Results": (
        "969195a473686f70a97461736b732e616464a26431a764656661756c749192a3736967a628782c207929"
        "919ac410000102030405060708090a0b0c0d0e0f01000700cf0000018bcfe56800ccfa05c40576616c75"
        "6581a177a6776f726b65729194c410000102030405060708090a0b0c0d0e0f0101080708c3"
    ),
    "Trimmed": "9106",
    "PubResults": (
        "95c4086e6f64652d6f6e65019195a473686f70a97461736b732e616464a26431a764656661756c749192"
        "a3736967a628782c207929919ac410000102030405060708090a0b0c0d0e0f01000700cf0000018bcfe5"
        "6800ccfa05c40576616c756581a177a6776f726b65729194c410000102030405060708090a0b0c0d0e0f"
        "010108"
    ),
    "PubHead": "93c4086e6f64652d6f6e650108",
    "Query": "930391c410000102030405060708090a0b0c0d0e0fc3",
    "States": (
        "93039194c410000102030405060708090a0b0c0d0e0f0381a46e616d65a97461736b732e6164649ac410"
        "000102030405060708090a0b0c0d0e0f01000700cf0000018bcfe56800ccfa05c40576616c756581a177"
        "a6776f726b6572c3"
    ),
    "Forget": "9191c410000102030405060708090a0b0c0d0e0f",
    "Inspect": "9404a573746f727991c410000102030405060708090a0b0c0d0e0f81a36d617805",
    "Report": "920482a46e6f6465a178a46c6f6164920102",
    "Order": ("9404aa646561642e726574727991c410000102030405060708090a0b0c0d0e0f81a36d617805"),
    "Offer": (
        "95059195a473686f70a97461736b732e616464a26431a764656661756c749192a3736967a628782c2079"
        "29919800c410000102030405060708090a0b0c0d0e0f020101c3c4046172677381a170c4100001020304"
        "05060708090a0b0c0d0e0fc3c3"
    ),
    "Stored": (
        "9305b3746865206a6f75726e616c2069732066756c6c91c410000102030405060708090a0b0c0d0e0f"
    ),
    "Handed": (
        "950591c410000102030405060708090a0b0c0d0e0f91c4100f0e0d0c0b0a0908070605040302010091c4"
        "100102030405060708090a0b0c0d0e0f78c4086e6f64652d6f6e65"
    ),
    "Taken": "9191c410000102030405060708090a0b0c0d0e0f",
    "Resolve": "9291c410000102030405060708090a0b0c0d0e0fc4086e6f64652d6f6e65",
    "Heir": "9191c4086e6f64652d6f6e65",
    "Updates": ("919195c410000102030405060708090a0b0c0d0e0f02ffa850524f4752455353c40468616c66"),
    "Retry": (
        "92409197c410000102030405060708090a0b0c0d0e0f02cd05dcc3ae56616c75654572726f723a206e6f"
        "c4046172677381a370726909"
    ),
    "Recall": "919192c410000102030405060708090a0b0c0d0e0f02",
    "Beats": (
        "93a473686f709197a76e696768746c79a7617420333a30300109c305919a070491c4086e6f64652d6f6e6500"
        "08c4086e6f64652d6f6e6501c200a0c3"
    ),
    "Cancel": "949192c410000102030405060708090a0b0c0d0e0f0204c309",
}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_bytes_of_version_1_are_written_and_read(sample: Message) -> None:
    body = bytes.fromhex(GOLDEN[type(sample).__name__])
    head = bytes.fromhex(HEADER % (sample.TYPE, 4))
    assert codec.encode(sample, 1, 2, 3, 4) == [head + body]
    assert codec.decode([head + body])[1] == sample


def test_type_bytes_are_unique() -> None:
    types = [sample.TYPE for sample in SAMPLES]
    assert len(set(types)) == len(types)
    assert set(types) <= set(MessageType)


def test_message_of_an_older_minor_version_gets_defaults() -> None:
    """Before ``ext`` was sent, say."""
    body = bytes.fromhex("97cd03e8cd0384320c070302")
    head = bytes.fromhex(HEADER % (Heartbeat.TYPE, 4))
    assert codec.decode([head + body])[1] == Heartbeat(1_000, 900, 50, 12, 7, 3, 2, {})
    body = bytes.fromhex("9204a6737461747573")
    head = bytes.fromhex(HEADER % (Inspect.TYPE, 4))
    assert codec.decode([head + body])[1] == Inspect(4, "status", [])
    body = bytes.fromhex("94a473686f70a97461736b732e616464a26431a628782c207929")
    entry = CatalogEntry("shop", "tasks.add", "d1", "(x, y)", {})
    assert msgspec.msgpack.decode(body, type=CatalogEntry) == entry
