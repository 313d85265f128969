"""Tasks without an App: for libraries that do not know their users' App."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from zmqtasks.app.current import all_apps, current_app
from zmqtasks.app.naming import task_name


class SharedSpec(NamedTuple):
    """A shared task function and its options."""

    function: Callable[..., Any]
    options: dict[str, Any]


_lock = threading.Lock()
#: All shared tasks of this process, for Apps to come.
_shared: list[SharedSpec] = []


def shared_specs() -> list[SharedSpec]:
    """The shared tasks so far."""
    with _lock:
        return list(_shared)


class SharedTask:
    """Stands for the task of the current App; everything else is looked up there."""

    def __init__(self, spec: SharedSpec) -> None:
        self.__wrapped__ = spec.function
        self._spec = spec
        for attribute in ("__name__", "__qualname__", "__doc__", "__module__"):
            if hasattr(spec.function, attribute):
                setattr(self, attribute, getattr(spec.function, attribute))

    def _task(self) -> Any:
        app = current_app()
        name = self._spec.options.get("name") or task_name(self._spec.function, app.name)
        return app.tasks[name]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function here and now; needs an App only for ``bind=True``."""
        if self._spec.options.get("bind"):
            return self._task()(*args, **kwargs)
        return self._spec.function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._task(), name)

    def __repr__(self) -> str:
        return f"<SharedTask: {self._spec.function.__qualname__}>"


def share(function: Callable[..., Any], options: dict[str, Any]) -> SharedTask:
    """Make a shared task and give it to every App, present and to come."""
    spec = SharedSpec(function, options)
    with _lock:
        _shared.append(spec)
    for app in all_apps():
        app.add_task(function, **options)
    return SharedTask(spec)
