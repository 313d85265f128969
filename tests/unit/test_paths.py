from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from zmqtasks import paths
from zmqtasks.errors import ConfigError
from zmqtasks.settings import NodeSettings

FOLDERS = [paths.runtime_dir, paths.state_dir, paths.cache_dir]
each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.__name__)


def _settings(base: Path, mesh: str = "default") -> NodeSettings:
    return NodeSettings(mesh=mesh, runtime_dir=str(base), state_dir=str(base), cache_dir=str(base))


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- defaults -----------------------------------------------------------------------------


def test_xdg_variables_are_followed(tmp_path: Path) -> None:
    env = {
        "XDG_RUNTIME_DIR": str(tmp_path),
        "XDG_STATE_HOME": "/s",
        "XDG_CACHE_HOME": "/c",
        "XDG_CONFIG_HOME": "/k",
        "HOME": "/home/ann",
    }
    assert paths.default_runtime_base(env) == tmp_path / "zmqtasks"
    assert paths.default_state_base(env) == Path("/s/zmqtasks")
    assert paths.default_cache_base(env) == Path("/c/zmqtasks")
    assert paths.default_key_file(env) == Path("/k/zmqtasks/mesh.key")


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_empty_and_relative_xdg_variables_are_ignored(value: str) -> None:
    env = {f"XDG_{name}": value for name in ("STATE_HOME", "CACHE_HOME", "CONFIG_HOME")}
    env["HOME"] = "/home/ann"
    assert paths.default_state_base(env) == Path("/home/ann/.local/state/zmqtasks")
    assert paths.default_cache_base(env) == Path("/home/ann/.cache/zmqtasks")
    assert paths.default_key_file(env) == Path("/home/ann/.config/zmqtasks/mesh.key")


@pytest.mark.parametrize("xdg", [None, "", "missing", "file"])
def test_unusable_runtime_directory_gives_way_to_one_of_this_user(
    tmp_path: Path, xdg: str | None
) -> None:
    (tmp_path / "file").write_text("")
    env = {"TMPDIR": str(tmp_path)}
    if xdg is not None:
        env["XDG_RUNTIME_DIR"] = str(tmp_path / xdg) if xdg else ""
    assert paths.default_runtime_base(env) == tmp_path / f"zmqtasks-{os.geteuid()}"


def test_runtime_directory_of_another_user_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert paths.default_runtime_base(env) == tmp_path / f"zmqtasks-{other}"


def test_missing_temporary_directory_is_not_taken(tmp_path: Path) -> None:
    base = paths.default_runtime_base({"TMPDIR": str(tmp_path / "missing")})
    assert base.parent.is_dir()


def test_settings_without_folders_use_the_environment(own_directories: Path) -> None:
    assert paths.runtime_dir(NodeSettings()) == own_directories / "zmqtasks" / "default"
    for folder in (paths.state_dir, paths.cache_dir):
        assert folder(NodeSettings()).parent.name == "zmqtasks"


# --- making and checking -------------------------------------------------------------------


@each_folder
def test_folder_is_made_private_and_one_for_each_mesh(
    tmp_path: Path, folder: Callable[[NodeSettings], Path]
) -> None:
    base = tmp_path / "some" / "base"
    assert folder(_settings(base)) == base / "default"
    assert folder(_settings(base, "other")) == base / "other"
    assert folder(_settings(base)) == base / "default"
    assert _mode(base) == _mode(base / "default") == 0o700


def test_own_folder_that_is_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "default").mkdir(mode=0o755)
    assert _mode(paths.state_dir(_settings(tmp_path))) == 0o700


@each_folder
def test_folder_that_cannot_be_made_is_named_with_the_remedy(
    tmp_path: Path, folder: Callable[[NodeSettings], Path]
) -> None:
    (tmp_path / "file").write_text("")
    variable = f"ZMQTASKS_{folder.__name__.upper()}"
    with pytest.raises(ConfigError, match=rf"file/default cannot be made .*{variable}") as caught:
        folder(_settings(tmp_path / "file"))
    assert "\n" not in str(caught.value)


def test_folder_that_cannot_be_written_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The superuser may write everywhere, so the system's answer is made up.
    monkeypatch.setattr(os, "access", lambda *_args: False)
    with pytest.raises(ConfigError, match=r"default is not writable; .*ZMQTASKS_STATE_DIR"):
        paths.state_dir(_settings(tmp_path))


def test_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths.runtime_dir(_settings(tmp_path))
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(ConfigError, match=rf"belongs to user {other - 1}, not to this one"):
        paths.runtime_dir(_settings(tmp_path))


def test_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "default").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is not a directory"):
        paths.runtime_dir(_settings(tmp_path))


def test_base_that_everybody_may_change_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(ConfigError, match=rf"mode 0777.*chmod o-w {base}"):
        paths.state_dir(_settings(base))
    base.chmod(0o1777)
    assert paths.state_dir(_settings(base)).is_dir()


def test_user_folder_prepared_by_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = os.geteuid() + 1
    base = tmp_path / f"zmqtasks-{other}"
    base.mkdir(mode=0o755)
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(ConfigError, match=rf"was made by user {other - 1}, not by this one"):
        paths.runtime_dir(_settings(base))


def test_link_in_place_of_the_user_folder_is_refused(tmp_path: Path) -> None:
    base = tmp_path / f"zmqtasks-{os.geteuid()}"
    (tmp_path / "elsewhere").mkdir()
    base.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="or is a link"):
        paths.runtime_dir(_settings(base))


def test_default_store_lies_in_the_state_folder(tmp_path: Path) -> None:
    settings = replace(_settings(tmp_path), mesh="shop")
    assert paths.default_store_url(settings) == f"sqlite:///{tmp_path}/shop/results.db"


# --- socket paths --------------------------------------------------------------------------


def test_short_socket_path_is_kept(tmp_path: Path) -> None:
    room = paths.SOCKET_PATH_BYTES_MAX - len(os.fsencode(tmp_path)) - 1
    assert paths.socket_path(tmp_path, "x" * room) == tmp_path / ("x" * room)


def test_long_socket_path_is_shortened_in_the_same_way_every_time(
    own_directories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(own_directories))
    directory = own_directories / ("d" * 90)
    short = paths.socket_path(directory, "router")
    assert len(os.fsencode(short)) <= paths.SOCKET_PATH_BYTES_MAX
    assert short == paths.socket_path(directory, "router")
    assert short != paths.socket_path(directory, "events")
    assert _mode(short.parent) == _mode(short.parent.parent) == 0o700


def test_length_of_a_socket_path_is_counted_in_bytes(
    own_directories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(own_directories))
    directory = own_directories / ("ü" * 50)
    assert paths.socket_path(directory, "router").parent != directory


def test_hopeless_socket_path_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("t" * 120)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    with pytest.raises(ConfigError, match="choose a shorter runtime_dir"):
        paths.socket_path(deep, "router")
