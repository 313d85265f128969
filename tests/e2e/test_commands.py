"""The commands that talk to a running mesh."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.e2e.harness import Mesh, wait_for

pytestmark = pytest.mark.e2e


# --- call -------------------------------------------------------------------------------


def test_call_prints_the_result(shared_mesh: Mesh) -> None:
    done = shared_mesh.cli("call", "tasks.add", "2", "-3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "-1\n", "")
    done = shared_mesh.cli("call", "tasks.add", "2", "--kwargs", '{"y": 40}', "--json")
    data = json.loads(done.stdout)
    assert (data["state"], data["result"]) == ("SUCCESS", 42)


@pytest.mark.parametrize(
    ("argument", "printed"),
    [
        ("two words", "two words"),
        ('"2"', "2"),
        ("[1, null, true]", "[1, null, true]"),
        ('{"a": {"b": 1.5}}', '{"a": {"b": 1.5}}'),
        ("", ""),
    ],
)
def test_call_reads_arguments_as_json_where_they_are(
    shared_mesh: Mesh, argument: str, printed: str
) -> None:
    assert shared_mesh.cli("call", "tasks.echo", argument).stdout == printed + "\n"


def test_call_of_a_task_that_fails(shared_mesh: Mesh) -> None:
    done = shared_mesh.cli("call", "tasks.fail", "no way")
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: no way"
    done = shared_mesh.cli("call", "tasks.fail", "no way", "--json")
    data = json.loads(done.stdout)
    assert (done.returncode, data["state"]) == (1, "FAILURE")
    assert (data["error"]["type"], data["error"]["message"]) == ("ValueError", "no way")
    assert "in fail" in data["error"]["traceback"]


def test_call_that_nobody_can_run_says_why(shared_mesh: Mesh) -> None:
    done = shared_mesh.cli("call", "tasks.ad", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no worker knows task 'tasks.ad'; they know 'tasks.add'" in done.stderr
    assert "(did you mean 'tasks.add'?)" in done.stderr
    done = shared_mesh.cli("call", "tasks.add", "1", "2", "--queue", "mail")
    assert "serves queue 'mail'; they serve 'default': choose one with --queue" in done.stderr
    done = shared_mesh.cli("call", "tasks.add", "1", "2", "--app-name", "bank")
    assert "task 'tasks.add' is not in app 'bank', but in 'shop'" in done.stderr
    done = shared_mesh.cli("call", "tasks.add", "--kwargs", "[1]")
    assert done.returncode == 2
    assert "no JSON object" in done.stderr


def test_call_in_an_empty_mesh(mesh: Mesh) -> None:
    done = mesh.cli("call", "tasks.add", "1", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "mesh 'e2e' has no nodes; looked at: this host" in done.stderr


def test_call_in_a_mesh_whose_only_worker_does_not_answer(mesh: Mesh) -> None:
    node = mesh.start_node(name="w1")
    node.signal(signal.SIGSTOP)
    try:
        done = mesh.cli("call", "tasks.add", "2", "3")
    finally:
        node.signal(signal.SIGCONT)
    assert done.returncode == 2
    assert "has no nodes" not in done.stderr
    assert "nobody can run 'tasks.add': no node of mesh 'e2e' answers: node " in done.stderr
    assert "(worker; found by local) cannot be reached at ipc://" in done.stderr


def test_call_in_a_mesh_without_workers(mesh: Mesh) -> None:
    mesh.start_node(name="keeper", roles="broker")
    done = mesh.cli("call", "tasks.add", "2", "3")
    assert done.returncode == 2
    assert "mesh 'e2e' has no workers, only keeper (broker). Start one with" in done.stderr


def test_what_lies_in_journals_of_this_host_is_named_when_nobody_is_there(mesh: Mesh) -> None:
    mesh.run("from tasks import add; add.delay(1, 2); add.delay(1, 3)")
    said = "Left on this host by processes that have ended: 2 open tasks (zmqtasks journal list)"
    assert said in mesh.cli("status").stdout
    assert json.loads(mesh.cli("status", "--json").stdout)["left_here"] == 2
    told = mesh.cli("story", "7c26cae8-06ae-54f4-0000-010000000002")
    assert said in told.stderr
    assert "mesh 'e2e' has no nodes" in told.stderr


def test_call_with_a_timeout_and_without_waiting(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    done = mesh.cli("call", "tasks.hold", str(mesh.folder), "--timeout", "0.1")
    assert (done.returncode, done.stdout) == (3, "")
    assert "no result of task" in done.stderr
    assert "1 handed to w1" in done.stderr
    (mesh.folder / "held.go").touch()
    done = mesh.cli("call", "tasks.hold", str(mesh.folder), "second", "--no-wait")
    assert done.returncode == 0
    assert "1 handed to w1" in done.stderr
    task_id = done.stdout.strip()
    wait_for(lambda: (mesh.folder / "second.started").exists(), "it runs without its caller")
    done = mesh.cli("result", task_id)
    assert (done.returncode, done.stdout) == (3, "")
    assert "STARTED: " in done.stderr
    assert "tasks.hold" in done.stderr
    assert "is running on w1" in done.stderr
    done = mesh.cli("result", task_id, "--wait", "0.1", "--json")
    assert (done.returncode, json.loads(done.stdout)["state"]) == (3, "STARTED")
    (mesh.folder / "second.go").touch()
    done = mesh.cli("result", task_id, "--wait", "10")
    assert (done.returncode, done.stdout.strip().isdigit()) == (0, True)
    assert mesh.cli("result", task_id).stdout == done.stdout


def test_call_with_a_key_is_the_same_task_again(shared_mesh: Mesh) -> None:
    again = ["call", "tasks.pid", "--idempotency-key", "once a day", "--json"]
    first, second = (json.loads(shared_mesh.cli(*again).stdout) for _ in range(2))
    assert first["state"] == "SUCCESS"
    assert second == first
    other = shared_mesh.cli("call", "tasks.echo", "1", "--idempotency-key", "once a day")
    assert other.stdout == "1\n"
    refused = shared_mesh.cli("call", "tasks.echo", "2", "--idempotency-key", "once a day")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "other content" in refused.stderr


def test_call_with_durability(shared_mesh: Mesh) -> None:
    done = shared_mesh.cli("call", "tasks.add", "2", "3", "--durability", "disk")
    assert (done.returncode, done.stdout) == (0, "5\n")
    done = shared_mesh.cli("call", "tasks.add", "2", "3", "--durability", "dsk")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown durability 'dsk'; did you mean 'disk'?" in done.stderr


# --- result -----------------------------------------------------------------------------


def test_result_of_tasks_that_ended(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from tasks import add, fail
        a, b = add.delay(20, 3), fail.delay("kept")
        [h.get(timeout=10, propagate=False) for h in (a, b)]
        print(a.id, b.id)
    """)
    good, bad = done.stdout.split()
    assert json.loads(shared_mesh.cli("result", good, "--json").stdout) == {
        "id": good, "state": "SUCCESS", "result": 23,
    }  # fmt: skip
    failed = shared_mesh.cli("result", bad)
    assert failed.returncode == 1
    assert failed.stderr.endswith("ValueError: kept\n")
    unknown = shared_mesh.cli("result", "11111111-2222-3333-4444-555555555555")
    assert unknown.returncode == 1
    assert "known to nobody" in unknown.stderr


