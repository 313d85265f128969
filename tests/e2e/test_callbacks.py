"""What is linked to calls runs on workers when they have succeeded, or failed."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e

_APP = """
    from pathlib import Path

    from zmqtasks import App

    app = App("shop")
    TOLD = Path("told")


    def tell(*parts):
        with TOLD.open("a") as file:
            print(*parts, file=file)


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
    def newer(request, exc, traceback, note=""):
        tell("newer", request.id, request.task, list(request.args), repr(exc),
             "KeyError" in (traceback or ""), note)


    @app.task
    def older(task_id):
        tell("older", task_id)


    @app.task
    def plain(what):
        tell("plain", what)
"""


@pytest.fixture
def made(mesh: Mesh) -> Mesh:
    mesh.write("tasks.py", _APP)
    mesh.start_node(name="w1")
    return mesh


def test_callbacks_and_errbacks_of_a_call_run_on_workers(made: Mesh) -> None:
    printed = made.run("""
        from pathlib import Path
        from tests.e2e.harness import wait_for
        from tasks import add, fail, newer, older, plain, TOLD

        result = add.apply_async((1, 2), link=[plain.s(), add.s(10) | plain.s()])
        print(result.get(timeout=20))
        failed = fail.apply_async((7,), link_error=[newer.s(note="n"), older.s(), plain.si("own")],
                                  link=plain.s())
        print(type(failed.get(timeout=20, propagate=False)).__name__)
        wait_for(lambda: TOLD.exists() and len(TOLD.read_text().splitlines()) == 5, "all told")
        print(*sorted(TOLD.read_text().replace(failed.id, "ID").splitlines()), sep="\\n")
    """).stdout.splitlines()
    assert printed == [
        "3",
        "KeyError",
        "newer ID tasks.fail [7] KeyError('spoon') True n",
        "older ID",
        "plain 13",
        "plain 3",
        "plain own",
    ]


def test_the_errback_of_a_workflow_is_called_once_wherever_it_fails(made: Mesh) -> None:
    printed = made.run("""
        from tests.e2e.harness import wait_for
        from zmqtasks import ChordError, chain, chord, group
        from tasks import add, fail, newer, total, TOLD

        flow = chain(add.s(1), fail.s(), add.s(2))
        failed = flow.apply_async((1,), link_error=newer.s(note="chain"))
        print(repr(failed.get(timeout=20, propagate=False)))
        body = total.s().on_error(newer.s(note="chord"))
        bad = chord([add.s(1, 1), fail.si(), fail.si()], body).delay()
        print(type(bad.get(timeout=20, propagate=False)) is ChordError)
        whole = (add.s(1, 1) | fail.s() | group(add.s(1), add.s(2)) | total.s())
        last = whole.on_error(newer.s(note="whole")).delay()
        last.get(timeout=20, propagate=False)
        wait_for(lambda: TOLD.exists() and len(TOLD.read_text().splitlines()) >= 3, "all told")
        print(add.delay(1, 1).get(timeout=20))
        lines = [line.split() for line in sorted(TOLD.read_text().splitlines())]
        print(sorted((line[2], line[-1]) for line in lines))
    """).stdout.splitlines()
    assert printed == [
        "KeyError('spoon')",
        "True",
        "2",
        "[('tasks.fail', 'chain'), ('tasks.fail', 'whole'), ('tasks.total', 'chord')]",
    ]


def test_a_call_that_is_repeated_by_its_key_has_its_callbacks_once(made: Mesh) -> None:
    printed = made.run("""
        from tests.e2e.harness import wait_for
        from tasks import add, plain, TOLD

        for _ in range(2):
            options = {"idempotency_key": "k", "link": add.s(1) | plain.s()}
            print(add.apply_async((1, 2), **options).get(timeout=20))
        wait_for(lambda: TOLD.exists(), "told")
        print(add.delay(1, 1).get(timeout=20), TOLD.read_text().split())
    """).stdout.splitlines()
    assert printed == ["3", "3", "2 ['plain', '4']"]
