"""Calls and their results, from all the kinds of programs that make them."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e


def test_delay_and_get(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from tasks import add
        print(add.delay(2, 3).get(timeout=10), add(1, 1))
    """)
    assert (done.stdout, done.stderr) == ("5 2\n", "")
