"""How settings and their values read: in the reference, in messages, in ``--print-config``."""

from __future__ import annotations

import re
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta

_URL_LOGIN = r"(?<=://)([^/@]*:)[^/]*(?=@)"
_URL_PARAMETER = r"(?i)([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*"


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
    if key != "store" or not isinstance(value, str):
        return value
    return re.sub(_URL_PARAMETER, r"\1***", re.sub(_URL_LOGIN, r"\1***", value))


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
