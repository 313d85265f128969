"""What is announced by multicast DNS, and hostile records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.discovery.loops import candidate
from zmqtasks.core.links import Candidate
from zmqtasks.discovery.mdns_record import TXT_BYTES_MAX, make_record, read_record
from zmqtasks.limits import ENDPOINTS_PER_PEER_MAX

OWN = ["192.0.2.7", "2001:db8::7"]
WORKER = candidate(
    b"W",
    epoch=258,
    fingerprint="0123456789abcdef",
    endpoints=(
        "ipc:///run/w.r", "tcp://192.0.2.7:7000", "tcp://[2001:db8::7]:7000",
        "tcp://172.17.0.1:7000", "tcp://127.0.0.1:7000",
    ),
    roles=("worker", "store"),
    name="kitchen-1",
)  # fmt: skip


def read_back(**changes: str | None) -> Candidate | None:
    record = make_record(WORKER, OWN)
    assert record is not None
    properties = {**record.properties, **changes}
    return read_record(record.instance, record.port, record.addresses, properties)


def test_what_is_announced_is_read_back() -> None:
    assert read_back() == WORKER._replace(
        endpoints=("tcp://192.0.2.7:7000", "tcp://[2001:db8::7]:7000"), source="mdns"
    )


def test_a_record_is_short() -> None:
    longest = WORKER._replace(
        name="n" * 64,
        mesh_name="m" * 63,
        epoch=2**32 - 1,
        roles=("producer", "worker", "broker", "store", "beat"),
    )
    record = make_record(longest, OWN)
    assert record is not None
    size = sum(len(key) + len(value) + 2 for key, value in record.properties.items())
    assert size < TXT_BYTES_MAX


def test_who_is_reachable_on_this_host_only_is_not_announced() -> None:
    for endpoints in ((), ("ipc:///run/w.r",), ("tcp://127.0.0.1:7",), ("tcp://name:7",)):
        assert make_record(WORKER._replace(endpoints=endpoints), OWN) is None


def test_an_advertised_address_is_announced_though_no_interface_has_it() -> None:
    record = make_record(WORKER._replace(endpoints=("tcp://203.0.113.5:9",)), OWN)
    assert record is not None
    assert (record.addresses, record.port) == (("203.0.113.5",), 9)


@pytest.mark.parametrize(
    ("key", "value"),
    [("v", "2"), ("v", None), ("m", "zz"), ("m", None), ("id", "00"), ("id", "0" * 16), ("e", "-1"),
     ("e", "0x1"), ("e", "1" * 9), ("r", "WORKER"), ("r", "a," * 20), ("k", "secret!"), ("h", "1"),
     ("n", "../x"), ("n", "x" * 64)],
)  # fmt: skip
def test_a_record_with_anything_wrong_is_dropped(key: str, value: str | None) -> None:
    assert read_back(**{key: value}) is None


@pytest.mark.parametrize("port", [None, 0, -1, 65536])
def test_a_record_without_a_port_is_dropped(port: int | None) -> None:
    record = make_record(WORKER, OWN)
    assert record is not None
    assert read_record(record.instance, port, record.addresses, record.properties) is None


def test_only_addresses_that_can_be_dialled_are_taken_and_not_too_many() -> None:
    record = make_record(WORKER, OWN)
    assert record is not None
    bad = ["224.0.0.1", "0.0.0.0", "::", "fe80::1", "junk", "ff02::1"]
    good = [f"10.0.0.{n}" for n in range(1, 100)]
    found = read_record(record.instance, 7, [*bad, "fe80::1%2", *good], record.properties)
    assert found is not None
    assert found.endpoints[:2] == ("tcp://[fe80::1%2]:7", "tcp://10.0.0.1:7")
    assert len(found.endpoints) == ENDPOINTS_PER_PEER_MAX
    assert read_record(record.instance, 7, bad, record.properties) is None


@given(
    st.text(), st.integers(), st.lists(st.text()),
    st.dictionaries(st.sampled_from("vmnideprkh") | st.just("id"), st.text() | st.none()),
)  # fmt: skip
def test_no_record_breaks_the_reader(
    instance: str, port: int, addresses: list[str], properties: dict[str, str | None]
) -> None:
    read_record(instance, port, addresses, properties)


def test_a_name_that_is_too_long_for_a_record_is_left_out() -> None:
    record = make_record(WORKER._replace(name="n" * 65), OWN)
    assert record is not None
    assert "w" not in record.properties
