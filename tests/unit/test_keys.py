from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks import keys
from zmqtasks.errors import ConfigError, KeyUnusable

#: Source: ZeroMQ RFC 32, test vector.
RFC_BYTES = bytes.fromhex("864FD26FB559F75B")
RFC_TEXT = "HelloWorld"
#: Source: libzmq doc/zmq_curve_keypair and RFC 26 examples of a key.
KEY = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"


def _write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_z85_agrees_with_the_rfc() -> None:
    assert keys._z85_encode(RFC_BYTES) == RFC_TEXT
    assert keys._z85_decode(RFC_TEXT) == RFC_BYTES


@given(st.binary(min_size=32, max_size=32))
def test_every_32_bytes_are_a_key(data: bytes) -> None:
    text = keys._z85_encode(data)
    assert keys.is_key(text)
    assert keys._z85_decode(text) == data


@given(st.text(max_size=60))
def test_any_text_is_judged_without_an_exception(text: str) -> None:
    assert keys.is_key(text) in {True, False}


@pytest.mark.parametrize(
    "text", ["", KEY[:-1], KEY + "0", KEY[:-1] + "ü", KEY[:-1] + "~", "#####" + KEY[5:]]
)
def test_other_texts_are_no_keys(text: str) -> None:
    assert not keys.is_key(text)


def test_generated_keys_are_valid_and_different() -> None:
    made = {keys.generate() for _ in range(20)}
    assert len(made) == 20
    assert all(keys.is_key(key) for key in made)


def test_key_survives_writing_and_reading(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on the way" / "mesh.key"
    key = keys.write_key(path)
    assert keys.read_key(path) == key
    assert path.read_text() == key + "\n"


def test_written_key_is_closed_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "mesh.key"
    before = os.umask(0o000)
    try:
        keys.write_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mesh.key"
    first = keys.write_key(path)
    with pytest.raises(ConfigError, match=r"exists and is not overwritten; remove it first"):
        keys.write_key(path)
    assert keys.read_key(path) == first


def test_dangling_link_is_not_followed_when_writing(tmp_path: Path) -> None:
    (tmp_path / "mesh.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not overwritten"):
        keys.write_key(tmp_path / "mesh.key")
    assert not (tmp_path / "elsewhere").exists()


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/mesh\.key cannot be written.*another path"):
        keys.write_key(tmp_path / "file" / "mesh.key")


def test_no_half_key_is_left_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        keys.write_key(tmp_path / "mesh.key")
    assert list(tmp_path.iterdir()) == []


def test_only_a_key_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="40"):
        keys.write_key(tmp_path / "mesh.key", "short")
    assert list(tmp_path.iterdir()) == []


def test_missing_key_names_the_command_that_makes_one(tmp_path: Path) -> None:
    path = tmp_path / "mesh.key"
    with pytest.raises(KeyUnusable, match=f"{path} does not exist.*zmqtasks keygen {path}"):
        keys.read_key(path)


def test_unreadable_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The superuser may read everything, so the system's answer is made up.
    def refuse(*_args: object) -> int:
        raise PermissionError(13, "Permission denied")

    path = _write(tmp_path / "mesh.key", KEY.encode())
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(
            KeyUnusable, match=r"cannot be read \(Permission denied\); it must belong"
        ):
            keys.read_key(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666, 0o610, 0o601])
def test_key_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = _write(tmp_path / "mesh.key", KEY.encode(), mode)
    with pytest.raises(KeyUnusable, match=rf"mode {mode:04o}\).*chmod 600 {path}"):
        keys.read_key(path)


def test_folder_is_no_key(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(KeyUnusable, match="not a regular file"):
        keys.read_key(tmp_path)


def test_pipe_without_a_writer_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mesh.key", 0o600)
    with pytest.raises(KeyUnusable, match="not a regular file"):
        keys.read_key(tmp_path / "mesh.key")


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"short\n", KEY.encode() + b"\n" + KEY.encode(), b"\xff\x00" * 20, b"0" * 10_000],
)
def test_malformed_key_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    path = _write(tmp_path / "mesh.key", content)
    with pytest.raises(KeyUnusable, match=r"malformed.*zmqtasks keygen") as caught:
        keys.read_key(path)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("content", [KEY, f"{KEY}\n", f"{KEY}\r\n", f"  {KEY}\n\n"])
def test_blanks_around_the_key_do_not_matter(tmp_path: Path, content: str) -> None:
    assert keys.read_key(_write(tmp_path / "mesh.key", content.encode())) == KEY


def test_setting_can_ask_for_no_key(tmp_path: Path) -> None:
    assert keys.mesh_key("") is None
    assert keys.mesh_key(keys.NO_KEY) is None
    assert keys.mesh_key(str(_write(tmp_path / "mesh.key", KEY.encode()))) == KEY


def test_fingerprint_is_stable_and_gives_nothing_away() -> None:
    # Announced by every node: a change would split meshes during an upgrade.
    assert keys.fingerprint(KEY) == "896253703436f950"
    assert keys.fingerprint(KEY) != keys.fingerprint(keys.generate())


def test_mesh_hash_is_stable() -> None:
    # Sent in every greeting, like the fingerprint.
    assert keys.mesh_hash("default").hex() == "788be117e8e802cc"
    assert keys.mesh_hash("other") != keys.mesh_hash("default")
