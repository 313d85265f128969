"""Each cell of the table of workflows, with real nodes."""

from __future__ import annotations

import json

import pytest

from tests.e2e.harness import Mesh, wait_for
from tests.e2e.workflow_table import SHAPES, cell

pytestmark = pytest.mark.e2e

_APP = """
    import os
    import time
    from pathlib import Path

    from zmqtasks import App, chain, chord, group

    app = App("shop")
    FOLDER = Path(__file__).parent


    @app.task(bind=True)
    def step(self, x, how=""):
        if how == "fail":
            raise KeyError("spoon")
        if how == "retry" and not self.request.retries:
            raise self.retry(countdown=0)
        return (sum(x) if isinstance(x, list) else x) + 1


    @app.task
    def hold(x):
        if not (FOLDER / "go").exists():
            with (FOLDER / "held").open("a") as file:
                file.write("x")
            while True:
                time.sleep(0.01)
        return x + 1


    @app.task(bind=True)
    def become(self, sig):
        self.replace(sig)


    class Steps:
        def __init__(self, how):
            self.how = how

        def __call__(self, *args):
            return hold.s(*args) if self.how == "hold" else step.s(*args, self.how)


    def made(code, first="", between="", last=""):
        names = {"first": Steps(first), "between": Steps(between), "last": Steps(last)}
        return eval(code, {**globals(), **names})


    def ending(result, seconds=30):
        try:
            return ["value", result.get(timeout=seconds)]
        except Exception as exc:
            return [type(exc).__name__, None]
"""
_CODES = {name: shape.code for name, shape in SHAPES.items()}


@pytest.fixture
def folder(mesh: Mesh) -> Mesh:
    mesh.write("tasks.py", _APP)
    return mesh


def check(printed: str, outcome: str) -> None:
    """All shapes have come to what the table says."""
    found = json.loads(printed)
    expected = {
        name: [ending, shape.value if ending == "value" else None]
        for name, shape in SHAPES.items()
        for ending in [cell(shape, outcome)]
    }
    assert found == expected


@pytest.mark.parametrize(
    ("outcome", "how"),
    [
        ("success", {}),
        ("first", {"first": "fail"}),
        ("last", {"last": "fail"}),
        ("retry", {"first": "retry", "between": "retry", "last": "retry"}),
    ],
)
def test_workflows_whose_calls(folder: Mesh, outcome: str, how: dict[str, str]) -> None:
    folder.start_node(name="w1")
    printed = folder.run(f"""
        import json
        from tasks import ending, made

        results = {{name: made(code, **{how!r}).delay() for name, code in {_CODES!r}.items()}}
        print(json.dumps({{name: ending(result) for name, result in results.items()}}))
    """).stdout
    check(printed, outcome)


def test_workflows_that_are_revoked(folder: Mesh) -> None:
    printed = folder.run(f"""
        import json
        from tasks import app, ending, made

        results = {{
            name: made(code).stamp(all=1).apply_async(stamps={{"all": 1}})
            for name, code in {_CODES!r}.items()
        }}
        app.control.revoke_by_stamped_headers({{"all": 1}})
        print(json.dumps({{name: ending(result) for name, result in results.items()}}))
    """).stdout
    check(printed, "revoke")


def test_workflows_whose_worker_is_killed(folder: Mesh) -> None:
    """All first calls run, in vain, on a worker that is killed."""
    threads = ("--pool", "thread", "--concurrency", str(len(SHAPES)))
    worker = folder.start_node(*threads, name="w1")
    client = folder.start(f"""
        import json
        from tasks import ending, made

        results = {{name: made(code, first="hold").delay() for name, code in {_CODES!r}.items()}}
        print("done", json.dumps({{name: ending(result) for name, result in results.items()}}))
    """)
    held = folder.code / "held"
    wait_for(lambda: held.exists() and len(held.read_text()) == len(SHAPES), "all first calls run")
    worker.kill()
    (held.parent / "go").touch()
    folder.start_node(name="w2")
    assert client.wait() == 0, client.log
    check(client.log.split("done ")[-1], "worker")


def test_workflows_whose_owner_is_killed(folder: Mesh) -> None:
    """A broker that has all of them in its journal is killed before any worker is there."""
    broker = folder.start_node(roles="broker", name="b1")
    ids = folder.run(f"""
        import json
        from tasks import made

        ids = {{}}
        for name, code in {_CODES!r}.items():
            result = made(code).apply_async(durability="disk")
            ids[name] = [each.id for each in result] if hasattr(result, "results") else result.id
        print(json.dumps(ids))
    """).stdout
    broker.kill()
    folder.start_node(roles="broker", name="b1")
    folder.start_node(name="w1")
    printed = folder.run(f"""
        import json
        from zmqtasks import AsyncResult, ResultSet
        from tasks import ending

        results = {{
            name: AsyncResult(ids) if isinstance(ids, str) else ResultSet(map(AsyncResult, ids))
            for name, ids in {json.loads(ids)!r}.items()
        }}
        print(json.dumps({{name: ending(result) for name, result in results.items()}}))
    """).stdout
    check(printed, "owner")
