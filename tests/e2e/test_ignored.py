"""Results that nobody wants, and names that are shown in place of others."""

from __future__ import annotations

import json

import pytest

from tests.e2e.harness import Mesh, wait_for

pytestmark = pytest.mark.e2e

_APP = """
    import time
    from pathlib import Path
    from zmqtasks import App

    app = App("shop")

    @app.task(ignore_result=True)
    def add(x, y=0):
        return x + y

    @app.task(ignore_result=True)
    async def later(x):
        return object()

    @app.task
    def total(values):
        return sum(values)

    @app.task
    def fail():
        raise ValueError("no")

    @app.task
    def hold(folder):
        while not (Path(folder) / "go").exists():
            time.sleep(0.005)
        raise ValueError("held")
"""


@pytest.mark.parametrize("pool", ["process", "asyncio"])
def test_what_is_not_kept_is_none_and_how_it_ended_can_be_seen(mesh: Mesh, pool: str) -> None:
    mesh.write("tasks.py", _APP)
    mesh.start_node("--pool", pool)
    done = mesh.run("""
        from tasks import add, fail, later, total
        from zmqtasks import chain, chord, group
        def show(handle):
            print(handle.get(timeout=10), end=" ")
        show(add.delay(1, 2))
        show(add.apply_async((1, 2), ignore_result=False))
        show(later.delay(1))
        show(total.apply_async(([1, 2],), ignore_result=True))
        show(chain(add.s(1, 2), add.s(3), total.si([5])).apply_async())
        show(chain(add.s(1, 2), add.s(3).set(ignore_result=False)).apply_async())
        show(chord(group(add.s(n) for n in range(4)), total.s()).apply_async())
        show(group(add.s(n) for n in range(3)).apply_async())
        found = fail.apply_async(ignore_result=True)
        print(type(found.get(timeout=10, propagate=False)).__name__, found.state)
    """)
    assert done.stdout == "None 3 None None 5 6 6 [None, None, None] ValueError FAILURE\n"


def test_a_shadow_is_shown_in_place_of_the_name(mesh: Mesh) -> None:
    mesh.write("tasks.py", _APP)
    node = mesh.start_node(name="w1")
    client = mesh.start(f"""
        from tasks import hold
        hold.apply_async(({str(mesh.folder)!r},), shadow="report of May").get(propagate=False)
    """)

    def active() -> list[str]:
        told = json.loads(mesh.cli("inspect", "active", "--json").stdout)["replies"]
        return [each["name"] for each in told["w1"]]

    assert wait_for(active, "it runs") == ["report of May"]
    (mesh.folder / "go").touch()
    assert client.wait() == 0
    node.wait_log("ValueError: held")
    assert "report of May" in node.log
