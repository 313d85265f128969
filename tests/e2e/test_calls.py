"""Calls and their results, from all the kinds of programs that make them."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e


def test_delay_and_get(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from tasks import add
        handle = add.delay(2, 3)
        print(handle.get(timeout=10), handle.state, handle.successful(), add(1, 1))
        print(add.apply_async((5,), {"y": 6}, headers={"trace": "t1"}).get(timeout=10))
        print(add.app.send_task("tasks.add", (7, 8)).get(timeout=10))
    """)
    assert (done.stdout, done.stderr) == ("5 SUCCESS True 2\n11\n15\n", "")


def test_many_calls_come_back_in_order(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from tasks import add
        results = add.delay_many((i, i) for i in range(20_000))
        assert results.get(timeout=30) == [2 * i for i in range(20_000)]
        mixed = add.delay_many([(1, 2), {"x": 3, "y": 4}])
        print(len(results), mixed.get(timeout=10), sorted(i for i, _ in mixed.as_completed()))
    """)
    assert done.stdout == "20000 [3, 7] [0, 1]\n"


def test_exception_of_an_importable_class_comes_back_as_itself(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from tasks import OutOfStock, fail, order
        try:
            order.delay("hat").get(timeout=10)
        except OutOfStock as exc:
            print(exc.item, exc.left, 'raise OutOfStock(item, left=0)' in exc.remote_traceback)
        handle = fail.delay("no way")
        error = handle.get(timeout=10, propagate=False)
        print(repr(error), handle.state, handle.failed(), "in fail" in handle.traceback)
        try:
            fail.delay("shown").get(timeout=10)
        except ValueError:
            import traceback
            print("tasks.py" in traceback.format_exc())
    """)
    assert done.stdout == "hat 0 True\nValueError('no way') FAILURE True True\nTrue\n"


def test_exception_that_nobody_can_import_is_a_task_failed(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from tasks import fail_locally
        from zmqtasks import TaskFailed
        try:
            fail_locally.delay().get(timeout=10)
        except TaskFailed as exc:
            print(exc.remote_type, "|", exc, "|", "fail_locally" in exc.traceback)
    """)
    assert done.stdout == (
        "tasks.fail_locally.<locals>.Hidden | tasks.fail_locally.<locals>.Hidden: "
        "nobody can import this | True\n"
    )


def test_from_an_asyncio_loop(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        import asyncio
        from tasks import add, fail

        async def main():
            print(await add.delay(1, 2), await (await add.adelay(3, 4)))
            print(await add.delay(5, 6).aget(timeout=10))
            print(await asyncio.gather(*(add.delay(i, 0) for i in range(5))))
            try:
                await fail.delay("async")
            except ValueError as exc:
                print(exc)
            results = await add.adelay_many((i, 1) for i in range(3000))
            print(sum(await results))

        asyncio.run(main())
    """)
    assert done.stdout == f"3 7\n11\n[0, 1, 2, 3, 4]\nasync\n{sum(range(1, 3001))}\n"


def test_from_many_threads(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from concurrent.futures import ThreadPoolExecutor
        from tasks import add

        def work(n):
            values = [add.delay(n, i).get(timeout=20) for i in range(50)]
            return values == [n + i for i in range(50)]

        with ThreadPoolExecutor(8) as pool:
            print(all(pool.map(work, range(16))))
    """)
    assert done.stdout == "True\n"


def test_a_forked_child_has_a_client_of_its_own(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        import os, sys, warnings
        from tasks import add
        # From Python 3.12 on every fork of a process with threads warns.
        warnings.simplefilter("ignore", DeprecationWarning)
        before = add.delay(1, 1)
        print(before.get(timeout=10), flush=True)
        children = []
        for number in range(2):
            pid = os.fork()
            if pid == 0:
                ok = add.delay(number, 10).get(timeout=10) == number + 10
                ok = ok and before.get(timeout=10) == 2
                values = add.delay_many((i, 0) for i in range(100)).get(timeout=10)
                ok = ok and values == list(range(100))
                sys.exit(0 if ok else 1)
            children.append(pid)
        codes = [os.waitpid(pid, 0)[1] for pid in children]
        print(codes, add.delay(2, 2).get(timeout=10))
    """)
    assert (done.stdout, done.stderr) == ("2\n[0, 0] 4\n", "")


