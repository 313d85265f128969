"""What belongs to whoever runs: the current App and the current task, under one name each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zmqtasks.app import context, current

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.task import Task


class CurrentApp:
    """The App made last, or made the current one: ``current_app.conf``, ``current_app.tasks``.

    ``current_app()`` is that App itself.
    """

    def __call__(self) -> App:
        """The App.

        Raises:
            ConfigError: this process has none.
        """
        return current.current_app()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self(), name)

    def __repr__(self) -> str:
        return f"<current_app: {self()!r}>"


class CurrentTask:
    """The task that runs here: ``current_task.request.id``; false outside of tasks.

    Calling it calls that task's function.
    """

    def __bool__(self) -> bool:
        return context.current() is not None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._task(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call its function here and now."""
        return self._task()(*args, **kwargs)

    def _task(self) -> Task[Any, Any]:
        found = context.current()
        for app in current.all_apps() if found is not None else ():
            if found is not None and app.name == found.app_name and found.name in app.tasks:
                return app.tasks[found.name]
        raise AttributeError("no task runs here; ask 'if current_task:' first")

    def __repr__(self) -> str:
        return f"<current_task: {self._task()!r}>" if self else "<current_task: none>"


current_app = CurrentApp()
current_task = CurrentTask()
