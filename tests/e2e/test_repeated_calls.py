"""A key means one task, whoever has it by now: its worker, another process, a store."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh, wait_for

pytestmark = pytest.mark.e2e

#: Calls `hold` with a key and prints how it ended.
CALL = """
from tasks import hold
from zmqtasks import SubmitRejected
try:
    handle = hold.apply_async(({folder!r}, {name!r}), idempotency_key="one")
    print(handle.id, {wait} and handle.get(timeout=20))
except SubmitRejected as exc:
    print("refused", exc)
"""


def _call(mesh: Mesh, name: str, *, wait: bool = False) -> list[str]:
    code = CALL.format(folder=str(mesh.folder), name=name, wait=wait)
    return mesh.run(code).stdout.split(maxsplit=1)


def _runs(mesh: Mesh, name: str) -> int:
    path = mesh.folder / f"{name}.started"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize("roles", ["worker", "worker,store"])
def test_key_of_an_ended_process_means_its_task(mesh: Mesh, roles: str) -> None:
    mesh.start_node("-c", "1", roles=roles, name="w1")
    first = _call(mesh, "held")
    wait_for(lambda: _runs(mesh, "held"), "it runs")
    assert _call(mesh, "other")[0] == "refused", "while it runs"
    (mesh.folder / "held.go").touch()
    again = _call(mesh, "held", wait=True)
    assert again[0] == first[0]
    assert again[1].strip().isdigit()
    assert _call(mesh, "held", wait=True) == again, "after it has ended"
    assert _call(mesh, "other")[0] == "refused"
    assert (_runs(mesh, "held"), _runs(mesh, "other")) == (1, 0)


def test_key_of_a_task_that_a_broker_has_means_that_task(mesh: Mesh) -> None:
    mesh.start_node(roles="broker", name="b1")
    first = _call(mesh, "held")
    assert _call(mesh, "other")[0] == "refused"
    assert _call(mesh, "held")[0] == first[0]
    mesh.start_node("-c", "1", name="w1")
    (mesh.folder / "held.go").touch()
    assert _call(mesh, "held", wait=True)[0] == first[0]
    assert _runs(mesh, "held") == 1
