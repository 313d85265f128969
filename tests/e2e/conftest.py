"""Meshes for tests: one of its own, or one that a module's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Mesh, running_mesh
from tests.e2e.lan import Lan


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    """An empty mesh."""
    with running_mesh(tmp_path) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def shared_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh with one worker, for tests that do it no harm."""
    with running_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        mesh.start_node(name="w1")
        yield mesh


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Two hosts joined by a cable; for modules that need namespaces."""
    with Lan() as made:
        yield made