def test_a_notebook_like_session_calls_by_name(shared_mesh: Mesh) -> None:
    # Tasks of ``python -c`` have no importable module, so workers know them by the app's name.
    done = shared_mesh.run("""
        from zmqtasks import App
        app = App("shop")
        print(app.send_task("tasks.echo", [{"a": (1, 2)}]).get(timeout=10))
    """)
    assert done.stdout == "{'a': (1, 2)}\n"


def test_large_arguments_and_results(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from tasks import echo
        for mib in (1, 5):
            blob = bytes(range(256)) * (mib * 4096)
            assert echo.delay(blob).get(timeout=20) == blob
        handles = [echo.delay(bytes([n]) * 300_000) for n in range(20)]
        assert [h.get(timeout=20)[:1] for h in handles] == [bytes([n]) for n in range(20)]
        print("same")
    """)
    assert done.stdout == "same\n"


def test_what_cannot_travel_is_named(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from tasks import echo
        from zmqtasks import PayloadTypeError
        bad = {"k": [1, object()]}
        for call in (lambda: echo.delay(value=bad), lambda: echo.delay_many([(print,)])):
            try:
                call()
            except PayloadTypeError as exc:
                print(exc)
    """)
    first, second = done.stdout.splitlines()
    assert first.startswith("argument 'value', ['k'][1]: type object cannot be sent")
    assert "argument 'value'" in second
    assert "builtin_function_or_method" in second


def test_result_that_cannot_travel_fails_its_task(mesh: Mesh) -> None:
    mesh.write(
        "tasks.py",
        """
        from zmqtasks import App
        app = App("shop")

        @app.task
        def bad():
            return {"k": [1, object()]}

        @app.task
        def big(size):
            return b"x" * size
    """,
    )
    mesh.start_node("--payload-bytes-max", "100000")
    done = mesh.run("""
        from tasks import bad, big
        for handle in (bad.delay(), big.delay(200_000)):
            try:
                handle.get(timeout=10)
            except Exception as exc:
                print(f"{type(exc).__name__}: {exc}")
    """)
    typed, large = done.stdout.splitlines()
    assert typed.startswith("PayloadTypeError: ")
    assert "['k'][1]: type object" in typed
    assert large.startswith("PayloadTooLarge: ")
    assert "payload_bytes_max is 100,000" in large
    assert "200,00" in large


