"""Arguments, results and errors to bytes and back.

A payload is one byte that names its serializer, then what that serializer wrote.
Nodes and brokers carry payloads without looking inside; only the process that runs a
task and the ones that read its result decode them. Arguments are the array
``[*args, kwargs]``, an error is the array of :func:`encode_error`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from zmqtasks.errors import DecodeError, PayloadTooLarge, PayloadTypeError, TaskError, TaskFailed
from zmqtasks.limits import PAYLOAD_BYTES_MAX
from zmqtasks.wire.importable import path_of, resolve
from zmqtasks.wire.joined import JOINED_BYTE, Joined, shaped, split
from zmqtasks.wire.packing import PackError, pack, type_name, unpack

#: Serializer codes. Part of the protocol: never reuse one.
MSGPACK, JSON, PICKLE, CLOUDPICKLE = 0, 1, 2, 3
#: {name for users: code} of the serializers that may be chosen.
SERIALIZERS = {"msgpack": MSGPACK, "json": JSON}
#: Characters of a remote traceback and of an error's text that travel.
TRACEBACK_CHARS_MAX = 64 * 1024
ERROR_TEXT_CHARS_MAX = 4 * 1024
#: Bytes of an error's own arguments and attributes that travel.
_ERROR_DATA_BYTES_MAX = 64 * 1024

_MSGPACK_BYTE = b"\x00"
_JSON_BYTE = b"\x01"


class RemoteTraceback(Exception):
    """Cause of an exception that was raised elsewhere: its traceback as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        #: The traceback as the worker saw it.
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


# --- arguments --------------------------------------------------------------------------


def encode_arguments(
    args: Sequence[object],
    kwargs: Mapping[str, object],
    *,
    names: Sequence[str] = (),
    bytes_max: int = PAYLOAD_BYTES_MAX,
    serializer: int = MSGPACK,
) -> bytes:
    """The payload of a call.

    Args:
        names: the names of positional parameters, for error messages.
        bytes_max: the largest payload allowed, in bytes.
        serializer: ``MSGPACK`` or ``JSON``.

    Raises:
        PayloadTypeError: an argument cannot travel; names its path and type.
        PayloadTooLarge: together they are over ``bytes_max``.
    """
    if serializer != MSGPACK:
        body = _JSON_BYTE + _json_arguments(args, kwargs, names)
    else:
        try:
            body = _MSGPACK_BYTE + pack([*args, kwargs])
        except PackError as exc:
            raise _argument_error(args, kwargs, names, str(exc)) from None
    if len(body) > bytes_max:
        raise _too_large("the arguments", len(body), bytes_max)
    return body


def decode_arguments(body: bytes) -> tuple[list[Any], dict[str, Any]]:
    """``(args, kwargs)`` of a call's payload.

    Raises:
        DecodeError: damaged, or it names a class that is not here.
    """
    if body[:1] == JOINED_BYTE:
        return _decode_joined(split(body))
    args = _decode(body, "the arguments")
    if not isinstance(args, list) or not args:
        raise DecodeError("the arguments are no array")
    kwargs = args.pop()
    if not isinstance(kwargs, dict) or (kwargs and not all(isinstance(key, str) for key in kwargs)):
        raise DecodeError("the keyword arguments are no map of names")
    return args, kwargs


def _decode_joined(parts: Joined) -> tuple[list[Any], dict[str, Any]]:
    """Arguments, before them what the results of other tasks make, if they are wanted."""
    args, kwargs = decode_arguments(parts.body)
    if parts.shape is not None:
        values = {position: decode_value(result) for position, result in parts.results.items()}
        args.insert(0, shaped(parts.shape, values))
    return args, kwargs


def _argument_error(
    args: Sequence[object], kwargs: Mapping[str, object], names: Sequence[str], reason: str
) -> PayloadTypeError:
    for index, value in enumerate(args):
        label = f"argument {names[index]!r}" if index < len(names) else f"argument {index + 1}"
        found = _locate(value, pack, PackError)
        if found is not None:
            return _type_error(label, *found)
    for name, value in kwargs.items():
        found = _locate(value, pack, PackError)
        if found is not None:
            return _type_error(f"argument {name!r}", *found)
    # Only the nesting of the whole can be at fault when no part is.
    return _type_error("the arguments", "", reason)


# --- results ----------------------------------------------------------------------------


