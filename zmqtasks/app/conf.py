"""``app.conf``: what the application itself says about settings.

Keys are the settings of ``settings.py`` in lower case, and those of ``app_settings.py``,
which are about tasks; a few of Celery's names are understood too. Each key is checked when
it is set. Flags, environment and
``zmqtasks.toml`` take precedence, so operators can overrule programmers. A node that
runs the application obeys it too, but for what must be known before it is loaded. With
the first use of the application its configuration is frozen: a change would come too
late for what has been connected already, so it is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from importlib import import_module
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from zmqtasks.app.app_settings import APP_SETTINGS
from zmqtasks.celery_fates import RENAMED, is_so_anyway, new_name, told_setting
from zmqtasks.errors import ConfigError

#: Settings that an application cannot make, and why.
_NOT_FOR_APPS = {
    "app": "an application that is loaded cannot choose another",
    "cpus": "a node needs it before it loads the application",
    "gpus": "a node needs it before it loads the application",
    "name": "all nodes with this application would have the same",
    "pool": "a node needs it before it loads the application",
    "roles": "a node needs them before it loads the application",
}

#: Settings of Celery in capitals.
_CAPITALS = ("CELERY_", "CELERYD_", "CELERYBEAT_", "BROKER_")
#: Those that a namespace CELERY has not in it.
_ELSEWHERE = ("CELERYD_", "CELERYBEAT_")


class Conf(MutableMapping[str, Any]):
    """Settings of an application, by attribute or by key.

    Reading gives what the application set; settings that come from elsewhere are in
    ``app.settings``.
    """

    __slots__ = ("_frozen", "_where", "_values")

    def __init__(self, where: str, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_where", where)
        object.__setattr__(self, "_values", {})
        object.__setattr__(self, "_frozen", False)
        self.update(values)

    _frozen: bool
    _where: str
    _values: dict[str, Any]

    def __setitem__(self, key: str, value: Any) -> None:
        self._check_open(key)
        name = RENAMED.get(key, key)
        if name in APP_SETTINGS:
            APP_SETTINGS[name].check(key, value, self._where)
            self._values[name] = value
            return
        # Imported here: an App without configuration starts without it.
        from zmqtasks.settings import SETTING_NAMES, convert

        if name not in SETTING_NAMES:
            if is_so_anyway(key, value):
                return
            told = told_setting(key)
            if told is not None:
                raise ConfigError(f"{self._where}: {told}")
        if name in _NOT_FOR_APPS:
            raise self._not_for_apps(key, name)
        self._values[name] = convert(name, value, self._where)

    def __getitem__(self, key: str) -> Any:
        return self._values[RENAMED.get(key, key)]

    def __delitem__(self, key: str) -> None:
        self._check_open(key)
        del self._values[RENAMED.get(key, key)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"{self._where}: {key!r} is not set here") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __delattr__(self, key: str) -> None:
        del self[key]

    def __repr__(self) -> str:
        return f"<conf of {self._where}: {', '.join(sorted(self._values)) or 'nothing set'}>"

    def config_from_object(self, source: object, *, namespace: str = "") -> object:
        """Take settings from an object, a module, or the import path of one.

        Args:
            source: an object with settings as attributes, a mapping, or the import path
                of either (``"config"``, ``"pkg.config:Settings"``).
            namespace: take only names that begin with it and an underscore, in capitals
                (``ZMQTASKS`` for ``ZMQTASKS_STORE = ...`` in Django's settings).

        Returns:
            The object that they were taken from.

        Raises:
            ConfigError: it cannot be imported, or has an unknown or bad setting.
        """
        found = self._import(source) if isinstance(source, str) else source
        prefix = namespace.upper().rstrip("_") + "_" if namespace else ""
        values = dict(found) if isinstance(found, Mapping) else _public(found, prefix)
        if namespace:
            self._refuse_old(values, _ELSEWHERE if prefix == "CELERY_" else ())
            self.update(
                {
                    name.removeprefix(prefix).lower(): value
                    for name, value in values.items()
                    if name.startswith(prefix)
                }
            )
        else:
            self._refuse_old(values, _CAPITALS)
            self.update({name: value for name, value in values.items() if name.islower()})
        return found

    def _refuse_old(self, names: Iterable[str], beginnings: tuple[str, ...]) -> None:
        for name in names:
            if beginnings and name.startswith(beginnings):
                new = new_name(name)
                raise ConfigError(
                    f"{self._where}: {name} would not be read: settings are in lower case, as "
                    f"Celery has them since version 4{f', this one as {new}' if new else ''}; or "
                    "read those with a prefix only: namespace='CELERY' takes CELERY_"
                    f"{(new or 'TASK_ROUTES').upper()}"
                )

    @property
    def for_nodes(self) -> dict[str, Any]:
        """Those that nodes have too, and may overrule."""
        return {key: value for key, value in self._values.items() if key not in APP_SETTINGS}

    @property
    def for_people(self) -> dict[str, Any]:
        """Those that only an application makes, or their defaults, as plain data."""
        from zmqtasks.settings_texts import plain

        return {key: plain(self.of_tasks(key)) for key in APP_SETTINGS}

    def of_tasks(self, key: str) -> Any:
        """One of those that only an application makes, or its default."""
        return self._values.get(key, APP_SETTINGS[key].default)

    @property
    def is_frozen(self) -> bool:
        """Whether it cannot change any more."""
        return self._frozen

    def freeze(self) -> None:
        """Refuse changes from now on."""
        object.__setattr__(self, "_frozen", True)

    def _check_open(self, key: str) -> None:
        if self._frozen:
            raise ConfigError(
                f"{self._where}: {key!r} cannot change any more, the application is in use; "
                "configure it before the first call"
            )

    def _not_for_apps(self, key: str, name: str) -> ConfigError:
        from zmqtasks.settings_sources import env_name, flag_name

        return ConfigError(
            f"{self._where}: {key!r} cannot be set by an application, {_NOT_FOR_APPS[name]}; "
            f"use {flag_name(name)}, {env_name(name)} or zmqtasks.toml"
        )

    def _import(self, path: str) -> object:
        module_name, _, attribute = path.partition(":")
        try:
            found: object = sys.modules.get(module_name) or import_module(module_name)
        except ImportError as exc:
            raise ConfigError(f"{self._where}: {path!r} cannot be imported: {exc}") from exc
        for part in attribute.split(".") if attribute else ():
            try:
                found = getattr(found, part)
            except AttributeError as exc:
                raise ConfigError(f"{self._where}: {path!r} does not exist: {exc}") from None
        return found


def _is_routes(name: str) -> bool:
    return name.lower().endswith("task_routes")


def _public(source: object, prefix: str) -> dict[str, Any]:
    """Attributes that can be settings: no private ones, no imports, no code."""
    code = (ModuleType, FunctionType, BuiltinFunctionType, type)
    return {
        name: value
        for name in dir(source)
        if not name.startswith("_")
        # The others are not even looked at: Django warns of some of its own.
        and name.startswith(prefix)
        # A route may well be a function.
        and (not isinstance(value := getattr(source, name), code) or _is_routes(name))
    }
