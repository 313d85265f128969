"""Command line options made from the settings, so each setting is one flag everywhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from zmqtasks.settings import Loaded, load_settings, setting_docs
from zmqtasks.settings_checks import DURABILITIES, LOG_FORMATS, LOG_LEVELS, POOLS, ROLES
from zmqtasks.settings_texts import SettingDoc

_Command = TypeVar("_Command", bound=Callable[..., Any])
#: {setting: values that a shell offers; there may be others}.
_VALUES = {
    "durability": DURABILITIES,
    "log_format": LOG_FORMATS,
    "log_level": LOG_LEVELS,
    "pool": POOLS,
    "roles": ROLES,
}
_SHORT = {"--queues": "-Q", "--concurrency": "-c", "--app": "-A", "--log-level": "-l"}

#: What a command that only talks to a mesh can be told.
CLIENT_KEYS = (
    "mesh", "app", "peers", "key_file", "insecure", "listen", "mdns", "interfaces",
    "runtime_dir", "state_dir", "cache_dir", "log_level", "log_format",
)  # fmt: skip


def setting_options(keys: Collection[str] | None = None) -> Callable[[_Command], _Command]:
    """Add a flag for each of these settings (None: for all).

    Values stay texts: ``load_settings`` converts and checks them, so that a bad value has
    the same message wherever it comes from.
    """

    def add(command: _Command) -> _Command:
        for doc in reversed(setting_docs()):
            if keys is not None and doc.key not in keys:
                continue
            names = [doc.flag, *([_SHORT[doc.flag]] if doc.flag in _SHORT else []), doc.key]
            text = doc.description.replace("`", "")
            if doc.type == "true or false":
                names[0] = f"{doc.flag}/--no-{doc.flag.removeprefix('--')}"
                option = click.option(*names, default=None, help=text)
            else:
                many = doc.type.startswith("a list")
                option = click.option(
                    *names, default=None, multiple=many, help=text, metavar=_metavar(doc),
                    shell_complete=_offered,
                )  # fmt: skip
            command = option(command)
        return command

    return add


def _metavar(doc: SettingDoc) -> str:
    if doc.key.endswith("_s"):
        return "S"
    return "N" if doc.type.startswith("a whole number") else "TEXT"


def _offered(_ctx: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Values of a setting that begin so."""
    known = _VALUES.get(param.name or "", ())
    return [CompletionItem(value) for value in known if value.lower().startswith(begun.lower())]


def settings_from(flags: dict[str, Any], app_conf: Mapping[str, object] | None = None) -> Loaded:
    """The settings of this process, flags first, those of an application last."""
    return load_settings(flags=_without_empty(flags), app_conf=app_conf, cwd=Path.cwd())


def _without_empty(flags: dict[str, Any]) -> dict[str, Any]:
    """Empty texts in a list count as not given, as in ``--peer "$PEER"``; ``,`` does not."""
    return {
        key: tuple(text for text in value if text.strip()) if isinstance(value, tuple) else value
        for key, value in flags.items()
    }