def test_argument_over_the_limit_has_both_sizes(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from tasks import echo
        from zmqtasks import PayloadTooLarge
        try:
            echo.delay(bytes(20_000))
        except PayloadTooLarge as exc:
            print(exc)
    """, ZMQTASKS_PAYLOAD_BYTES_MAX="10000")  # fmt: skip
    assert "20,0" in done.stdout
    assert "payload_bytes_max is 10,000" in done.stdout


def test_tasks_submit_follow_up_tasks(mesh: Mesh) -> None:
    mesh.write(
        "tasks.py",
        """
        from zmqtasks import App
        app = App("shop")

        @app.task
        def split(n):
            return [str(leaf.delay(i)) for i in range(n)] + leaf.delay_many([(8,), (9,)]).ids

        @app.task
        def leaf(i):
            return i * i
    """,
    )
    mesh.start_node()
    done = mesh.run("""
        from tasks import app, split
        ids = split.delay(3).get(timeout=10)
        print([app.AsyncResult(i).get(timeout=10) for i in ids])
    """)
    assert done.stdout == "[0, 1, 4, 64, 81]\n"


@pytest.mark.parametrize("pool", ["process", "solo"])
def test_tasks_obey_the_flags_of_their_node(mesh: Mesh, pool: str) -> None:
    mesh.write(
        "tasks.py",
        """
        from zmqtasks import App
        app = App("shop", default_queue="conf", exit_wait_s=1)

        @app.task
        def outer():
            settings = app.settings
            return [str(inner.delay()), settings.default_queue, settings.exit_wait_s,
                    settings.submit_timeout_s, settings.name]

        @app.task(bind=True)
        def inner(self):
            return self.request.queue
    """,
    )
    mesh.start_node(
        "--pool", pool, "--default-queue", "flag", "--queues", "conf,flag",
        "--submit-timeout-s", "2.5",
    )  # fmt: skip
    done = mesh.run("""
        from tasks import app, outer
        task_id, *seen = outer.delay().get(timeout=10)
        print(seen, app.AsyncResult(task_id).get(timeout=10))
    """)
    assert done.stdout == "['flag', 1.0, 2.5, ''] flag\n"


def test_waiting_inside_a_task_is_refused_with_the_remedy(mesh: Mesh) -> None:
    mesh.write(
        "tasks.py",
        """
        from zmqtasks import App
        app = App("shop")

        @app.task
        def outer():
            return inner.delay().get(timeout=5)

        @app.task
        def inner():
            return 1
    """,
    )
    mesh.start_node()
    done = mesh.run("""
        from tasks import outer
        try:
            outer.delay().get(timeout=10)
        except RuntimeError as exc:
            print(exc)
    """)
    assert "get() inside a task" in done.stdout
    assert "follow-up task" in done.stdout


def test_coroutine_tasks_and_bound_tasks_run(mesh: Mesh) -> None:
    mesh.write(
        "tasks.py",
        """
        import asyncio
        from zmqtasks import App
        app = App("shop")

        @app.task
        async def slow(x):
            await asyncio.sleep(0.01)
            return x + 1

        @app.task(bind=True)
        def who(self):
            return [self.name, self.request.id, self.request.attempt]
    """,
    )
    mesh.start_node()
    done = mesh.run("""
        from tasks import slow, who
        print(slow.delay(1).get(timeout=10))
        handle = who.delay()
        name, task_id, attempt = handle.get(timeout=10)
        print(name, task_id == handle.id, attempt)
    """)
    assert done.stdout == "2\ntasks.who True 1\n"


def test_what_tasks_print_and_log_is_in_the_nodes_log(mesh: Mesh) -> None:
    node = mesh.start_node()
    done = mesh.run("""
        from tasks import talk
        handle = talk.delay()
        handle.get(timeout=10)
        print(handle.id)
    """)
    who = f"tasks.talk[{done.stdout.strip()}]"
    for text in ("said on stdout", "said on stderr", "shop.orders: logged by the task"):
        assert who in node.wait_log(text)


def test_time_out_says_what_is_known_of_the_task(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    done = mesh.run(f"""
        from tasks import hold
        import zmqtasks, time
        handle = hold.delay({str(mesh.folder)!r})
        while handle.state != "STARTED":
            time.sleep(0.01)
        try:
            handle.get(timeout=0.05)
        except zmqtasks.TimeoutError as exc:
            print(exc, isinstance(exc, TimeoutError))
        open({str(mesh.folder / "held.go")!r}, "w").close()
        handle.get(timeout=10)
    """)
    assert "after 0.05 s" in done.stdout
    assert "tasks.hold" in done.stdout
    assert "is running on w1 (attempt 1)" in done.stdout
    assert done.stdout.endswith("True\n")


def test_at_most_once_lane(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from tasks import add
        handles = [add.apply_async((i, 1), delivery="at_most_once") for i in range(200)]
        print([h.get(timeout=10) for h in handles] == list(range(1, 201)))
        try:
            add.apply_async((1, 1), delivery="at_most_once").get()
        except ValueError as exc:
            print(exc)
    """)
    first, second = done.stdout.splitlines()
    assert first == "True"
    assert "needs a timeout" in second