def encode_value(
    value: object, *, bytes_max: int = PAYLOAD_BYTES_MAX, serializer: int = MSGPACK
) -> bytes:
    """The payload of a result.

    Raises:
        PayloadTypeError: it cannot travel; names the path and type.
        PayloadTooLarge: it is over ``bytes_max``.
    """
    try:
        if serializer == MSGPACK:
            body = _MSGPACK_BYTE + pack(value)
        else:
            body = _JSON_BYTE + _to_json(value)
    except PackError as exc:
        found = _locate(value, pack if serializer == MSGPACK else _to_json, PackError)
        raise _type_error("the result", *(found or ("", str(exc)))) from None
    if len(body) > bytes_max:
        raise _too_large("the result", len(body), bytes_max)
    return body


def decode_value(body: bytes) -> Any:
    """The result in a payload.

    Raises:
        DecodeError: damaged, or it names a class that is not here.
    """
    return _decode(body, "the result")


def _decode(body: bytes, what: str) -> Any:
    code = body[0] if body else -1
    try:
        if code == MSGPACK:
            return unpack(body[1:])
        if code == JSON:
            import json  # rarely used, and slow to import

            return json.loads(body[1:])
    except (PackError, ValueError, RecursionError) as exc:
        raise DecodeError(f"{what} cannot be decoded: {exc}") from None
    if code in (PICKLE, CLOUDPICKLE):
        raise DecodeError(f"{what} are pickled, which is refused: use msgpack or json")
    raise DecodeError(f"{what} have unknown serializer code {code}")


# --- errors -----------------------------------------------------------------------------


def encode_error(
    exc: BaseException, traceback_text: str, *, bytes_max: int = PAYLOAD_BYTES_MAX
) -> bytes:
    """The payload of an exception; never fails.

    It is ``[path of its class, args or None, attributes, text, traceback]``. Arguments
    and attributes travel where they are plain data.
    """
    args: list[object] | None = _constructor_args(exc)
    if not _packable(args):
        args = None
    state = {
        name: value
        for name, value in getattr(exc, "__dict__", {}).items()
        if isinstance(name, str) and _packable(value)
    }
    content = [
        _error_path(type(exc)),
        args,
        state,
        _shorten(_error_text(exc), ERROR_TEXT_CHARS_MAX),
        _shorten(traceback_text, TRACEBACK_CHARS_MAX),
    ]
    body = _MSGPACK_BYTE + pack(content)
    if len(body) > bytes_max:
        body = _MSGPACK_BYTE + pack([content[0], None, {}, *content[3:]])
    return body


def decode_error(body: bytes) -> Exception:
    """The exception in a payload, never raises.

    It has its own type where that is an importable subclass of ``Exception``, else it
    is a :class:`TaskFailed`. The remote traceback is its ``remote_traceback`` and shown
    as its cause.
    """
    try:
        content: Any = unpack(body[1:])
        path, args, state, text, trace = content
        checked = isinstance(path, str) and isinstance(text, str) and isinstance(trace, str)
    except (PackError, TypeError, ValueError) as exc:
        return TaskFailed(f"the task failed, and its error cannot be decoded: {exc}")
    if not checked or body[0] != MSGPACK:
        return TaskFailed("the task failed, and its error cannot be decoded")
    return _with_traceback(_rebuild(path, args, state, text, trace), trace)


def _rebuild(path: str, args: object, state: object, text: str, trace: str) -> Exception:
    """The exception as its own type, or a TaskFailed."""
    remote_type = path.replace(":", ".")
    try:
        cls = resolve(path)
    except LookupError:
        cls = TaskFailed
    if issubclass(cls, Exception) and not issubclass(cls, TaskFailed):
        found = _instance(cls, args, text)
        if found is not None:
            if isinstance(state, dict):
                _restore(found, state)
            return found
    message = f"{remote_type}: {text}" if text else remote_type
    return TaskFailed(message, remote_type=remote_type, traceback=trace)


def _instance(cls: type[Exception], args: object, text: str) -> Exception | None:
    """``cls(*args)``, or an instance made past ``__init__`` when that does not fit.

    A class whose ``__init__`` takes other arguments than it passes on to Exception
    cannot be called with ``args``; its type matters more to ``except`` clauses than
    what its ``__init__`` would do.
    """
    if isinstance(args, list):
        try:
            found = cls(*args)
            if _error_text(found)[:ERROR_TEXT_CHARS_MAX] == text[:ERROR_TEXT_CHARS_MAX]:
                return found
        except Exception:  # noqa: BLE001, S110 - foreign constructor; next try follows
            pass
    try:
        found = cls.__new__(cls)
        found.args = tuple(args) if isinstance(args, list) else (text,)
    except Exception:  # noqa: BLE001 - foreign class
        return None
    return found


