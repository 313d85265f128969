"""Keys and the libzmq that uses them."""

from __future__ import annotations

import pytest
import zmq
from zmq.utils import z85

from zmqtasks import keys
from zmqtasks.errors import ConfigError, KeyUnusable
from zmqtasks.net.curve import check_libzmq, key_pair, public_key_text


def test_the_public_half_is_derived() -> None:
    secret = keys.generate()
    pair = key_pair(secret)
    assert pair.secret == secret
    assert pair.public == zmq.curve_public(secret.encode()).decode()
    assert public_key_text(z85.decode(pair.public)) == pair.public


def test_a_printed_key_pair_hides_the_secret() -> None:
    pair = key_pair(keys.generate())
    assert pair.secret not in f"{pair} {pair!r}"


@pytest.mark.parametrize("text", ["", "short", "x" * 41, "ä" * 40, " " * 40])
def test_what_is_no_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(KeyUnusable, match="zmqtasks keygen") as caught:
        key_pair(text)
    assert not text or text not in str(caught.value)


def test_an_unsafe_libzmq_is_refused() -> None:
    check_libzmq((4, 3, 5), has_curve=True)
    with pytest.raises(ConfigError, match=r"4\.3\.4 is too old.*pip install"):
        check_libzmq((4, 3, 4), has_curve=True)
    with pytest.raises(ConfigError, match="without CURVE"):
        check_libzmq((4, 4, 0), has_curve=False)
