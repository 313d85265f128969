"""Nodes that cannot start: one line with the remedy, exit code 2, nothing left."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e


def _refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a node that was refused."""
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("zmqtasks: error: ")
    return lines[0]


def test_import_error_shows_the_traceback(mesh: Mesh) -> None:
    mesh.write(
        "tasks.py", "import sys\n\ndef load():\n    raise RuntimeError('no database')\n\nload()\n"
    )
    done = mesh.cli("node")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "tasks.py" in done.stderr
    assert "line 4, in load" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == "zmqtasks: error: importing 'tasks' failed: RuntimeError: no database"
    assert "zmqtasks/app/loader.py" not in done.stderr


def test_solo_pool_reports_an_import_error_as_well(mesh: Mesh) -> None:
    mesh.write("tasks.py", "import nothing_of_that_name\n")
    done = mesh.cli("node", "--pool", "solo")
    assert done.returncode == 2
    assert "ModuleNotFoundError: No module named 'nothing_of_that_name'" in done.stderr


def test_no_app_says_what_was_looked_for(mesh: Mesh) -> None:
    (mesh.code / "tasks.py").unlink()
    line = _refused(mesh.cli("node"))
    assert "looked for --app, ZMQTASKS_APP" in line
    assert "tasks.py" in line


def test_module_without_app_and_missing_module(mesh: Mesh) -> None:
    mesh.write("empty.py", "x = 1\n")
    assert "empty.py has no App" in _refused(mesh.cli("node", "--app", "empty"))
    assert "there is no module 'nosuch'" in _refused(mesh.cli("node", "--app", "nosuch"))
    assert "tasks:nope does not exist" in _refused(mesh.cli("node", "--app", "tasks:nope"))


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--mesh", "Bad Name"), ("mesh", "lower-case letters")),
        (("--role", "wroker"), ("unknown role 'wroker'", "did you mean 'worker'?")),
        (("--role", "store", "--store", "results.db"), ("not a store URL", "sqlite:///")),
        (("--role", "store", "--store", "rdis://x"), ("no store for rdis://", "sqlite")),
        (("--store", "sqlite:///r.db"), ("--store is for", "role store", "--role store")),
        (("--pool", "threads"), ("unknown pool 'threads'", "process, thread, asyncio, solo")),
        (("--concurrency", "many"), ("concurrency", "whole number")),
        (("--listen", "10.1.2.3"), ("key", "zmqtasks keygen")),
        (("--key", "/nonexistent/mesh.key"), ("/nonexistent/mesh.key", "keygen")),
        (("--log-level", "LOUD"), ("LOUD", "DEBUG")),
        (("--queues", ","), ("--queues", "at least one")),
    ],
)  # fmt: skip
def test_bad_values(mesh: Mesh, flags: tuple[str, ...], parts: tuple[str, ...]) -> None:
    line = _refused(mesh.cli("node", *flags))
    assert all(part in line for part in parts), line


def test_key_that_others_can_read(mesh: Mesh) -> None:
    path = mesh.folder / "mesh.key"
    assert mesh.cli("keygen", str(path)).returncode == 0
    path.chmod(0o644)
    line = _refused(mesh.cli("node", "--key", str(path)))
    assert str(path) in line
    assert "chmod 600" in line


def test_key_that_is_none(mesh: Mesh) -> None:
    path = mesh.folder / "mesh.key"
    path.write_text("not a key\n")
    path.chmod(0o600)
    assert "keygen" in _refused(mesh.cli("node", "--key", str(path)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_key_that_cannot_be_read(mesh: Mesh) -> None:
    path = mesh.folder / "mesh.key"
    mesh.cli("keygen", str(path))
    path.chmod(0)
    assert str(path) in _refused(mesh.cli("node", "--key", str(path)))


def test_port_taken(mesh: Mesh) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = _refused(mesh.cli("node", "--listen", "127.0.0.1", "--port", str(port)))
    assert str(port) in line
    assert "--port" in line


@pytest.mark.parametrize("key", ["runtime_dir", "state_dir"])
def test_directory_that_cannot_be_used(mesh: Mesh, key: str) -> None:
    # A file in the way stops root as well.
    blocked = mesh.folder / "blocked"
    blocked.touch()
    flag = f"--{key.replace('_', '-')}"
    line = _refused(mesh.cli("node", "--role", "store", flag, str(blocked / "below")))
    assert str(blocked) in line
    assert key in line


def test_store_in_a_folder_that_cannot_be(mesh: Mesh) -> None:
    (mesh.folder / "blocked").touch()
    url = f"sqlite:///{mesh.folder}/blocked/results.db"
    line = _refused(mesh.cli("node", "--role", "store", "--store", url))
    assert "blocked" in line


def test_unknown_setting_names_the_nearest(mesh: Mesh) -> None:
    Path(mesh.code / "zmqtasks.toml").write_text("quues = ['a']\n")
    line = _refused(mesh.cli("node"))
    assert "zmqtasks.toml" in line
    assert "queues" in line


def test_print_config_shows_values_origins_and_no_secrets(mesh: Mesh) -> None:
    Path(mesh.code / "zmqtasks.toml").write_text('queues = ["mail"]\n')
    done = mesh.cli(
        "node", "--print-config", "-c", "3", "--store", "sqlite://u:geheim@h/x",
        ZMQTASKS_DEFAULT_QUEUE="mail",
    )  # fmt: skip
    assert done.returncode == 0
    lines = {line.partition(" = ")[0]: line for line in done.stdout.splitlines()}
    assert lines["concurrency"].split("#")[0].strip() == "concurrency = 3"
    assert lines["concurrency"].endswith("# flag --concurrency")
    assert lines["queues"].endswith("# zmqtasks.toml")
    assert lines["default_queue"].endswith("# ZMQTASKS_DEFAULT_QUEUE")
    assert lines["port"].endswith("# default")
    assert "geheim" not in done.stdout
    assert lines["store"].split("#")[0].strip() == 'store = "sqlite://u:***@h/x"'
