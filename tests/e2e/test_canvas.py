"""Groups and maps with real workers."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh, wait_for

pytestmark = pytest.mark.e2e

_APP = """
    from zmqtasks import App, group

    app = App("shop")


    @app.task
    def add(x, y=0):
        return x + y


    @app.task(bind=True)
    def who(self):
        return self.request.group


    @app.task
    async def later(x):
        return 2 * x


    @app.task
    def fan_out(n):
        return group(add.s(i) for i in range(n)).delay(1).as_tuple()


    @app.task(bind=True)
    def run_it(self, signature):
        return self.app.signature(signature).delay().id
"""


@pytest.fixture
def made(mesh: Mesh) -> Mesh:
    mesh.write("tasks.py", _APP)
    mesh.start_node(name="w1")
    return mesh


def test_groups_maps_and_chunks_run_on_workers(made: Mesh) -> None:
    printed = made.run("""
        import asyncio
        from zmqtasks import group
        from tasks import add, later, who

        print(group(add.s(i) for i in range(3000)).delay(1).get(timeout=60) == list(range(1, 3001)))
        members = group(who.si(), group(who.si())).delay()
        print(members.get(timeout=20) == [members.id] * 2)
        print(add.map([1, 2]).delay().get(timeout=20), later.map([1, 2]).delay().get(timeout=20))
        print(add.chunks(((i, i) for i in range(5)), 2)().get(timeout=20))
        print(asyncio.run(later.s(3).adelay()).get(timeout=20))
        frozen = group(add.s(1), add.s(2))
        print(frozen.freeze() == frozen.delay(), frozen.delay().get(timeout=20))
        durable = group([add.s(1), add.s(2).set(durability="disk"), add.s(3)]).delay()
        print(sorted(value for value in durable.iterate(timeout=20)))
    """).stdout.splitlines()
    assert printed == [
        "True",
        "True",
        "[1, 2] [2, 4]",
        "[[0, 2], [4, 6], [8]]",
        "6",
        "True [1, 2]",
        "[1, 2, 3]",
    ]


def test_a_task_submits_a_group_and_a_signature_that_it_was_given(made: Mesh) -> None:
    printed = made.run("""
        from zmqtasks import AsyncResult, GroupResult
        from tasks import add, fan_out, run_it

        (group_id, _), results = fan_out.delay(5).get(timeout=20)
        result = GroupResult(group_id, [AsyncResult(each[0][0]) for each in results])
        print(result.get(timeout=20))
        print(AsyncResult(run_it.delay(add.s(1, 2)).get(timeout=20)).get(timeout=20))
    """).stdout.splitlines()
    assert printed == ["[1, 2, 3, 4, 5]", "3"]


def test_a_group_that_waits_is_revoked_as_one(mesh: Mesh) -> None:
    mesh.write("tasks.py", _APP)
    printed = mesh.run("""
        from zmqtasks import group
        from tasks import add

        result = group(add.s(i) for i in range(2500)).delay()
        print(set(result.revoke(wait=True, timeout=20).values()))
        print({type(each).__name__ for each in result.get(timeout=20, propagate=False)})
    """).stdout.splitlines()
    assert printed == ["{'revoked'}", "{'TaskRevokedError'}"]


def test_what_every_application_has_is_not_told_when_a_worker_starts(made: Mesh) -> None:
    line = made.nodes[0].wait_log("runs 5 tasks")
    assert "zmqtasks.map" not in line


_FLOW = """
    import os, time
    from pathlib import Path
    from zmqtasks import App

    app = App("shop")


    @app.task
    def add(x, y=0):
        return x + y


    @app.task
    def total(numbers):
        return sum(numbers)


    @app.task
    def fail(*args):
        raise ValueError("paper jam")


    @app.task
    def hold(folder, value=1):
        while not (Path(folder) / "go").exists():
            time.sleep(0.005)
        return value


    @app.task
    def die(folder, value=1):
        marker = Path(folder) / "died"
        if not marker.exists():
            marker.touch()
            os._exit(1)
        return value


    @app.task
    def note(value, folder):
        with open(Path(folder) / "ran", "a") as file:
            file.write(f"{value}\\n")
        return value
"""


@pytest.fixture
def flow(mesh: Mesh) -> Mesh:
    mesh.write("tasks.py", _FLOW)
    return mesh


def test_chains_and_chords_run_on_workers(flow: Mesh) -> None:
    flow.start_node(name="w1")
    printed = flow.run(f"""
        from zmqtasks import chain, chord, group
        from tasks import add, die, fail, total

        folder = {str(flow.folder)!r}
        print((add.s(1, 1) | add.s(2) | add.s(3)).delay().get(timeout=20))
        print(chain(add.si(0), *(add.s(1) for _ in range(999))).delay().get(timeout=60))
        print(chord([add.s(i) for i in range(100)], total.s()).delay().get(timeout=20))
        inner = chord([add.s(1), add.s(2)], total.s())
        print(chain(add.si(1), group(inner, add.s(1)), total.s()).delay().get(timeout=20))
        print(chord([add.s(1), die.si(folder)], total.s()).delay().get(timeout=20))
        failed = (add.s(1) | fail.s() | add.s(1)).delay()
        print(repr(failed.get(timeout=20, propagate=False)))
        body = chord([add.s(1), fail.s()], total.s()).delay()
        print(body.get(timeout=20, propagate=False), body.state)
    """).stdout.splitlines()
    assert printed[:5] == ["7", "999", "4950", "7", "2"]
    assert printed[5] == "ValueError('paper jam')"
    assert "did not run, because task" in printed[6]
    assert printed[6].endswith("FAILURE")


@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_a_workflow_goes_on_when_its_script_has_ended(flow: Mesh, durability: str) -> None:
    flow.start_node(name="w1")
    flow.run(f"""
        from zmqtasks import chord
        from tasks import add, hold, note, total

        folder = {str(flow.folder)!r}
        header = [hold.s(folder, 2), add.s(3), add.s(1) | add.s(4)]
        last = (chord(header, total.s()) | note.s(folder)).apply_async(durability={durability!r})
    """)
    (flow.folder / "go").touch()
    ran = flow.folder / "ran"
    wait_for(ran.exists, "the last one to run")
    assert ran.read_text() == "10\n"
