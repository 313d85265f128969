"""Classes and names of tasks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app.app import App, shared_task
from zmqtasks.app.task import Task
from zmqtasks.errors import ConfigError


class Counted(Task[Any, Any]):
    """A task that counts."""

    queue = "counted"
    count = 0


class Other(Task[Any, Any]):
    """Another one."""


class Adder(Counted):
    """A task as a class."""

    max_retries = 7

    def run(self, x: int, y: int = 1) -> list[Any]:
        self.count += 1
        return [self.name, x + y]


def test_tasks_are_of_the_class_that_their_app_wants(gateway: InlineGateway) -> None:
    app = App("shop", task_cls=Counted)

    @app.task
    def plain() -> str:
        return "plain"

    @app.task(base=Other)
    def own() -> None: ...

    @app.task
    async def waits() -> None: ...

    @shared_task
    def shared() -> None: ...

    tasks: list[Any] = [plain, waits, app.tasks[f"{__name__}.shared"]]
    assert [type(task) for task in tasks] == [Counted] * 3
    assert type(own) is Other
    assert plain.queue == "counted"
    assert plain.delay().get() == "plain"
    assert app.Task is Counted
    assert App("bare").Task is Task


def test_the_class_may_be_an_import_path_that_is_imported_for_the_first_task(
    gateway: InlineGateway,
) -> None:
    for path in (f"{__name__}:Counted", f"{__name__}.Counted"):
        app = App("shop", task_cls=path)
        assert app.Task.__name__ == "Counted"
    late = App("shop", task_cls="no_such_module:Base")
    for path in ("no_such_module:Base", "json:Base", "Base"):
        late = App("shop", task_cls=path)
        with pytest.raises(ConfigError, match=f"App\\('shop'\\): task_cls = '{path}' cannot be"):
            late.task(len)
    with pytest.raises(ConfigError, match=r"task_cls is a subclass of zmqtasks\.Task, not <class"):
        App("shop", task_cls=int).task(len)  # type: ignore[arg-type]


def test_a_class_can_be_a_task(app: App) -> None:
    task = app.register_task(Adder)
    assert task.name == f"{__name__}.Adder"
    assert (task.queue, task.max_retries) == ("counted", 7)
    assert task(1) == [task.name, 2]
    assert task.delay(1, y=3).get() == [task.name, 4]
    with pytest.raises(TypeError):
        task.delay()
    named = app.register_task(Adder, name="adder", queue="other")
    assert (named.name, named.queue) == ("adder", "other")


@pytest.mark.parametrize("cls", [Counted, int, 3])
def test_what_is_no_class_of_a_task_is_refused(app: App, cls: object) -> None:
    with pytest.raises(ConfigError, match="with a method run"):
        app.register_task(cls)


def test_an_app_may_name_tasks_its_own_way(gateway: InlineGateway) -> None:
    class Short(App):
        def gen_task_name(self, name: str, module: str) -> str:
            return f"{module.split('.')[-1]}/{name}"

    app = Short("shop")

    @app.task
    def f() -> None: ...

    @shared_task
    def g() -> int:
        return 1

    assert f.name == "test_registering/f"
    assert g.name == "test_registering/g"
    assert g.delay().get() == 1