def test_result_in_an_empty_mesh(mesh: Mesh) -> None:
    done = mesh.cli("result", "11111111-2222-3333-4444-555555555555", "--wait", "0.1")
    assert done.returncode == 2
    assert "mesh 'e2e' has no nodes" in done.stderr


# --- status -----------------------------------------------------------------------------


def test_status_shows_nodes_load_and_what_waits(mesh: Mesh) -> None:
    mesh.start_node("-c", "1", "--queues", "default,mail", name="w1")
    mesh.start_node(roles="store", name="s1")
    client = mesh.start(f"""
        from tasks import app, hold
        handles = [hold.delay({str(mesh.folder)!r}, f"h{{i}}") for i in range(4)]
        lost = [app.send_task("nosuch", queue="mail") for _ in range(2)]
        print("submitted", flush=True)
        [h.get(timeout=30) for h in handles]
    """, ZMQTASKS_NAME="shop-front", ZMQTASKS_EXIT_WAIT_S="0")  # fmt: skip
    wait_for((mesh.folder / "h0.started").exists, "a task runs")
    data = json.loads(mesh.cli("status", "--json").stdout)
    nodes = {node["name"]: node for node in data["nodes"]}
    assert sorted(nodes) == ["s1", "shop-front", "w1"]
    worker = nodes["w1"]
    assert (worker["roles"], worker["queues"]) == (["worker"], ["default", "mail"])
    assert "tasks.add(x: int, y: int) -> int" in worker["tasks"]
    assert (worker["worker"]["running"], worker["worker"]["slots"]) == (1, 1)
    assert {(n["found_by"], n["transport"]) for n in nodes.values()} == {("local", "ipc")}
    assert nodes["shop-front"]["producer"]["open"] == 6
    (lost,) = [kind for kind in data["waiting"] if kind["task"] == "nosuch"]
    assert (lost["count"], lost["queue"], lost["producer"]) == (2, "mail", "shop-front")
    assert "no present worker knows it" in lost["why"]
    assert (data["mesh"], data["key"], data["unanswered"]) == ("e2e", None, [])

    lines = mesh.cli("status").stdout.splitlines()
    assert lines[0] == "mesh 'e2e', no key: 3 nodes"
    assert any(line.startswith("w1") and "1 of 1 slot" in line for line in lines)
    assert any("2 × nosuch (app 'shop', queue 'mail') of shop-front: no present" in line
               for line in lines)  # fmt: skip
    assert "  tasks.pid() -> int" in lines
    for number in range(4):
        (mesh.folder / f"h{number}.go").touch()
    assert client.wait() == 0


