"""What somebody sees who runs workers, and looks after them."""

from __future__ import annotations

import json
import socket

import pytest

from tests.e2e.harness import Mesh, wait_for

pytestmark = pytest.mark.e2e


def test_two_nodes_of_one_name_are_warned_of_and_told_apart(mesh: Mesh) -> None:
    first = mesh.start_node(name="w1")
    second = mesh.start_node(name="w1")
    line = first.wait_log("two nodes of this mesh are called 'w1'")
    assert "--name" in line
    second.wait_log("two nodes of this mesh are called 'w1'")
    told = json.loads(mesh.cli("status", "--json").stdout)
    ids = sorted(node["node"] for node in told["nodes"])
    assert all(node in line for node in ids)
    shown = mesh.cli("status").stdout
    assert all(f"w1@{node}" in shown for node in ids)
    pinged = mesh.cli("inspect", "ping", "-d", f"w1@{ids[0]}")
    assert (pinged.returncode, pinged.stdout) == (0, "w1: pong\n")


# --- nobody there ---------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("command", [("status",), ("inspect", "ping")])
def test_a_peer_where_nobody_listens_is_named_with_the_reason_and_the_remedy(
    mesh: Mesh, command: tuple[str, ...]
) -> None:
    address = f"127.0.0.1:{_free_port()}"
    done = mesh.cli(*command, "--peer", address)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert f"answers at {address} (--peer): nobody listens there" in said
    assert "(waited " in said
    assert "start one there" in said


def test_a_peer_of_another_mesh_is_not_to_be_started(mesh: Mesh) -> None:
    port = str(_free_port())
    mesh.start_node("--listen", "127.0.0.1", "--port", port, name="w1")
    elsewhere = mesh.folder / "elsewhere"
    elsewhere.mkdir()
    done = mesh.cli(
        "inspect", "ping", "--mesh", "other", "--peer", f"127.0.0.1:{port}",
        ZMQTASKS_RUNTIME_DIR=str(elsewhere), ZMQTASKS_CACHE_DIR=str(elsewhere),
    )  # fmt: skip
    assert done.returncode == 2
    assert "it belongs to another mesh (--mesh)" in done.stderr
    assert "start one there" not in done.stderr


def test_a_peer_where_nobody_listens_is_named_beside_the_nodes_that_are_there(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    address = f"127.0.0.1:{_free_port()}"
    shown = mesh.cli("status", "--peer", address)
    assert shown.returncode == 0
    assert f"no answer at {address} (--peer): nobody listens there" in shown.stdout
    told = json.loads(mesh.cli("status", "--json", "--peer", address).stdout)
    assert list(told["unanswered_peers"]) == [address]


def test_a_question_waits_for_the_peer_that_is_named_on_the_command_line(mesh: Mesh) -> None:
    port = str(_free_port())
    mesh.start_node("--listen", "127.0.0.1", "--port", port, name="w1")
    elsewhere = mesh.folder / "elsewhere"  # where no file tells of the node
    elsewhere.mkdir()
    done = mesh.cli(
        "inspect", "ping", "--peer", f"127.0.0.1:{port}",
        ZMQTASKS_RUNTIME_DIR=str(elsewhere), ZMQTASKS_CACHE_DIR=str(elsewhere),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "w1: pong\n"), done.stderr


# --- what cannot start, and what is built in ------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--app", "nothere"), "there is no module 'nothere'"),
        (("--pool", "nosuch"), "unknown pool 'nosuch'"),
        (("--app", "broken"), "importing 'broken' failed"),
    ],
)
def test_a_node_that_cannot_start_says_so_as_json_where_its_log_is_json(
    mesh: Mesh, flags: tuple[str, ...], said: str
) -> None:
    mesh.write("broken.py", "raise ValueError('no flour')\n")
    done = mesh.cli("node", "--name", "w1", "--log-format", "json", *flags)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    told = json.loads(line)
    assert said in told["message"]
    assert (told["level"], told["logger"], told["node"]) == ("ERROR", "zmqtasks.cli", "w1")
    assert ("no flour" in told.get("traceback", "")) is ("broken" in flags)


def test_tasks_that_every_application_has_are_listed_on_demand_only(shared_mesh: Mesh) -> None:
    assert "zmqtasks." not in shared_mesh.cli("inspect", "registered").stdout
    assert "zmqtasks.map" in shared_mesh.cli("inspect", "registered", "--builtins").stdout
    assert "zmqtasks.map" not in shared_mesh.cli("status", "--json").stdout
    done = shared_mesh.run(
        """
        from tasks import app
        inspect = app.control.inspect()
        print("zmqtasks.map" in inspect.registered()["w1"])
        print("zmqtasks.map" in inspect.registered(builtins=True)["w1"])
        """
    )
    assert done.stdout.split() == ["False", "True"]


# --- ids that people chose ------------------------------------------------------------------


