"""Two hosts with nothing in common but a cable, a key and a mesh name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import wait_for
from tests.e2e.lan import Lan, Side, need_namespaces, running_sides

APP = '''
import os, time
from pathlib import Path
from zmqtasks import App

app = App("shop")


@app.task
def where():
    return os.readlink("/proc/self/ns/net")


@app.task
def node():
    return os.environ["ZMQTASKS_MESH"]


@app.task
def double(x: int) -> int:
    return 2 * x


@app.task
def hold(folder, name):
    """Say that it runs, wait until it may go on, and say that it has ended."""
    folder = Path(folder)
    (folder / f"{name}.started").touch()
    while not (folder / f"{name}.go").exists():
        time.sleep(0.005)
    (folder / f"{name}.done").touch()
    return name
'''


@pytest.fixture(scope="module", autouse=True)
def _namespaces_can_be_made() -> None:
    need_namespaces()


@pytest.fixture
def a(lan: Lan, tmp_path: Path) -> Iterator[Side]:
    """One of them, which has made the mesh key."""
    side = Side(lan.a, tmp_path / "a", APP)
    with running_sides(side):
        side.make_key()
        yield side


@pytest.fixture
def b(lan: Lan, a: Side, tmp_path: Path) -> Iterator[Side]:
    """The other, to which that key was copied."""
    side = Side(lan.b, tmp_path / "b", APP)
    with running_sides(side):
        side.take_key(a)
        yield side


pytestmark = pytest.mark.e2e


def test_a_task_called_in_one_namespace_runs_in_the_other(lan: Lan, a: Side, b: Side) -> None:
    assert a.network != b.network
    node = a.start_node("--listen", lan.a_address, "--queues", "to-a", name="in-a")
    assert "members on other hosts can join" in node.wait_log("mesh key")
    b.start_node("--listen", "*", "--queues", "to-b", name="in-b")
    seen = b.status()["nodes"]["in-a"]
    assert (seen["found_by"], seen["transport"]) == ("mdns", "tcp")
    assert seen["address"].startswith(f"tcp://{lan.a_address}:")
    for side, queue, other in ((a, "to-b", b), (b, "to-a", a)):
        done = side.run(f"""
            from tasks import where
            print(where.apply_async(queue={queue!r}).get(timeout=15))
        """)
        assert done.stdout == f"{other.network}\n"


#: Calls, and what may be seen of them while the link is cut.
ACROSS_A_CUT = """
    import time
    from pathlib import Path
    from tasks import double, hold
    folder = Path({folder!r})

    def across(name, numbers):
        held = [hold.delay(str(folder), f"{{name}}-{{i}}") for i in range(2)]
        while not all((folder / f"{{name}}-{{i}}.started").exists() for i in range(2)):
            time.sleep(0.005)
        queued = double.delay_many((i,) for i in numbers)  # no slot is free for them
        print(name, "submitted", flush=True)
        while not (folder / f"{{name}}.cut").exists():
            time.sleep(0.005)
        late = double.delay_many((i,) for i in numbers)
        print(name, "submitted while cut", flush=True)
        looks = 0
        while not (folder / f"{{name}}.heal").exists():
            assert not any(handle.ready() for handle in [*held, *queued, *late])
            looks += 1
            time.sleep(0.02)
        print(name, "nothing completed", looks > 0, flush=True)
        assert [handle.get(timeout=30) for handle in held] == [f"{{name}}-{{i}}" for i in range(2)]
        assert queued.get(timeout=30) == late.get(timeout=30) == [2 * i for i in numbers]
        print(name, "every value arrived", flush=True)

    print(double.delay(1).get(timeout=15), flush=True)
    across("short", range(1000))
    across("long", range(1000))
