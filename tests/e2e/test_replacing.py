"""Running tasks that others take the place of, and that add members to their chord."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e

_APP = """
    from pathlib import Path

    from zmqtasks import App, chain, group
    from zmqtasks.exceptions import Ignore

    app = App("shop")
    TOLD = Path("told")


    @app.task
    def add(x, y=0):
        return x + y


    @app.task
    def total(numbers):
        return sum(numbers)


    @app.task
    def fail(*args):
        raise KeyError("spoon")


    @app.task
    def note(request, exc, traceback):
        TOLD.write_text(f"{request.id} {exc!r}")


    @app.task(bind=True)
    def become(self, sig):
        self.replace(sig)


    @app.task(bind=True)
    def countdown(self, n):
        return self.replace(self.si(n - 1)) if n else "done"


    @app.task(bind=True)
    def grow(self, n):
        for extra in range(n):
            self.add_to_chord(add.s(100, extra))
        if n > 1:
            self.add_to_chord(self.s(n - 1))
        return n


    @app.task(bind=True)
    def misuse(self):
        self.add_to_chord(add.s(1))
"""


@pytest.fixture
def made(mesh: Mesh) -> Mesh:
    mesh.write("tasks.py", _APP)
    mesh.start_node(name="w1")
    return mesh


def test_a_task_has_the_result_of_whatever_took_its_place(made: Mesh) -> None:
    printed = made.run("""
        from zmqtasks import chain, group
        from tasks import add, become, countdown, total

        print(become.delay(add.s(1, 2)).get(timeout=20))
        print(become.delay(add.s(1, 2) | add.s(3) | add.s(4)).get(timeout=20))
        print(become.delay(group([add.s(i) for i in range(50)])).get(timeout=20) == list(range(50)))
        print(become.delay(group(add.s(1), add.s(2)) | total.s()).get(timeout=20))
        print((become.s(add.s(1, 2)) | add.s(40)).delay().get(timeout=20))
        print(countdown.delay(300).get(timeout=20))
    """).stdout.splitlines()
    assert printed == ["3", "10", "True", "3", "43", "done"]


def test_a_task_fails_as_what_took_its_place_and_its_errback_is_called(made: Mesh) -> None:
    printed = made.run("""
        from tests.e2e.harness import wait_for
        from tasks import TOLD, add, become, fail, note

        failed = become.apply_async((add.s(1, 2) | fail.s(),), link_error=note.s())
        print(repr(failed.get(timeout=20, propagate=False)))
        wait_for(TOLD.exists, "the errback is called")
        print(TOLD.read_text() == f"{failed.id} KeyError('spoon')")
    """).stdout.splitlines()
    assert printed == ["KeyError('spoon')", "True"]


def test_a_member_adds_others_to_its_chord_and_they_more(made: Mesh) -> None:
    printed = made.run("""
        from zmqtasks import chord, group
        from tasks import add, become, grow, misuse, total

        # 2 adds 100 and 101 and a 1, which adds another 100
        print(chord([grow.s(2), add.s(1000)], total.s()).delay().get(timeout=20))
        print((group(grow.s(1), add.s(1000)) | total.s()).delay().get(timeout=20))
        print(str(misuse.delay().get(timeout=20, propagate=False)).split(":")[0])
    """).stdout.splitlines()
    assert printed == [str(2 + 1000 + 100 + 101 + 1 + 100), "1101", "tasks.misuse.add_to_chord()"]


def test_a_durable_task_and_what_took_its_place_survive_their_script(made: Mesh) -> None:
    task_id = made.run("""
        from tasks import add, become

        flow = add.s(1, 2).set(countdown=1) | add.s(3)
        print(become.apply_async((flow,), durability="disk").id)
    """).stdout.strip()
    value = made.run(f"""
        from zmqtasks import AsyncResult
        import tasks

        print(AsyncResult({task_id!r}).get(timeout=20))
    """).stdout.strip()
    assert value == "6"
