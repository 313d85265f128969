"""Workers that nobody can dial get their tasks from a broker, and store their results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import NodeProcess, wait_for
from tests.e2e.lan import Lan, Side, need_namespaces, running_sides

APP = """
import os
from zmqtasks import App

app = App("shop")


@app.task
def where():
    return os.readlink("/proc/self/ns/net")


@app.task
def double(x: int) -> int:
    return 2 * x


@app.task
def large(size: int) -> bytes:
    return bytes(size)
"""

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def _namespaces_can_be_made() -> None:
    need_namespaces()


@pytest.fixture
def office(lan: Lan, tmp_path: Path) -> Iterator[Side]:
    """The host of producer, broker and store."""
    side = Side(lan.a, tmp_path / "office", APP)
    with running_sides(side):
        side.make_key()
        yield side


@pytest.fixture
def laptop(lan: Lan, office: Side, tmp_path: Path) -> Iterator[Side]:
    """A host that can dial, and cannot be dialled."""
    side = Side(lan.b, tmp_path / "laptop", APP)
    with running_sides(side):
        side.take_key(office)
        yield side


def listens(node: NodeProcess) -> list[str]:
    """Local TCP addresses in the namespace of a node where somebody listens."""
    rows: list[list[str]] = []
    for name in ("tcp", "tcp6"):
        text = Path(f"/proc/{node.pid}/net/{name}").read_text()
        rows += [line.split() for line in text.splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A"]


@pytest.mark.parametrize("found_by", ["mdns", "peer"])
def test_a_worker_that_dials_out_gets_tasks_from_a_broker(
    lan: Lan, office: Side, laptop: Side, found_by: str
) -> None:
    broker = office.start_node(
        "--listen", f"{lan.a_address}:5560", roles="broker,store", name="keeper"
    )
    flags = ["--dial"]
    if found_by == "peer":
        flags += ["--no-mdns", "--peer", f"{lan.a_address}:5560"]
    worker = laptop.start_node(*flags, name="far")
    assert "dials brokers and stores of other hosts" in worker.wait_log("mesh key")
    assert listens(worker) == [], "nobody can dial it"
    assert listens(broker) != []
    done = office.run(
        """
        from tasks import double, large, where
        print(where.delay().get(timeout=30))
        print(sum(one.get(timeout=30) for one in [double.delay(n) for n in range(100)]))
        print(len(large.delay(100_000).get(timeout=30)))
        """,
        seconds=60.0,
    )
    assert done.stdout == f"{laptop.network}\n9900\n100000\n"
    # A command that sees no worker learns of it from the broker.
    called = office.cli("call", "tasks.double", "21", seconds=60.0)
    assert (called.returncode, called.stdout) == (0, "42\n"), called.stderr
    direct = office.cli("call", "tasks.double", "21", ZMQTASKS_QUEUE_ROUTES="*=direct")
    assert "are reached by 'keeper' only, and queue 'default' has the route" in direct.stderr
    # What the worker published came to the store over the link that the worker made.
    seen = office.status("--wait", "3")["nodes"]
    assert seen["keeper"]["store"]["stored"] >= 102
    wait_for(
        lambda: office.status("--wait", "3")["nodes"]["keeper"]["producer"]["open"] == 0,
        "the broker has settled all",
    )


def test_its_results_can_be_read_by_other_processes(lan: Lan, office: Side, laptop: Side) -> None:
    office.start_node("--listen", lan.a_address, roles="broker,store", name="keeper")
    laptop.start_node("--dial", name="far")
    done = office.run("""
        from tasks import double
        task = double.delay(21)
        task.get(timeout=30)
        print(task.id)
    """)
    task_id = done.stdout.strip()
    found = office.cli("result", task_id)
    assert found.stdout == "42\n", found.stderr
