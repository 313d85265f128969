"""Tasks without an App: for libraries that do not know their users' App."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from zmqtasks.app.current import all_apps, current_app


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
        own = {"__wrapped__": spec.function, "_spec": spec}
        for attribute in ("__name__", "__qualname__", "__doc__", "__module__"):
            if hasattr(spec.function, attribute):
                own[attribute] = getattr(spec.function, attribute)
        vars(self).update(own)

    def _task(self) -> Any:
        app = current_app()
        return app.tasks[self._spec.options.get("name") or app.name_of(self._spec.function)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function here and now; needs an App only for ``bind=True``."""
        if self._spec.options.get("bind"):
            return self._task()(*args, **kwargs)
        return self._spec.function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._task(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._task(), name, value)

    def __reduce__(self) -> Any:
        return self._task().__reduce__()

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
