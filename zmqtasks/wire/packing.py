"""MessagePack with Python's own types.

Plain values (None, bool, int, float, str, bytes, list, dict) go through the C packer
as they are. Everything else is an extension type, written by ``_default`` and read by
``_from_ext``; its content is MessagePack again. Subclasses of plain types without an
entry of their own travel as the plain type (a ``defaultdict`` arrives as ``dict``, a
``bytearray`` as ``bytes``). Classes are named by import path and only enums,
dataclasses and named tuples are rebuilt: no payload can name a function to call.

What is ugly here: an extension within an extension is a packer within a packer, so
their depth is counted by having one packer and one hook for each depth. The C unpacker
keeps about 40 KiB of its state on the C stack, hence another one for deep levels.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from functools import cached_property
from importlib import import_module
from typing import Any
from uuid import UUID

from msgpack import ExtType, Packer, Unpacker, unpackb

from zmqtasks.wire.importable import path_of, resolve

#: Extension types within extension types.
DEPTH_MAX = 100
#: From this depth on the unpacker's state lives on the heap.
_DEPTH_STACK = 8
#: A packer that has grown beyond this is not kept.
_BUFFER_BYTES_KEPT = 1024 * 1024
_PACKERS_KEPT = 8
#: Built-in classes that hold more than the fields of a dataclass derived from them.
_WITH_CONTENT = (str, int, float, bytes, list, dict, tuple, set, BaseException)
#: What MessagePack has integers for.
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1

# Codes are part of the protocol: never reuse one. Source: docs/protocol.md.
_TUPLE, _SET, _FROZENSET, _BIG_INT, _DECIMAL, _UUID = 1, 2, 3, 4, 5, 6
_DATETIME, _DATE, _TIME, _TIMEDELTA, _COMPLEX = 7, 8, 9, 10, 11
_ENUM, _DATACLASS, _NAMEDTUPLE = 12, 13, 14
_NDARRAY, _NUMPY_SCALAR, _COUNTER, _ORDERED_DICT, _DEQUE = 15, 16, 17, 18, 19
#: Codes whose content is a list in no particular order.
UNORDERED = frozenset((_SET, _FROZENSET))


class PackError(Exception):
    """A value that cannot be packed, or bytes that cannot be unpacked; says why."""


# --- packing ----------------------------------------------------------------------------


def pack(value: object, depth: int = 0) -> bytes:
    """The value as MessagePack.

    Raises:
        PackError: it holds something that cannot travel.
    """
    pool = _POOLS[depth]
    try:
        packer = pool.pop()
    except IndexError:
        packer = _new_packer(depth, None)
    try:
        data: bytes = packer.pack(value)
    except UnicodeEncodeError:
        # Lone surrogates, as in undecodable file names. Rare, so not on the fast path.
        data = _pack_anew(value, depth, "surrogatepass")
    except (ValueError, RecursionError):
        raise PackError("nested deeper than 500 levels, or it contains itself") from None
    # Only a packer without an exception behind it is known to be empty.
    if len(data) < _BUFFER_BYTES_KEPT and len(pool) < _PACKERS_KEPT:
        pool.append(packer)
    return data


def _pack_anew(value: object, depth: int, unicode_errors: str) -> bytes:
    try:
        data: bytes = _new_packer(depth, unicode_errors).pack(value)
    except (ValueError, RecursionError):
        raise PackError("nested deeper than 500 levels, or it contains itself") from None
    return data


def _new_packer(depth: int, unicode_errors: str | None) -> Packer:
    def default(value: object) -> object:
        return _default(value, depth)

    return Packer(strict_types=True, default=default, unicode_errors=unicode_errors)


#: One list of idle packers for each depth: a packer cannot be entered twice.
_POOLS: list[list[Packer]] = [[] for _ in range(DEPTH_MAX + 1)]


def _default(value: object, depth: int) -> object:
    """What stands for a value that MessagePack does not know."""
    if depth >= DEPTH_MAX:
        raise PackError(f"nested deeper than {DEPTH_MAX} levels of tuples, sets and objects")
    cls = type(value)
    if cls is tuple:  # far more frequent than all others
        return ExtType(_TUPLE, pack(list(value), depth + 1))  # type: ignore[call-overload]
    writer = _WRITERS.get(cls)
    if writer is not None:
        code, content = writer
        return ExtType(code, pack(content(value), depth + 1))
    found = _by_protocol(value, cls)
    if isinstance(found, tuple):
        return ExtType(found[0], pack(found[1], depth + 1))
    return found


def _by_protocol(value: object, cls: type) -> object:
    """``(code, content)`` or a plain value, for types known by what they derive from."""
    if isinstance(value, Enum):
        # Members of a Flag are combined, and combinations have no name.
        content = value.value if isinstance(value, Flag) else value.name
        return _ENUM, [_path(cls), content]
    if hasattr(cls, "__dataclass_fields__") and not isinstance(value, _WITH_CONTENT):
        return _DATACLASS, [_path(cls), _dataclass_state(value)]
    if cls.__module__.partition(".")[0] == "numpy":
        return _numpy_content(value, cls)
    if isinstance(value, tuple):
        if hasattr(cls, "_fields"):
            return _NAMEDTUPLE, [_path(cls), list(value)]
        return _TUPLE, list(value)
    return _plain_base(value, cls)


def _plain_base(value: object, cls: type) -> object:
    """The plain value inside an instance of a subclass, without calling its methods."""
    if isinstance(value, dict):
        return dict(dict.items(value))
    if isinstance(value, list):
        return list.copy(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if _INT_MIN <= number <= _INT_MAX else (_BIG_INT, _int_bytes(number))
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, bytes):
        return bytes.__add__(value, b"")
    raise PackError(f"type {type_name(cls)}")


def _int_bytes(number: int) -> bytes:
    # Not as text: Python refuses to convert more than 4,300 digits.
    return number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)


def type_name(cls: type) -> str:
    """The class as messages name it."""
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def _path(cls: type) -> str:
    try:
        return path_of(cls)
    except ValueError as exc:
        raise PackError(str(exc)) from None


def _dataclass_state(value: object) -> dict[str, object]:
    """All fields, and what ``__post_init__`` may have added, but no cached properties."""
    import dataclasses  # whoever has a dataclass has imported it; importing it is slow

    cls = type(value)
    names = [field.name for field in dataclasses.fields(value)]  # type: ignore[arg-type]
    state = {name: getattr(value, name) for name in names if hasattr(value, name)}
    for name, extra in getattr(value, "__dict__", {}).items():
        if name not in state and not isinstance(getattr(cls, name, None), cached_property):
            state[name] = extra
    return state


def _numpy_content(value: Any, cls: type) -> tuple[int, object]:
    numpy = sys.modules["numpy"]
    if cls is numpy.ndarray:
        code = _NDARRAY
    elif isinstance(value, numpy.generic):
        code = _NUMPY_SCALAR
    else:
        raise PackError(f"type {type_name(cls)}")
    if value.dtype.hasobject:
        raise PackError("a numpy array of objects")
    dtype = value.dtype.str if value.dtype.names is None else value.dtype.descr
    return code, [dtype, list(value.shape), value.tobytes()]


def _datetime_content(value: Any) -> list[object]:
    """ISO text, the zone's key when it has one, and which of two equal readings."""
    zone = getattr(value.tzinfo, "key", None)
    return [value.isoformat(), zone if isinstance(zone, str) else None, value.fold]


