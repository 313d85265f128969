from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from zmqtasks import keys
from zmqtasks.cli import main
from zmqtasks.paths import default_key_file


def _keygen(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["keygen", *arguments])


def test_key_is_written_where_asked_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "mesh.key"
    result = _keygen(str(path))
    key = keys.read_key(path)
    assert result.exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.fingerprint(key) in result.output
    assert f"--key {path}" in result.output
    assert key not in result.output


def test_default_place_is_where_nodes_look(tmp_path: Path) -> None:
    config = {"XDG_CONFIG_HOME": str(tmp_path)}
    result = CliRunner().invoke(main, ["keygen"], env=config)
    assert result.exit_code == 0
    assert keys.is_key(keys.read_key(default_key_file(config)))


def test_dash_prints_the_key_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _keygen("-")
    assert result.exit_code == 0
    assert keys.is_key(result.output.rstrip("\n"))
    assert list(tmp_path.iterdir()) == []


def test_existing_key_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "mesh.key"
    key = keys.write_key(path)
    result = _keygen(str(path))
    assert result.exit_code == 2
    assert result.stderr == (
        f"zmqtasks: error: {path} exists and is not overwritten; "
        f"remove it first or choose another path\n"
    )
    assert keys.read_key(path) == key


def test_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = _keygen(str(tmp_path / "file" / "mesh.key"))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
