"""What a function becomes when it is made a task: of which class, with which attributes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from zmqtasks.app.naming import function_name, module_of
from zmqtasks.app.options import check_base
from zmqtasks.app.task import CoroutineTask, Task
from zmqtasks.errors import ConfigError

#: Within an App ``Task`` is the name of an attribute.
AnyTask = Task[Any, Any]


class WithTaskClasses:
    """The part of an App that is about classes and names of its tasks."""

    name: str
    #: As it was given to the App; a text until it is wanted first.
    task_cls: type[AnyTask] | str | None

    @property
    def Task(self) -> type[AnyTask]:  # noqa: N802 - Celery's name
        """The class of its tasks, to make a class of your own for ``base`` of."""
        return self.own_base or Task

    @property
    def own_base(self) -> type[AnyTask] | None:
        """The same, None where the application has said nothing."""
        if self.task_cls is not None:
            self.task_cls = class_of_app(self.task_cls, f"App({self.name!r})")
        return self.task_cls

    def gen_task_name(self, name: str, module: str) -> str:
        """The name of a task that was given none; a subclass of App may make others.

        Args:
            name: of its function.
            module: that the function is in.
        """
        return f"{module}.{name}"

    def name_of(self, function: Callable[..., Any]) -> str:
        """The name of a task that is made of this function and was given none."""
        return self.gen_task_name(function_name(function), module_of(function, self.name))


def class_of_task(function: Callable[..., Any], base: object, where: str) -> type[Task[Any, Any]]:
    """The class of a task.

    Args:
        function: of the task.
        base: the class that was asked for, if any.
        where: names the task.

    Raises:
        ConfigError: ``base`` is no class of tasks.
    """
    if base is None:
        return CoroutineTask if inspect.iscoroutinefunction(function) else Task
    if not isinstance(base, type) or not issubclass(base, Task):
        raise ConfigError(f"{where}: base must be a subclass of zmqtasks.Task, not {base!r:.75}")
    check_base(base, where)
    return base


def class_of_app(task_cls: object, where: str) -> type[Task[Any, Any]]:
    """The class that an application wants its tasks to have.

    Args:
        task_cls: the class, or ``"module:Class"``, also written ``"module.Class"``.
        where: names the application.

    Raises:
        ConfigError: there is no such class, or it is no class of tasks.
    """
    found: object = task_cls
    if isinstance(task_cls, str):
        module, _, name = task_cls.replace(":", ".").rpartition(".")
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as exc:
            raise ConfigError(
                f"{where}: task_cls = {task_cls!r:.75} cannot be imported: {exc}"
            ) from None
    if not isinstance(found, type) or not issubclass(found, Task):
        raise ConfigError(f"{where}: task_cls is a subclass of zmqtasks.Task, not {found!r:.75}")
    check_base(found, where)
    return found


def set_attributes(task: Task[Any, Any], attributes: object, where: str) -> None:
    """Give a task attributes of its author's own.

    Raises:
        ConfigError: no such names, or ones that tasks have.
    """
    if attributes is None:
        return
    if not isinstance(attributes, Mapping):
        raise ConfigError(
            f"{where}: attributes is a dict of names and values, not {type(attributes).__name__}"
        )
    for name, value in attributes.items():
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise ConfigError(f"{where}: {name!r} is no name for a public attribute")
        if hasattr(Task, name) or name in vars(task):
            raise ConfigError(
                f"{where}: attribute {name!r} would hide what every task has under that name; "
                "choose another"
            )
        setattr(task, name, value)


def origin(task: Task[Any, Any]) -> tuple[str, str]:
    """Where its function was defined: its module, and its name there."""
    function = task.__wrapped__
    return (
        str(getattr(function, "__module__", "")),
        str(getattr(function, "__qualname__", type(function).__qualname__)),
    )
