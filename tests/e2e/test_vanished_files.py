"""Somebody empties the runtime directory under running nodes."""

from __future__ import annotations

import shutil

import pytest

from tests.e2e.harness import Mesh, wait_for

pytestmark = pytest.mark.e2e

_HOLDER = """
from tasks import add, hold
handle = hold.delay({folder!r}, "h")
print("submitted", flush=True)
handle.get(timeout=60)
print("done", add.delay(1, 2).get(timeout=60), flush=True)
"""


@pytest.mark.parametrize("what", ["folder", "*.json", "*.lock"])
def test_a_node_is_found_again_and_its_links_live_on(mesh: Mesh, what: str) -> None:
    node = mesh.start_node(name="w1")
    client = mesh.start(_HOLDER.format(folder=str(mesh.folder)))
    wait_for(lambda: (mesh.folder / "h.started").exists(), "the task runs")
    # When the files of both vanish,
    folder = mesh.runtime / mesh.name
    if what == "folder":
        shutil.rmtree(folder)
    else:
        for path in folder.glob(what):
            path.unlink()
    # Then the node says so, can be found by new callers,
    node.wait_log("they are made again")
    wait_for(lambda: len(list(folder.glob("*.json"))) == 2, "both have entries again")
    called = mesh.cli("call", "tasks.add", "1", "2")
    assert (called.returncode, called.stdout.strip()) == (0, "3"), called.stderr
    # And those who had found it before noticed nothing.
    (mesh.folder / "h.go").touch()
    client.wait_log("done 3")
    assert (mesh.folder / "h.started").read_text().count("\n") == 1
    assert node.log.count("vanished") == 1
    assert "lost" not in node.log + client.log
    assert client.wait() == 0
    assert node.stop() == 0
