"""A Django project that an application belongs to."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import django
from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.core.cache import close_caches
from django.db import close_old_connections, connections, reset_queries

from zmqtasks.app.importing import import_error
from zmqtasks.errors import AppLoadError, ConfigError

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.context import TaskContext


def install(app: App) -> DjangoProject:
    """Make an application part of the Django project of this process; once, however often called.

    ``app.config_from_object("django.conf:settings", ...)`` and ``app.autodiscover_tasks()`` do it.
    """
    if not isinstance(app.project, DjangoProject):
        app.project = DjangoProject(app)
        app.add_middleware(LikeRequests())
        app.on_after_configure.connect(app.project.configure, weak=False)
    return app.project


class DjangoProject:
    """See :class:`zmqtasks.app.startup.Project`."""

    def __init__(self, app: App) -> None:
        self._app = app
        #: Why it could not be loaded; a process that is forked from this one knows it, too.
        self._failed: AppLoadError | None = None

    def configure(self, **_named: Any) -> None:
        """Times mean what they mean in the project, unless the application says otherwise."""
        if "timezone" not in self._app.conf and settings.TIME_ZONE:
            self._app.conf.timezone = settings.TIME_ZONE

    def prepare(self) -> None:
        """Load the project.

        Raises:
            AppLoadError: it cannot be, or is about to be; with the traceback.
        """
        if apps.models_ready:
            return
        if self._failed is not None:
            raise self._failed  # Django cannot begin anew
        if apps.app_configs:
            raise AppLoadError(
                "Django is still loading its applications, so their tasks cannot be imported; "
                "do that in AppConfig.ready(), or later"
            )
        where = os.environ.get("DJANGO_SETTINGS_MODULE")
        if not where and not settings.configured:
            raise AppLoadError(
                f"App({self._app.name!r}) is part of a Django project, and DJANGO_SETTINGS_MODULE "
                "does not say which; set it where the App is made: "
                "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'project.settings')"
            )
        try:
            django.setup()
        # Whatever is wrong with the settings or an application of the project.
        except (Exception, SystemExit) as exc:
            what = f"django.setup() with DJANGO_SETTINGS_MODULE={where}"
            self._failed = import_error(what, exc)
            raise self._failed from exc

    def loaded(self) -> None:
        """Leave no connection to the processes that are forked from this one: two of them on one
        connection would read each other's answers."""
        connections.close_all()
        close_caches()

    def packages(self) -> list[str]:
        """All that is among ``INSTALLED_APPS``.

        Raises:
            ConfigError: Django has not loaded them.
        """
        if not apps.apps_ready:
            raise ConfigError(
                f"App({self._app.name!r}).autodiscover_tasks(): Django has not loaded its "
                "applications yet, so nobody knows which they are; leave force out, or call "
                "django.setup() before"
            )
        return [config.name for config in apps.get_app_configs()]


class LikeRequests:
    """Middleware that does around an attempt what Django does around a request."""

    def run(self, call_next: Callable[[], Any], context: TaskContext) -> Any:
        """Around a plain function."""
        if context.is_eager:
            return call_next()  # the connections belong to who called it
        _begin()
        try:
            return call_next()
        finally:
            _end()

    async def arun(self, call_next: Callable[[], Awaitable[Any]], context: TaskContext) -> Any:
        """Around a coroutine function; Django keeps their connections in another thread."""
        if context.is_eager:
            return await call_next()
        await sync_to_async(_begin)()
        try:
            return await call_next()
        finally:
            await sync_to_async(_end)()

    def __repr__(self) -> str:
        return "<middleware of zmqtasks.integrations.django>"


def _begin() -> None:
    reset_queries()
    close_old_connections()


def _end() -> None:
    close_old_connections()
    close_caches()