"""


def wait_for_files(paths: Iterable[Path]) -> None:
    for path in paths:
        wait_for(path.exists, f"{path.name} comes into being")


def test_nothing_completes_while_the_link_is_cut_and_all_goes_on_after(
    lan: Lan, a: Side, b: Side, tmp_path: Path
) -> None:
    worker = a.start_node("--listen", lan.a_address, name="in-a")
    client = b.start(ACROSS_A_CUT.format(folder=str(tmp_path)))
    for name in ("short", "long"):
        client.wait_log(f"{name} submitted")
        held = [f"{name}-{i}" for i in range(2)]
        lan.cut()
        for one in held:
            (tmp_path / f"{one}.go").touch()
        (tmp_path / f"{name}.cut").touch()
        client.wait_log(f"{name} submitted while cut")
        wait_for_files(tmp_path / f"{one}.done" for one in held)
        if name == "long":
            client.wait_log("lost node in-a")
            worker.wait_log("lost node")
        (tmp_path / f"{name}.heal").touch()
        client.wait_log(f"{name} nothing completed True")
        lan.heal()
        client.wait_log(f"{name} every value arrived", 40)
    assert client.wait() == 0, client.log
    assert "Traceback" not in worker.log


def test_a_worker_killed_on_the_other_host_is_known_to_be_gone(
    lan: Lan, a: Side, b: Side, tmp_path: Path
) -> None:
    """Its kernel says so; nobody waits for heartbeats that stay away."""
    worker = a.start_node("--listen", lan.a_address, name="in-a")
    client = b.start(f"""
        from tasks import hold
        print(hold.delay({str(tmp_path)!r}, "held").get(timeout=30))
    """)
    wait_for_files([tmp_path / "held.started"])
    worker.kill()
    (tmp_path / "held.go").touch()
    client.wait_log("lost node in-a: its process has ended")
    a.start_node("--listen", lan.a_address, name="in-a-again")
    client.wait_log("held")
    assert client.wait() == 0, client.log


# --- without multicast ------------------------------------------------------------------


@pytest.fixture
def routed(tmp_path: Path) -> Iterator[tuple[Lan, Side, Side]]:
    """Two hosts of different subnets, with the same key.

    That is what really blocks multicast: switching it off for an interface (``ip link set
    lan0 multicast off``) only asks programs not to use it, the kernel delivers it still.
    """
    with Lan(routed=True) as lan:
        a, b = Side(lan.a, tmp_path / "a", APP), Side(lan.b, tmp_path / "b", APP)
        with running_sides(a, b):
            a.make_key()
            b.take_key(a)
            yield lan, a, b


def test_where_multicast_is_blocked_a_static_peer_does_it(routed: tuple[Lan, Side, Side]) -> None:
    lan, a, b = routed
    assert not lan.multicast_arrives()
    a.start_node("--port", "5570", name="in-a")
    nobody = b.status()
    assert (nobody["nodes"], nobody["unanswered"]) == ({}, [])
    peer = f"{lan.a_address}:5570"
    seen = b.status("--peer", peer)["nodes"]["in-a"]
    assert (seen["found_by"], seen["transport"]) == ("static", "tcp")
    assert seen["address"] == f"tcp://{peer}"
    done = b.run(CALL_WHERE, ZMQTASKS_PEERS=peer)
    assert done.stdout == f"{a.network}\n"


def test_a_static_peer_of_another_mesh_or_with_another_key_is_named_once(
    routed: tuple[Lan, Side, Side],
) -> None:
    lan, a, b = routed
    peer = f"{lan.a_address}:5570"
    worker = a.start_node("--port", "5570", name="in-a")
    for name, flags, told in (
        ("other-mesh", ("--mesh", "other"), f"tcp://{peer} belongs to another mesh than 'other'"),
        ("other-key", ("--key", b.make_other_key()), f"no peer at tcp://{peer} (--peer)"),
    ):
        node = b.start_node("--peer", peer, *flags, name=name)
        node.wait_log(told)
        assert node.log.count(peer) == 1, node.log
        assert f"give both the same {flags[0]}" in node.log.replace("key file (--key", "--key")
    assert "give both the same key file (--key)" in worker.wait_log("another mesh key")
    assert worker.log.count("another mesh key") == 1
    assert a.status()["nodes"].keys() == {"in-a"}


# --- who may join -----------------------------------------------------------------------

CALL_WHERE = """
    from tasks import where
    print(where.delay().get(timeout=15))
"""


def test_the_same_mesh_with_another_key_is_not_joined_and_logged_once(
    lan: Lan, a: Side, b: Side
) -> None:
    assert lan.multicast_arrives()  # as it does not through the router
    ours = [a.start_node(name=f"ours-{number}") for number in (1, 2)]
    b.env["ZMQTASKS_KEY_FILE"] = b.make_other_key()
    theirs = b.start_node(name="theirs")
    for node in (*ours, theirs):
        line = node.wait_log("a mesh of the same name 'e2e' is here with another key")
        assert "give both the same key file (--key) or different names (--mesh)" in line
    assert b.status()["nodes"].keys() == {"theirs"}
    for node in (*ours, theirs):
        assert node.log.count("with another key") == 1, node.log


def test_meshes_of_different_names_share_a_network_and_do_not_mix(
    lan: Lan, a: Side, b: Side, tmp_path: Path
) -> None:
    blue = Side(lan.a, tmp_path / "blue", APP, name="blue")
    with running_sides(blue):
        blue.take_key(a)
        nodes = [a.start_node(name="red-1"), blue.start_node(name="blue-1")]
        assert b.status()["nodes"].keys() == {"red-1"}
        assert b.status("--mesh", "blue")["nodes"].keys() == {"blue-1"}
        done = b.run("from tasks import node; print(node.delay().get(timeout=15))",
                     ZMQTASKS_MESH="blue")  # fmt: skip
        assert done.stdout == "blue\n"
        for node in nodes:
            assert "WARNING" not in node.log


def test_insecure_nodes_find_each_other_without_a_key(lan: Lan, tmp_path: Path) -> None:
    a, b = Side(lan.a, tmp_path / "a", APP), Side(lan.b, tmp_path / "b", APP)
    with running_sides(a, b):
        node = a.start_node("--insecure", "--listen", "*", name="in-a")
        assert "nothing is encrypted" in node.wait_log("WARNING")
        seen = b.status("--insecure")["nodes"]["in-a"]
        assert (seen["found_by"], seen["transport"]) == ("mdns", "tcp")
        done = b.run(CALL_WHERE, ZMQTASKS_INSECURE="1")
        assert done.stdout == f"{a.network}\n"
        closed = b.status("--peer", f"{lan.a_address}:5570")
        assert closed["nodes"] == {}
        assert "no mesh key" in " ".join(closed["looked_at"])