def test_status_names_nodes_that_do_not_answer(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    frozen = mesh.start_node(roles="store", name="s1")
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        done = mesh.cli("status", "--wait", "0.3")
        data = json.loads(mesh.cli("status", "--json", "--wait", "0.3").stdout)
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    assert done.returncode == 0
    assert "no answer from:" in done.stdout
    assert "(store; found by local): cannot be reached at ipc://" in done.stdout
    assert [node["name"] for node in data["nodes"]] == ["w1"]
    assert [node["roles"] for node in data["unanswered"]] == [["store"]]


def test_status_of_an_empty_mesh(mesh: Mesh) -> None:
    done = mesh.cli("status")
    assert done.returncode == 1
    assert "mesh 'e2e' has no nodes; looked at: this host" in done.stdout
    assert "zmqtasks keygen" in done.stdout
    assert json.loads(mesh.cli("status", "--json").stdout)["nodes"] == []


# --- bench ------------------------------------------------------------------------------


def test_bench_starts_its_own_mesh_and_checks_every_value(mesh: Mesh) -> None:
    done = mesh.cli("bench", "--tasks", "400", "--store", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["values_checked"] == 2000 + 3 * (400 + 100) + 100
    assert data["delay_many_per_s"] > 0
    assert data["round_trip_p99_ms"] >= data["round_trip_p50_ms"] > 0
    assert data["versions"]["libzmq"]


def test_bench_on_a_running_mesh(mesh: Mesh) -> None:
    done = mesh.cli("bench", "--mesh-running", "--tasks", "200")
    assert done.returncode == 2
    assert "zmqtasks node --app zmqtasks.cli.bench_tasks" in done.stderr
    mesh.start_node("--app", "zmqtasks.cli.bench_tasks")
    done = mesh.cli("bench", "--mesh-running", "--tasks", "200")
    assert done.returncode == 0, done.stderr
    assert "values checked:" in done.stdout


# --- Ctrl-C -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["call", "result"])
def test_interrupted_command_gives_no_traceback(mesh: Mesh, command: str) -> None:
    mesh.start_node("-c", "1")
    started = mesh.start_cli("call", "tasks.hold", str(mesh.folder), "--no-wait")
    assert started.wait() == 0
    if command == "call":
        process = mesh.start_cli("call", "tasks.hold", str(mesh.folder), "x", name="second")
    else:
        process = mesh.start_cli("result", started.log.split()[0], "--wait", "30", name="second")

    def is_there() -> bool:
        nodes = json.loads(mesh.cli("status", "--json").stdout)["nodes"]
        commands = [node for node in nodes if node["roles"] == ["producer"]]
        return any(command == "result" or node["producer"]["open"] for node in commands)

    wait_for(is_there, "the command is in the mesh")
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    # A call goes on without its caller.
    told = "zmqtasks: tasks that had not finished when this process ended: 1 handed to n1\n"
    assert process.log == (told if command == "call" else "")
    (mesh.folder / "held.go").touch()


def test_bad_settings_of_a_client_are_one_line(mesh: Mesh) -> None:
    for command in (("status",), ("call", "x"), ("result", "x"), ("bench", "--mesh-running")):
        done = mesh.cli(*command, "--mesh", "Bad Name")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "mesh" in done.stderr
