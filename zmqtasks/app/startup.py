"""How an application comes to be: where its settings are, its modules, being the current one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from zmqtasks.app.conf import Conf
from zmqtasks.app.current import set_current
from zmqtasks.app.frameworks import DJANGO_PROJECT, Project, django
from zmqtasks.app.importing import Discovery, import_module, names_of
from zmqtasks.errors import ConfigError

if TYPE_CHECKING:
    from zmqtasks.app.app import App


class WithStartup:
    """The part of an App that is about this."""

    name: str
    conf: Conf

    def __init__(self) -> None:
        super().__init__()
        #: What ``autodiscover_tasks`` was told.
        self._discoveries: list[Discovery] = []
        #: The project of a framework that it is part of.
        self.project: Project | None = None

    # --- which App ----------------------------------------------------------------------

    def set_current(self) -> None:
        """Shared tasks and ``AsyncResult(id)`` belong to this App from now on, in all threads."""
        set_current(self._as_app())

    #: Celery tells threads apart, which then see another App than the one that was meant.
    set_default = set_current

    def _as_app(self) -> App:
        from zmqtasks.app.app import App

        assert isinstance(self, App)  # nothing else is of this class
        return self

    # --- configuration ------------------------------------------------------------------

    def config_from_object(self, source: object, *, namespace: str = "") -> None:
        """Same as ``app.conf.config_from_object``; with Django's settings the App becomes part
        of that project."""
        found = self.conf.config_from_object(source, namespace=namespace)
        if type(found).__module__ == "django.conf":
            self._django_project("config_from_object()")

    def config_from_envvar(
        self, variable_name: str, silent: bool = False, *, namespace: str = ""
    ) -> bool:
        """Take settings from the object whose import path is in an environment variable.

        Args:
            variable_name: such as ``"SHOP_CONFIG_MODULE"``.
            silent: that it is not set is no error.
            namespace: as of ``config_from_object``.

        Returns:
            Whether it is set.

        Raises:
            ConfigError: it is not set, or what it names cannot be imported, or has an unknown
                or bad setting.
        """
        path = os.environ.get(variable_name)
        if path:
            self.config_from_object(path, namespace=namespace)
        elif not silent:
            raise ConfigError(
                f"App({self.name!r}).config_from_envvar(): {variable_name} is not set in the "
                "environment; set it to the import path of a module with settings"
            )
        return bool(path)

    # --- modules ------------------------------------------------------------------------

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Have the modules with tasks of these packages imported where tasks run.

        Args:
            packages: their names, or a function that gives them when they are wanted; None:
                the ``INSTALLED_APPS`` of Django.
            related_name: name of the module in each package, which need not have it; None:
                the packages themselves.
            force: import them now, in this process.

        Raises:
            ConfigError: these are no names; Django is not installed, or with ``force`` has not
                loaded its applications yet.
            AppLoadError: with ``force``, an import failed.
        """
        if packages is None:
            packages = self._django_project("autodiscover_tasks()").packages
        elif not callable(packages):
            packages = names_of(packages, f"App({self.name!r}).autodiscover_tasks()")
        found = Discovery(packages, related_name)
        self._discoveries.append(found)
        if force:
            for name in found.module_names():
                import_module(name)

    def import_default_modules(self) -> None:
        """Import all modules that the settings ``imports`` and ``include`` and
        ``autodiscover_tasks`` name.

        Done where tasks run; for other processes that want to have all tasks.

        Raises:
            AppLoadError: one does not exist, or its import failed.
        """
        if self.project is not None:
            self.project.prepare()
        for key in ("imports", "include"):
            for name in self.conf.of_tasks(key):
                import_module(name)
        # An imported module may name others.
        for discovery in self._discoveries:
            for name in discovery.module_names():
                import_module(name)

    def _django_project(self, where: str) -> Project:
        install = django(DJANGO_PROJECT, f"App({self.name!r}).{where}").install
        project: Project = install(self)
        return project