def test_a_text_id_is_shown_and_found_everywhere_as_it_was_typed(mesh: Mesh) -> None:
    mesh.start_node("-c", "1", name="w1")
    mesh.start_node("--store", "sqlite:///results.db", name="s1", roles="store")
    client = mesh.start(
        """
        import sys
        from tasks import hold
        handle = hold.apply_async((sys.argv[1:] or ["."])[:1], task_id="order-7")
        print("id", handle.id, str(handle), flush=True)
        print("done", handle.get(timeout=30) > 0, flush=True)
        later = hold.apply_async((".", "later"), task_id="order-8", countdown=600)
        while not __import__("os").path.exists("end"):
            __import__("time").sleep(0.01)
        """
    )
    client.wait_log("id order-7 order-7")
    wait_for((mesh.code / "held.started").exists, "it runs")
    assert "order-7  tasks.hold" in mesh.cli("inspect", "active").stdout
    queried = mesh.cli("inspect", "query_task", "order-7")
    assert (queried.returncode, "order-7" in queried.stdout) == (0, True), queried.stderr
    assert "order-7" in mesh.cli("story", "order-7").stdout
    (mesh.code / "held.go").touch()
    client.wait_log("done True")
    assert json.loads(mesh.cli("result", "order-7", "--json").stdout)["id"] == "order-7"
    wait_for(lambda: "order-8" in mesh.cli("inspect", "scheduled").stdout, "it is scheduled")
    assert "order-8" in mesh.cli("control", "revoke", "order-8").stdout
    assert "order-8" in mesh.cli("inspect", "revoked").stdout
    (mesh.code / "end").touch()
    assert client.wait() == 0, client.log


def test_a_task_and_the_log_of_its_node_have_the_text_of_its_id(mesh: Mesh) -> None:
    mesh.write(
        "tasks.py",
        """
        from zmqtasks import App
        app = App("shop")
        @app.task(bind=True)
        def who(self):
            print("it is me")
            return self.request.id
        """,
    )
    node = mesh.start_node(name="w1")
    done = mesh.run(
        """
        from tasks import who
        print(who.apply_async(task_id="order-7").get(timeout=10))
        """
    )
    assert done.stdout == "order-7\n"
    assert "tasks.who[order-7] stdout: it is me" in node.wait_log("it is me")


# --- who comes later, and who is out of reach -------------------------------------------------


def test_a_worker_that_joins_later_learns_the_rate_of_all_workers_together(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    told = mesh.cli("control", "rate_limit", "tasks.add", "--mesh-rate-limit", "50/s")
    assert told.returncode == 0, told.stderr
    late = mesh.start_node(name="w2")
    assert "told by w1" in late.wait_log("rate limit of tasks.add: 50/s for all workers together")
    stats = json.loads(mesh.cli("inspect", "stats", "--json").stdout)["replies"]
    for name in ("w1", "w2"):
        assert stats[name]["rates"] == {"tasks.add": {"mesh_rate_limit": "50/s"}}


def test_a_worker_that_dials_out_is_shown_as_linked_to_its_broker(mesh: Mesh) -> None:
    key = mesh.folder / "key"
    assert mesh.cli("keygen", str(key)).returncode == 0
    port = str(_free_port())
    there = ("--key", str(key), "--peer", f"127.0.0.1:{port}")
    mesh.start_node(
        "--listen", "127.0.0.1", "--port", port, "--key", str(key), roles="broker", name="keeper"
    )
    far = mesh.folder / "far"
    far.mkdir()
    mesh.start_node("--dial", *there, name="far", ZMQTASKS_RUNTIME_DIR=str(far))
    mesh.env |= {"ZMQTASKS_RUNTIME_DIR": str(mesh.folder), "ZMQTASKS_CACHE_DIR": str(mesh.folder)}

    def told() -> list[dict[str, object]]:
        shown = mesh.cli("status", "--json", *there)
        return list(json.loads(shown.stdout)["seen_by_others"])

    (seen,) = wait_for(told, "the broker tells of it")
    assert (seen["name"], seen["roles"], seen["by"]) == ("far", ["worker"], ["keeper"])
    assert "  far (worker): linked to keeper" in mesh.cli("status", *there).stdout


# --- twins for asyncio ------------------------------------------------------------------------


def test_calls_are_revoked_and_broadcast_from_a_running_loop_which_goes_on_meanwhile(
    mesh: Mesh,
) -> None:
    mesh.start_node("-c", "1", name="w1")
    mesh.start_node("-c", "1", name="w2")
    done = mesh.run(
        """
        import asyncio
        from tasks import add, app
        from zmqtasks.errors import TaskRevokedError

        async def main():
            turns = 0

            async def count():
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            counting = asyncio.create_task(count())
            result = await add.abroadcast((1, 2))
            print(sorted((await asyncio.to_thread(result.by_worker, timeout=10)).items()))
            print((await add.abroadcast((1, 2), destination="w2")).workers)
            first, second, third = (add.apply_async((1, n), countdown=600) for n in range(3))
            print(await first.arevoke())
            print(await app.control.arevoke([second.id]) == {second.id: "revoked"})
            print(await third.arevoke(wait=True, timeout=10))
            for handle in (first, second, third):
                try:
                    await handle
                except TaskRevokedError:
                    print("revoked", turns > 0)
            for refused in (first.revoke, lambda: add.broadcast((1, 2))):
                try:
                    refused()
                except RuntimeError as exc:
                    print("await" in str(exc))
            counting.cancel()

        asyncio.run(main())
        """
    )
    assert done.stdout.splitlines() == [
        "[('w1', 3), ('w2', 3)]", "['w2']", "revoked", "True", "revoked",
        *["revoked True"] * 3, "True", "True",
    ]  # fmt: skip
