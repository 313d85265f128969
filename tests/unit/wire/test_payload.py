"""Payloads: what goes in comes out, and what cannot go in is named."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from functools import cached_property
from typing import Any, ClassVar, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks.errors import (
    DecodeError,
    PayloadTooLarge,
    PayloadTypeError,
    TaskFailed,
    TaskRevokedError,
)
from zmqtasks.wire import payload
from zmqtasks.wire.payload import (
    JSON,
    decode_arguments,
    decode_error,
    decode_value,
    encode_arguments,
    encode_error,
    encode_value,
)


class Colour(Enum):
    RED = "r"


class Size(IntEnum):
    BIG = 7


class Access(Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: int
    right: str


@dataclass
class Point:
    dimension: ClassVar[int] = 2
    x: int
    y: int = 0
    runs: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.runs += 1

    @cached_property
    def handle(self) -> object:
        return object()


@dataclass(frozen=True, slots=True)
class Frozen:
    inner: Point
    tags: frozenset[str] = frozenset()


class NotDataclass:
    pass


class PlainError(Exception):
    pass


class OddError(Exception):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.just(ZoneInfo("Europe/Berlin")))
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.sampled_from([*Colour, *Size, Access.READ | Access.WRITE])
    | st.builds(Pair, st.integers(), st.text())
    | st.builds(Point, st.integers(), st.integers()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text() | st.booleans(), inner, max_size=4)
        | st.sets(st.integers() | st.text(), max_size=4)
        | st.frozensets(st.tuples(st.integers(), st.text()), max_size=4)
    ),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    return bool(left == right)


@given(plain)
def test_a_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    assert same(decode_value(encode_value(value)), value)


@given(st.lists(plain, max_size=3), st.dictionaries(st.text(), plain, max_size=3))
def test_arguments_come_back(args: list[Any], kwargs: dict[str, Any]) -> None:
    got_args, got_kwargs = decode_arguments(encode_arguments(args, kwargs))
    assert same(got_args, args)
    assert same(got_kwargs, kwargs)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_decode_error(data: bytes) -> None:
    for body in (data, b"\0" + data, b"\1" + data):
        for decode in (decode_value, decode_arguments):
            with contextlib.suppress(DecodeError):
                decode(body)
        assert isinstance(decode_error(body), Exception)


@pytest.mark.parametrize(
    "value",
    [
        {1: "a", (1, 2): "b", None: "c", 2.5: "d", b"x": "e", Colour.RED: "f"},
        [(1, (2, (3, [4])))],
        -(2**63) - 1,
        2**64,
        2**64 - 1,
        pytest.param(10**5000, id="more digits than int() converts"),
        "\udcff lone surrogate, as in undecodable file names",
        ("\udcff", {"\udc80": {"\udcfe"}}),
        datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        time(12, 30, tzinfo=UTC),
        date(1, 1, 1),
        UUID(int=5),
        Decimal("1.10"),
        Counter("hello"),
        OrderedDict([("b", 1), ("a", 2)]),
        deque([1, 2], maxlen=2),
        Frozen(Point(1, 2), frozenset({"a"})),
        float("inf"),
    ],
)
def test_special_values_come_back(value: Any) -> None:
    back = decode_value(encode_value(value))
    assert same(back, value)
    if isinstance(value, datetime):
        assert (back.utcoffset(), back.fold) == (value.utcoffset(), value.fold)
    if isinstance(value, Decimal):
        assert str(back) == str(value)


def test_post_init_does_not_run_again_and_cached_properties_stay_behind() -> None:
    point = Point(1)
    _ = point.handle
    point.extra = "kept"  # type: ignore[attr-defined]
    back = decode_value(encode_value(point))
    assert back.runs == 1
    assert back.extra == "kept"
    assert "handle" not in vars(back)


def test_subclasses_of_plain_types_travel_as_the_plain_type() -> None:
    class Text(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "no"

    value = {"a": defaultdict(list, x=[1]), "b": Text("t"), "c": bytearray(b"z")}
    back = decode_value(encode_value(value))
    assert same(back, {"a": {"x": [1]}, "b": "t", "c": b"z"})


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ([1, 2, 3, {"k": NotDataclass()}], "argument 'x', [3]['k']: type "),
        ({(1, NotDataclass()): 1}, "argument 'x', (key (1, <"),
        ((1, (2, {3: object()})), "argument 'x', [1][1][3]: type object cannot be sent"),
        (Point(object()), "argument 'x', .x: type object"),  # type: ignore[arg-type]
        (lambda: 0, "argument 'x': type function"),
        (NotDataclass, "argument 'x': type type"),
    ],
)
def test_an_unserialisable_argument_is_named_with_path_and_type(value: Any, where: str) -> None:
    with pytest.raises(PayloadTypeError) as caught:
        encode_arguments([0, value], {}, names=("first", "x"))
    assert str(caught.value).startswith(where)
    assert isinstance(caught.value, TypeError)


def test_unserialisable_keywords_and_surplus_positionals_are_named_too() -> None:
    with pytest.raises(PayloadTypeError, match=r"^argument 'y', \[0\]: type object"):
        encode_arguments([1], {"y": [object()]})
    with pytest.raises(PayloadTypeError, match=r"^argument 3: type object"):
        encode_arguments([1, 2, object()], {}, names=("a",))
    with pytest.raises(PayloadTypeError, match=r"^the result, \['a'\]: type object"):
        encode_value({"a": object()})


def test_classes_nobody_else_can_import_are_refused_when_sent() -> None:
    class Local(Enum):
        A = 1

    with pytest.raises(PayloadTypeError, match="defined inside a function"):
        encode_value([Local.A])


def test_cycles_and_deep_nesting_are_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(PayloadTypeError, match="nested deeper"):
        encode_value(cycle)
    deep: Any = 0
    for _ in range(200):
        deep = (deep,)
    with pytest.raises(PayloadTypeError, match="nested deeper than 100"):
        encode_value(deep)


def test_a_packer_is_usable_after_a_refusal() -> None:
    for _ in range(3):
        with pytest.raises(PayloadTypeError):
            encode_value([1, 2, object()])
        assert decode_value(encode_value([(1, 2)])) == [(1, 2)]


def test_the_deepest_allowed_nesting_fits_a_small_thread_stack() -> None:
    deep: Any = 0
    for _ in range(100):
        deep = (deep,)
    got: list[Any] = []
    old = threading.stack_size(1024 * 1024)
    try:
        thread = threading.Thread(target=lambda: got.append(decode_value(encode_value(deep))))
        thread.start()
    finally:
        threading.stack_size(old)
    thread.join()
    assert got == [deep]


def test_hostile_nesting_is_an_error_not_a_crash() -> None:
    data = b"\x00"
    for _ in range(2_000):
        data = msgpack.packb(msgpack.ExtType(1, data))
    with pytest.raises(DecodeError):
        decode_value(b"\0" + data)
    with pytest.raises(DecodeError):
        decode_value(b"\0" + b"\x91" * 100_000 + b"\0")
    with pytest.raises(DecodeError):
        decode_value(b"\1" + b"[" * 100_000)


@pytest.mark.parametrize(
    ("code", "content"),
    [
        (12, ["os:path", "x"]),
        (12, ["subprocess:Popen", "ls"]),
        (13, ["subprocess:Popen", {"args": "ls"}]),
        (13, ["os.path:join", {}]),
        (13, ["no.such.module:Thing", {}]),
        (13, ["../etc:Thing", {}]),
        (14, ["builtins:tuple", [1]]),
        (13, [f"{__name__}:Point", {"__class__": 1}]),
        (4, "1"),
        (7, ["2024-13-01", None, 0]),
        (99, 1),
    ],
)
def test_extensions_name_only_what_they_may(code: int, content: Any) -> None:
    body = b"\0" + msgpack.packb(msgpack.ExtType(code, msgpack.packb(content)))
    with pytest.raises(DecodeError):
        decode_value(body)


def test_sizes_over_the_limit_name_both_sizes() -> None:
    with pytest.raises(PayloadTooLarge, match=r"2,00\d bytes encoded, payload_bytes_max is 1,000"):
        encode_arguments([b"x" * 2000], {}, bytes_max=1000)
    with pytest.raises(PayloadTooLarge, match="the result"):
        encode_value(b"x" * 2000, bytes_max=1000)


def test_pickled_payloads_are_refused() -> None:
    for code in (b"\2", b"\3"):
        with pytest.raises(DecodeError, match="pickled"):
            decode_arguments(code + b"cos\nsystem\n")


def test_json_carries_json_and_refuses_what_it_would_change() -> None:
    args, kwargs = decode_arguments(
        encode_arguments([1, "a", [None]], {"k": {"x": 2.5}}, serializer=JSON)
    )
    assert (args, kwargs) == ([1, "a", [None]], {"k": {"x": 2.5}})
    with pytest.raises(PayloadTypeError, match=r"argument 'x', \[0\]: key 1 of type int"):
        encode_arguments([[{1: 2}]], {}, names=("x",), serializer=JSON)
    with pytest.raises(PayloadTypeError, match=r"argument 'x': type set"):
        encode_arguments([], {"x": {1}}, serializer=JSON)
    assert decode_value(encode_value([1], serializer=JSON)) == [1]


# --- errors -----------------------------------------------------------------------------


def carried(exc: BaseException, trace: str = "Traceback: ...") -> Exception:
    return decode_error(encode_error(exc, trace))


def test_an_importable_exception_comes_back_as_its_own_type() -> None:
    error = PlainError("broken", 3, Decimal(1))
    error.hint = "try again"  # type: ignore[attr-defined]
    error.add_note("a note")
    back = carried(error)
    assert type(back) is PlainError
    assert back.args == ("broken", 3, Decimal(1))
    assert back.hint == "try again"  # type: ignore[attr-defined]
    assert back.__notes__ == ["a note"]
    assert back.remote_traceback == "Traceback: ..."  # type: ignore[attr-defined]
    assert "Traceback: ..." in str(back.__cause__)


def test_an_exception_with_its_own_constructor_keeps_type_text_and_attributes() -> None:
    back = carried(OddError(404, "not found"))
    assert type(back) is OddError
    assert str(back) == "not found (404)"
    assert back.code == 404


@pytest.mark.parametrize(
    "error",
    [KeyError("k"), FileNotFoundError(2, "gone", "name"), ValueError(), TaskRevokedError("x")],
)
def test_builtin_and_own_errors_come_back(error: Exception) -> None:
    back = carried(error)
    assert type(back) is type(error)
    assert str(back) == str(error)


def test_other_errors_become_task_failed_with_type_and_traceback() -> None:
    class Local(Exception):
        pass

    for error, name in [(Local("a"), "Local"), (SystemExit(3), "builtins.SystemExit")]:
        back = carried(error)
        assert type(back) is TaskFailed
        assert back.remote_type.endswith(name)
        assert back.traceback == "Traceback: ..."
        assert str(error) in str(back)


def test_arguments_that_cannot_travel_are_left_out_but_the_type_stays() -> None:
    back = carried(PlainError("text", object()))
    assert type(back) is PlainError
    assert "text" in str(back)


def test_errors_are_bounded() -> None:
    body = encode_error(PlainError("x" * 10_000_000), "line\n" * 1_000_000)
    assert len(body) < 200_000
    back = decode_error(body)
    assert "characters left out" in back.remote_traceback  # type: ignore[attr-defined]


def test_what_is_no_exception_class_is_never_called() -> None:
    body = b"\0" + msgpack.packb(["subprocess:Popen", ["ls"], {}, "text", "trace"])
    assert type(decode_error(body)) is TaskFailed


def test_numpy_arrays_come_back() -> None:
    numpy = pytest.importorskip("numpy")
    for array in (
        numpy.arange(6, dtype="<i4").reshape(2, 3),
        numpy.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", "<f8")]),
        numpy.array(["2024-01-01"], dtype="<M8[D]"),
        numpy.asfortranarray(numpy.eye(3)),
        numpy.zeros((0, 3)),
    ):
        back = decode_value(encode_value({"array": array}))["array"]
        assert back.dtype == array.dtype
        assert (back == array).all()
        assert back.flags.writeable
    assert type(decode_value(encode_value(numpy.float64(2.5)))) is numpy.float64
    with pytest.raises(PayloadTypeError, match="numpy array of objects"):
        encode_value(numpy.array([object()]))


def test_numpy_is_not_imported_for_plain_values() -> None:
    had = "numpy" in sys.modules
    payload.encode_value({"a": (1, 2)})
    assert ("numpy" in sys.modules) == had