def _restore(exc: Exception, state: dict[Any, Any]) -> None:
    for name, value in state.items():
        if isinstance(name, str) and (not name.startswith("__") or name == "__notes__"):
            try:
                setattr(exc, name, value)
            except (AttributeError, TypeError):
                continue  # a property without setter: __init__ has made what is behind it


def _with_traceback(exc: Exception, trace: str) -> Exception:
    if trace:
        # A class may forbid attributes; the cause has the text too.
        with suppress(AttributeError):
            exc.remote_traceback = trace  # type: ignore[attr-defined]
        if isinstance(exc, TaskError) and exc.traceback is None:
            exc.traceback = trace
        exc.__cause__ = RemoteTraceback(trace)
    return exc


def _constructor_args(exc: BaseException) -> list[object]:
    """What its class was called with; an OSError's file name is not in ``args``."""
    try:
        reduced: Any = exc.__reduce__()
        if reduced[0] is type(exc) and isinstance(reduced[1], tuple):
            return list(reduced[1])
    except Exception:  # noqa: BLE001, S110 - a foreign __reduce__; args will do
        pass
    return list(exc.args)


def _error_path(cls: type) -> str:
    try:
        return path_of(cls)
    except ValueError:
        return f"{cls.__module__}:{cls.__qualname__}"


def _error_text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - foreign __str__
        return f"<{type(exc).__name__} whose text cannot be made>"


def _packable(value: object) -> bool:
    try:
        return len(pack(value)) <= _ERROR_DATA_BYTES_MAX
    except PackError:
        return False


def _shorten(text: str, chars_max: int) -> str:
    """Both ends of a long text: the cause of a failure is at one of them."""
    if len(text) <= chars_max:
        return text
    half = chars_max // 2
    return f"{text[:half]}\n... {len(text) - chars_max:,} characters left out ...\n{text[-half:]}"


# --- JSON -------------------------------------------------------------------------------


def _json_arguments(
    args: Sequence[object], kwargs: Mapping[str, object], names: Sequence[str]
) -> bytes:
    labels = [
        f"argument {names[index]!r}" if index < len(names) else f"argument {index + 1}"
        for index in range(len(args))
    ] + [f"argument {name!r}" for name in kwargs]
    for label, value in zip(labels, [*args, *kwargs.values()], strict=True):
        found = _locate(value, _to_json, PackError)
        if found is not None:
            raise _type_error(label, *found)
    return _to_json([*args, dict(kwargs)])


def _to_json(value: object) -> bytes:
    """JSON, refusing what it would change without a word (keys that are no text)."""
    import json  # rarely used, and slow to import

    try:
        _check_json_keys(value)
        return json.dumps(value, separators=(",", ":"), default=_refuse).encode()
    except (ValueError, RecursionError) as exc:
        raise PackError(f"{exc}") from None


def _refuse(value: object) -> object:
    raise PackError(f"type {type_name(type(value))}")


def _check_json_keys(value: object) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise PackError(f"key {key!r:.75} of type {type_name(type(key))} in JSON")
            _check_json_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_json_keys(item)


# --- messages ---------------------------------------------------------------------------


def _locate(
    value: object, encode: Callable[[Any], bytes], failure: type[Exception]
) -> tuple[str, str] | None:
    """``(path, reason)`` of the innermost part that cannot be encoded, or None."""
    path = ""
    while True:
        try:
            encode(value)
        except failure as exc:
            reason = str(exc)
        else:
            return None
        for label, part in _parts(value):
            try:
                encode(part)
            except failure:
                path, value = path + label, part
                break
        else:
            return path, reason
        if len(path) > 200:  # it contains itself
            return path[:200] + "...", reason


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{key!r:.75}]", item
            yield f" (key {key!r:.75})", key
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in value:
            yield " (an element)", item
    elif hasattr(type(value), "__dataclass_fields__"):
        for name in type(value).__dataclass_fields__:  # type: ignore[attr-defined]
            yield f".{name}", getattr(value, name, None)


def _type_error(label: str, path: str, reason: str) -> PayloadTypeError:
    where = f"{label}, {path.strip()}" if path else label
    return PayloadTypeError(
        f"{where}: {reason} cannot be sent to another process; "
        "send plain data, a dataclass, or a reference to it"
        if reason.startswith(("type ", "a numpy", "key "))
        else f"{where}: {reason}"
    )


def _too_large(what: str, size: int, bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"{what}: {size:,} bytes encoded, payload_bytes_max is {bytes_max:,}; "
        "send a reference (a path, a key) instead of the data"
    )