#: {exact type: (code, function giving the content)}
_WRITERS: dict[type, tuple[int, Callable[[Any], object]]] = {
    set: (_SET, list),
    frozenset: (_FROZENSET, list),
    int: (_BIG_INT, _int_bytes),
    Decimal: (_DECIMAL, str),
    UUID: (_UUID, lambda value: value.bytes),
    datetime: (_DATETIME, _datetime_content),
    date: (_DATE, date.isoformat),
    time: (_TIME, _datetime_content),
    timedelta: (_TIMEDELTA, lambda value: [value.days, value.seconds, value.microseconds]),
    complex: (_COMPLEX, lambda value: [value.real, value.imag]),
    Counter: (_COUNTER, lambda value: dict(dict.items(value))),
    OrderedDict: (_ORDERED_DICT, lambda value: [list(pair) for pair in value.items()]),
    deque: (_DEQUE, lambda value: [list(value), value.maxlen]),
}


# --- unpacking --------------------------------------------------------------------------


def unpack(data: bytes) -> object:
    """The value that was packed.

    Raises:
        PackError: the bytes are damaged, or name a class that is not here.
    """
    return _unpack(data, 0)


def _unpack(data: bytes, depth: int) -> Any:
    try:
        if depth < _DEPTH_STACK:
            return unpackb(data, strict_map_key=False, ext_hook=_HOOKS[depth], timestamp=3)
        return _unpack_on_heap(data, depth, "strict")
    except UnicodeDecodeError:
        return _unpack_surrogates(data, depth)
    except _DAMAGE as exc:
        raise PackError(f"damaged payload ({type(exc).__name__}: {exc})") from None


def _unpack_surrogates(data: bytes, depth: int) -> Any:
    try:
        return _unpack_on_heap(data, depth, "surrogatepass")
    except _DAMAGE as exc:
        raise PackError(f"damaged payload ({type(exc).__name__}: {exc})") from None


