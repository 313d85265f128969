"""Frameworks that an application may be part of; imported when it turns out to be."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

from zmqtasks.errors import ConfigError

#: The package that knows Django; in a layer above, so it goes by its name.
DJANGO_PROJECT = "zmqtasks.integrations.django.project"


class Project(Protocol):
    """What an application is part of."""

    def prepare(self) -> None:
        """Load it in this process, before modules with tasks are imported."""

    def loaded(self) -> None:
        """They have been imported in a process that runs tasks, or that such are forked from."""

    def packages(self) -> list[str]:
        """Names of packages that may have tasks."""


def django(module: str, where: str) -> Any:
    """A module of Django's, or one that imports it.

    Raises:
        ConfigError: Django is not installed.
    """
    try:
        import_module("django")
    except ModuleNotFoundError:
        raise ConfigError(
            f"{where} needs Django, which is not installed: pip install 'zmqtasks[django]'"
        ) from None
    return import_module(module)
