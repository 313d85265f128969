"""Where settings come from: environment, file, and values as people write them.

Every value keeps its origin (``ZMQTASKS_PORT``, ``zmqtasks.toml``, ``flag --port``), so
that each error and ``--print-config`` can name it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zmqtasks.errors import ConfigError

ENV_PREFIX = "ZMQTASKS_"
FILE_NAME = "zmqtasks.toml"
PROJECT_FILE_NAME = "pyproject.toml"

#: Kubernetes and Docker put these into the environment of every container beside a
#: service whose name begins with "zmqtasks"; ``ZMQTASKS_PORT=tcp://10.0.0.7:5555`` is no
#: port. Source: kubernetes.io "Accessing the Service", environment variables.
_SERVICE_NAME = r"ZMQTASKS_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
_SERVICE_PORT = r"(tcp|udp|sctp)://[^/]+:\d+"

#: Command line flags that are not simply the key with dashes.
_FLAG_NAMES = {
    "roles": "--role",
    "peers": "--peer",
    "key_file": "--key",
    "interfaces": "--interface",
    "queue_routes": "--queue-route",
}

#: Settings that applications make and nobody else.
OF_APPS = frozenset(
    """
    beat_schedule enable_utc imports include result_extended task_always_eager task_annotations
    task_default_priority task_default_rate_limit task_eager_propagates task_ignore_result
    task_inherit_parent_priority task_routes task_soft_time_limit task_time_limit timezone
    """.split()
)

_BOOL_WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


class Sourced(NamedTuple):
    """A value before conversion and where it came from."""

    value: object
    origin: str


def env_name(key: str) -> str:
    """Name of the environment variable of a setting."""
    return ENV_PREFIX + key.upper()


def flag_name(key: str) -> str:
    """Name of the command line flag of a setting."""
    return _FLAG_NAMES.get(key) or "--" + key.replace("_", "-")


def nearest(key: str, known: Collection[str]) -> str | None:
    """The known name that was most likely meant."""
    import difflib  # only for mistakes

    found = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    return found[0] if found else None


def unknown_key(origin: str, key: str, known: Collection[str]) -> ConfigError:
    """The error for a setting that does not exist, with the nearest that does."""
    why = _why_not(key.lower().replace("-", "_"))
    if why:
        return ConfigError(f"{origin}: {why}")
    likely = nearest(key.lower().replace("-", "_"), known)
    hint = (
        f"did you mean {likely!r}?"
        if likely
        else "zmqtasks node --print-config lists the settings there are"
    )
    return ConfigError(f"{origin}: unknown setting {key!r}; {hint}")


def _why_not(key: str) -> str | None:
    """Why something that is a setting elsewhere is none here; None: it is none anywhere."""
    if key in OF_APPS:
        return f"only an application sets {key!r}: App(..., {key}=...) or app.conf.{key} = ..."
    from zmqtasks.celery_fates import told_setting  # only for mistakes

    return told_setting(key)


def from_mapping(
    values: Mapping[str, object], origin: str, known: Collection[str]
) -> dict[str, Sourced]:
    """Settings of a mapping (``app.conf``), all from one origin.

    Raises:
        ConfigError: a key is unknown.
    """
    for key in values:
        if key not in known:
            raise unknown_key(origin, key, known)
    return {key: Sourced(value, origin) for key, value in values.items()}


def from_flags(flags: Mapping[str, object], known: Collection[str]) -> dict[str, Sourced]:
    """Settings given on the command line; None and () mean not given.

    Raises:
        ConfigError: a key is unknown.
    """
    found = {}
    for key, value in flags.items():
        if key not in known:
            raise unknown_key("command line", key, known)
        if value is not None and value != ():
            found[key] = Sourced(value, f"flag {flag_name(key)}")
    return found


def from_environment(env: Mapping[str, str], known: Collection[str]) -> dict[str, Sourced]:
    """Settings in the environment; an empty variable counts as not set.

    Raises:
        ConfigError: a variable with our prefix is no setting.
    """
    keys = {env_name(key): key for key in known}
    found = {}
    for name, value in env.items():
        if not name.startswith(ENV_PREFIX) or not value or _is_service_variable(name, value):
            continue
        key = keys.get(name)
        if key is None:
            why = _why_not(name.removeprefix(ENV_PREFIX).lower())
            if why:
                raise ConfigError(f"environment: {name}: {why}")
            likely = nearest(name, keys)
            hint = f"did you mean {likely}?" if likely else "unset it"
            raise ConfigError(f"environment: {name} is no setting; {hint}")
        found[key] = Sourced(value, name)
    return found


def _is_service_variable(name: str, value: str) -> bool:
    if ("_SERVICE_" in name or "_PORT_" in name) and re.fullmatch(_SERVICE_NAME, name):
        return True
    return name.endswith("_PORT") and re.fullmatch(_SERVICE_PORT, value) is not None


def from_file(cwd: Path, known: Collection[str]) -> dict[str, Sourced]:
    """Settings of ``zmqtasks.toml``, else of ``[tool.zmqtasks]`` in ``pyproject.toml``.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has an unknown key.
    """
    table = _read_toml(cwd / FILE_NAME)
    name = FILE_NAME
    if table is None:
        project = _read_toml(cwd / PROJECT_FILE_NAME) or {}
        tool = project.get("tool", {})
        table = tool.get("zmqtasks", {}) if isinstance(tool, dict) else {}
        name = PROJECT_FILE_NAME
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: [tool.zmqtasks] must be a table")
    return from_mapping(table, name, known)


def _read_toml(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read ({exc.strerror}); make it readable") from None
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is no valid TOML: {exc}") from None
    import tomllib  # most processes have no file to read

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is no valid TOML: {exc}") from None


def as_list(value: object) -> object:
    """A text split at commas, also inside a list; anything else as it is."""
    if isinstance(value, str):
        return _parts(value)
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return [part for item in value for part in _parts(item)]
    return value


def _parts(text: str) -> list[str]:
    return [part for part in (piece.strip() for piece in text.split(",")) if part]


def as_bool(value: object) -> object:
    """True or False for the usual words; anything else as it is."""
    return _BOOL_WORDS.get(value.strip().lower(), value) if isinstance(value, str) else value
