"""The files under deploy/ parse, fit together and name settings and flags that exist."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import yaml_subset
from zmqtasks.settings import NodeSettings, setting_docs

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "zmqtasks@.service"
ENV_EXAMPLE = DEPLOY / "systemd" / "zmqtasks.env.example"
CONTAINERFILE = DEPLOY / "container" / "Containerfile"
COMPOSE = DEPLOY / "container" / "compose.yaml"
README = DEPLOY / "README.md"

VARIABLES = {doc.env for doc in setting_docs()}
FLAGS = {doc.flag for doc in setting_docs()} | {"--print-config"}
#: Read by the compose file itself, not by zmqtasks.
COMPOSE_VARIABLES = {"ZMQTASKS_UID", "ZMQTASKS_GID"}


def unit_sections() -> dict[str, list[tuple[str, str]]]:
    """{section: its lines as (key, value)} of the systemd unit."""
    sections: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for line in UNIT.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            name = line.strip("[]")
            assert name not in sections
            sections[name] = []
        else:
            key, separator, value = line.partition("=")
            assert separator, line
            assert re.fullmatch(r"[A-Z][A-Za-z]+", key), line
            assert value.strip(), line
            sections[name].append((key, value))
    return sections


def assert_node_command(arguments: list[str]) -> None:
    """``node`` with flags that it has."""
    assert arguments[0] == "node"
    flags = [word for word in arguments if word.startswith("-")]
    assert flags
    assert set(flags) <= FLAGS


def compose() -> dict[str, Any]:
    return yaml_subset.load(COMPOSE.read_text())


# --- systemd ----------------------------------------------------------------------------


def test_the_unit_has_what_a_node_needs() -> None:
    sections = unit_sections()
    assert list(sections) == ["Unit", "Service", "Install"]
    service = dict(sections["Service"])
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2"
    assert service["User"] != "root"
    assert service["OOMPolicy"] == "continue"
    # Instances share the directories: one that stops must not take them from the others.
    assert service["RuntimeDirectoryPreserve"] == "yes"
    for kind in ("Runtime", "State", "Cache"):
        assert service[f"{kind}Directory"] == "zmqtasks"
        assert service[f"{kind}DirectoryMode"] == "0700"


def test_the_unit_hears_of_its_node_and_restarts_it_in_place() -> None:
    service = dict(unit_sections()["Service"])
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert int(service["WatchdogSec"]) > NodeSettings().drain_timeout_s
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["SuccessExitStatus"].split() == ["3", "130"]


def test_the_unit_waits_longer_than_a_node_drains() -> None:
    service = dict(unit_sections()["Service"])
    assert int(service["TimeoutStopSec"]) > NodeSettings().drain_timeout_s


def test_the_unit_starts_a_node_with_its_instance_as_role() -> None:
    service = dict(unit_sections()["Service"])
    program, *arguments = service["ExecStart"].split()
    assert program.endswith("/bin/zmqtasks")
    assert_node_command(arguments)
    assert arguments[arguments.index("--role") + 1] == "%i"


def test_the_unit_sets_the_directories_that_it_makes() -> None:
    variables = dict(
        value.split("=", 1) for key, value in unit_sections()["Service"] if key == "Environment"
    )
    assert variables == {
        "ZMQTASKS_RUNTIME_DIR": "%t/zmqtasks",
        "ZMQTASKS_STATE_DIR": "%S/zmqtasks",
        "ZMQTASKS_CACHE_DIR": "%C/zmqtasks",
    }
    assert set(variables) <= VARIABLES


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
@pytest.mark.parametrize("role", ["worker", "store", "broker"])
def test_systemd_accepts_the_unit(tmp_path: Path, role: str) -> None:
    # Its program is not installed here; any that is stands for it.
    text = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text())
    (tmp_path / UNIT.name).write_text(text)
    check = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / f"zmqtasks@{role}.service")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [line for line in check.stderr.splitlines() if "zmqtasks@" in line]
    assert complaints == []
    assert check.returncode == 0


def test_the_environment_example_names_settings_that_exist() -> None:
    names = set()
    for line in ENV_EXAMPLE.read_text().splitlines():
        if match := re.match(r"#?(ZMQTASKS_\w+)=(\S+)$", line):
            assert match[1] not in names, f"{match[1]} is there twice"
            names.add(match[1])
        else:
            # systemd takes every other line that is no comment for an error.
            assert line == "" or line.startswith("# "), line
    assert {"ZMQTASKS_KEY_FILE", "ZMQTASKS_APP", "ZMQTASKS_PEERS"} <= names
    assert names <= VARIABLES


# --- containers -------------------------------------------------------------------------


def test_the_image_runs_a_node_as_a_plain_user() -> None:
    text = re.sub(r"\\\n\s*", " ", CONTAINERFILE.read_text())
    steps: list[tuple[str, str]] = [
        (line.split()[0], line.split(maxsplit=1)[1])
        for line in text.splitlines()
        if line and not line.startswith("#")
    ]
    bases = [rest.split()[0] for word, rest in steps if word == "FROM"]
    assert set(bases) == {"docker.io/library/python:3.12-slim"}
    last = dict(steps)
    assert last["USER"] == "$UID:$GID"
    assert json.loads(last["ENTRYPOINT"]) == ["zmqtasks"]
    assert_node_command(json.loads(last["CMD"]))
    variables = set(re.findall(r"ZMQTASKS_\w+(?==)", last["ENV"]))
    assert variables == {"ZMQTASKS_RUNTIME_DIR", "ZMQTASKS_STATE_DIR", "ZMQTASKS_CACHE_DIR"}


def test_the_image_copies_files_that_exist_and_are_not_ignored() -> None:
    ignore = CONTAINERFILE.with_name("Containerfile.dockerignore").read_text().splitlines()
    copied = [
        source
        for line in CONTAINERFILE.read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert "zmqtasks" in copied
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignore


def test_the_compose_file_has_two_workers_and_a_store_with_a_secret_key() -> None:
    loaded = compose()
    services = loaded["services"]
    assert set(services) == {"worker", "store"}
    assert services["worker"]["deploy"] == {"replicas": 2}
    roles = {}
    for name, service in services.items():
        assert_node_command(service["command"])
        roles[name] = service["command"][service["command"].index("--role") + 1]
        environment = service["environment"]
        assert set(environment) <= VARIABLES
        assert service["secrets"] == ["mesh_key"]
        assert environment["ZMQTASKS_KEY_FILE"] == "/run/secrets/mesh_key"
        port = environment["ZMQTASKS_PORT"]
        assert environment["ZMQTASKS_PEERS"] == f"worker:{port},store:{port}"
        assert int(service["stop_grace_period"].rstrip("s")) > NodeSettings().drain_timeout_s
    assert roles == {"worker": "worker", "store": "store"}
    assert loaded["secrets"] == {"mesh_key": {"file": "./mesh.key"}}
    assert "mesh.key" in (DEPLOY / "container" / ".gitignore").read_text().splitlines()


def test_the_compose_file_names_paths_and_volumes_that_exist() -> None:
    loaded = compose()
    for service in loaded["services"].values():
        build = service["build"]
        context = (COMPOSE.parent / build["context"]).resolve()
        assert context == ROOT
        assert (context / build["dockerfile"]) == CONTAINERFILE
        assert set(build["args"]) == {"UID", "GID"}
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in loaded["volumes"] or (COMPOSE.parent / source).is_dir()


def test_what_containers_keep_of_open_tasks_outlives_them() -> None:
    loaded = compose()
    state = re.findall(r"ZMQTASKS_STATE_DIR=(\S+)", CONTAINERFILE.read_text())
    for service in loaded["services"].values():
        targets = dict(volume.split(":")[:2] for volume in service["volumes"])
        assert [targets["state"]] == state
    assert "state" in loaded["volumes"]


def test_a_broker_is_added_as_the_readme_says() -> None:
    example = re.search(r"^  ```yaml\n(.*?)^  ```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert example is not None
    loaded = yaml_subset.load(COMPOSE.read_text().replace("\nvolumes:", f"{example[1]}\nvolumes:"))
    broker, store = loaded["services"]["broker"], loaded["services"]["store"]
    assert_node_command(broker["command"])
    assert broker == {**store, "command": ["node", "--role", "broker"]}


def test_the_compose_file_is_yaml_to_others_too() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    assert yaml.safe_load(COMPOSE.read_text()) == compose()


@pytest.mark.parametrize(
    "text",
    ["a:\n    b: 1", "a: 1\na: 2", "- a", "a: [1", 'a: "b', "a: b: c", "a: *x", "a\n", "\ta: 1"],
)
def test_the_reader_refuses_what_it_does_not_know(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        yaml_subset.load(text)


def test_the_example_application_has_the_task_of_the_readme() -> None:
    tree = ast.parse((DEPLOY / "container" / "app" / "tasks.py").read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert "zmqtasks call tasks.add 2 3" in README.read_text()
    assert "add" in functions


# --- README -----------------------------------------------------------------------------


def test_the_readme_names_settings_and_files_that_exist() -> None:
    text = README.read_text()
    assert set(re.findall(r"ZMQTASKS_[A-Z_]+", text)) <= VARIABLES | COMPOSE_VARIABLES
    for path in re.findall(r"(?:`|cp )((?:systemd|container)/[\w.@-]+)", text):
        assert (DEPLOY / path).is_file(), path
