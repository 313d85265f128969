"""Other settings for an App while a test runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zmqtasks.app import current
from zmqtasks.app.app_settings import APP_SETTINGS
from zmqtasks.app.conf import Conf
from zmqtasks.celery_fates import RENAMED
from zmqtasks.errors import ConfigError

if TYPE_CHECKING:
    from zmqtasks.app.app import App


@contextmanager
def configured(app: App, **settings: Any) -> Iterator[App]:
    """Let an App have other settings for a while, also one that is in use.

    They overrule all others, also those of the environment. What the App has of settings that
    nobody names stays.

    Args:
        app: any App of this process.
        settings: by name, as in ``app.conf``, and those that only a node has.

    Raises:
        ConfigError: an unknown setting, a bad value, or one that cannot be taken back.
    """
    if "task_annotations" in settings:
        raise ConfigError(
            "configured(): task_annotations changes the tasks themselves, which cannot be undone; "
            "set the attributes of the task"
        )
    app.set_up()
    old, old_flags = app.conf, current.command_line_flags()
    new = Conf(f"App({app.name!r})", dict(old))
    flags = dict(old_flags)
    for key, value in settings.items():
        name = RENAMED.get(key, key)
        if name in APP_SETTINGS or not _is_setting(name):
            new[key] = value  # or it says what is wrong with it
        else:
            flags[name] = value
    known = current.known_clients()
    current.set_flags(flags)
    app.reconfigure(new)
    try:
        _ = app.settings  # wrong ones are told here, and not at the first call
        yield app
    finally:
        current.close_clients(but=known)
        current.set_flags(old_flags)
        app.reconfigure(old)


def _is_setting(name: str) -> bool:
    from zmqtasks.settings import SETTING_NAMES

    return name in SETTING_NAMES
