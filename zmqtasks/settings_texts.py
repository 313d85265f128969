"""How settings and their values read: in the reference, in messages, in ``--print-config``."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta

_URL_LOGIN = r"(?<=://)([^/@]*:)[^/]*(?=@)"
_URL_PARAMETER = r"(?i)([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*"
_SECRET_NAME = re.compile(r"(?i)password|secret|token")
#: Of values that may be anything: what is longer as JSON, or deeper, is shown in part.
_SHOWN_BYTES_MAX = 4_096
_SHOWN_DEPTH_MAX = 8


class SettingDoc(NamedTuple):
    """What the reference says about one setting."""

    key: str
    #: What values it takes, in words that follow "must be".
    type: str
    default: str
    flag: str
    env: str
    description: str


def hidden(key: str, value: object) -> object:
    """The value without passwords."""
    return _without_logins(value) if key == "store" and isinstance(value, str) else value


def _without_logins(text: str) -> str:
    return re.sub(_URL_PARAMETER, r"\1***", re.sub(_URL_LOGIN, r"\1***", text))


def plain(value: object) -> object:
    """A value of any kind as plain data without passwords; of a long one the beginning, as
    text. Code is shown by its name."""
    found = _plain(value, 0)
    is_short = len(msgspec.json.encode(found)) <= _SHOWN_BYTES_MAX
    return found if is_short else reprlib.repr(found)


def _plain(value: object, depth: int) -> object:
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and value.bit_length() < 64:
        return value
    if not isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return _text(value)
    if depth == _SHOWN_DEPTH_MAX:
        return "..."
    if not isinstance(value, Mapping):
        return [_plain(item, depth + 1) for item in value]
    items = [(_text(key), item) for key, item in value.items()]
    return {
        key: "***" if item is not None and _SECRET_NAME.search(key) else _plain(item, depth + 1)
        for key, item in items
    }


def _text(value: object) -> str:
    if callable(value) and hasattr(value, "__qualname__"):
        module = value.__module__
        value = value.__qualname__ if module == "builtins" else f"{module}.{value.__qualname__}"
    # Not every text can be encoded.
    return _without_logins(str(value)).encode(errors="replace").decode()


def as_toml(value: object) -> str:
    """The value as it is written in a file."""
    if isinstance(value, tuple):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    return msgspec.json.encode(value).decode()


def kind_of(hint: Any) -> type:
    """The plain type that an annotation stands for: str, int, float, bool or tuple."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kind = get_origin(hint) or hint
    assert isinstance(kind, type)
    return kind


def description(hint: Any) -> str:
    """What an annotation says of its setting."""
    return next(meta.description for meta in _metas(hint) if meta.description)


def type_text(hint: Any) -> str:
    """What values an annotation allows, in words that follow "must be"."""
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    metas = _metas(hint)
    if kind_of(hint) is tuple:
        least_one = any(meta.min_length for meta in metas)
        return "a list of texts, at least one" if least_one else "a list of texts"
    name = names[kind_of(hint)]
    least = next((meta.ge for meta in metas if meta.ge is not None), None)
    most = next((meta.le for meta in metas if meta.le is not None), None)
    return name if least is None or most is None else f"{name}, {least:.0f} to {most:.0f}"


def _metas(hint: Any) -> list[Meta]:
    return [item for item in get_args(hint) if isinstance(item, Meta)]