def _unpack_on_heap(data: bytes, depth: int, unicode_errors: str) -> Any:
    unpacker = Unpacker(
        strict_map_key=False,
        ext_hook=_HOOKS[depth],
        timestamp=3,  # MessagePack's own time type: an aware datetime
        unicode_errors=unicode_errors,
        max_buffer_size=max(len(data), 1),
    )
    unpacker.feed(data)
    value = unpacker.unpack()
    if unpacker.tell() != len(data):
        raise PackError("damaged payload (bytes left over)")
    return value


#: What msgpack and the constructors below raise for bytes that make no sense.
_DAMAGE = (
    ValueError, TypeError, KeyError, AttributeError, ArithmeticError, LookupError,
    EOFError, RecursionError, MemoryError, BufferError,
)  # fmt: skip


def _hook(depth: int) -> Callable[[int, bytes], object]:
    def hook(code: int, data: bytes) -> object:
        if depth >= DEPTH_MAX:
            raise PackError(f"nested deeper than {DEPTH_MAX} levels")
        return _from_ext(code, data, depth + 1)

    return hook


_HOOKS = [_hook(depth) for depth in range(DEPTH_MAX + 1)]


def _from_ext(code: int, data: bytes, depth: int) -> object:
    reader = _READERS.get(code)
    if reader is None:
        raise PackError(f"unknown extension type {code}")
    return reader(_unpack(data, depth))


def _read_datetime(content: list[Any]) -> datetime:
    text, zone, fold = content
    value = datetime.fromisoformat(text)
    if zone is not None:
        from zoneinfo import ZoneInfo

        value = value.replace(tzinfo=ZoneInfo(zone))
    return value.replace(fold=fold) if fold else value


def _read_time(content: list[Any]) -> time:
    text, zone, fold = content
    value = time.fromisoformat(text)
    if zone is not None:
        from zoneinfo import ZoneInfo

        value = value.replace(tzinfo=ZoneInfo(zone))
    return value.replace(fold=fold) if fold else value


def _class(path: str, kind: str, accepts: Callable[[type], bool]) -> Any:
    try:
        cls = resolve(path)
    except LookupError as exc:
        raise PackError(str(exc)) from None
    if not accepts(cls):
        raise PackError(f"{path} is no {kind}")
    return cls


def _read_enum(content: list[Any]) -> object:
    path, member = content
    cls = _class(path, "enum", lambda cls: issubclass(cls, Enum))
    return cls(member) if issubclass(cls, Flag) else cls[member]


def _read_dataclass(content: list[Any]) -> object:
    """Rebuilt from its state, so that ``__post_init__`` does not run a second time."""
    path, state = content
    cls = _class(path, "dataclass", lambda cls: hasattr(cls, "__dataclass_fields__"))
    value = object.__new__(cls)
    for name, item in state.items():
        if name.startswith("__"):
            raise PackError(f"{name!r} is no field of {path}")
        object.__setattr__(value, name, item)
    return value


def _read_namedtuple(content: list[Any]) -> object:
    path, items = content
    cls = _class(
        path, "named tuple", lambda cls: issubclass(cls, tuple) and hasattr(cls, "_fields")
    )
    return tuple.__new__(cls, items)


def _read_ndarray(content: list[Any]) -> Any:
    try:
        numpy = import_module("numpy")
    except ImportError:
        raise PackError("a numpy array, and numpy is not installed here") from None
    dtype, shape, data = content
    # frombuffer refuses object dtypes; the copy makes the array writable.
    return numpy.frombuffer(data, dtype=numpy.dtype(dtype)).reshape(shape).copy()


def _read_counter(content: dict[Any, Any]) -> Counter[Any]:
    # Counter(mapping) would do, but calls update(), which is slow.
    counter: Counter[Any] = Counter()
    dict.update(counter, content)
    return counter


#: {code: function making the value from the content}
_READERS: dict[int, Callable[[Any], object]] = {
    _TUPLE: tuple,
    _SET: set,
    _FROZENSET: frozenset,
    _BIG_INT: lambda content: int.from_bytes(content, "big", signed=True),
    _DECIMAL: Decimal,
    _UUID: lambda content: UUID(bytes=content),
    _DATETIME: _read_datetime,
    _DATE: date.fromisoformat,
    _TIME: _read_time,
    _TIMEDELTA: lambda content: timedelta(*content),
    _COMPLEX: lambda content: complex(*content),
    _ENUM: _read_enum,
    _DATACLASS: _read_dataclass,
    _NAMEDTUPLE: _read_namedtuple,
    _NDARRAY: _read_ndarray,
    _NUMPY_SCALAR: lambda content: _read_ndarray(content)[()],
    _COUNTER: _read_counter,
    _ORDERED_DICT: OrderedDict,
    _DEQUE: lambda content: deque(content[0], content[1]),
}
