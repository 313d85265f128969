"""Files of ipc sockets that somebody removes while the node listens."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.unit.net.conftest import MakePeer
from tests.unit.net.pumping import link, pump
from zmqtasks.errors import ConfigError
from zmqtasks.net import transport


def test_sockets_are_bound_again_and_connections_live_on(
    make_peer: MakePeer, own_directories: Path
) -> None:
    folder = own_directories / "mesh"
    folder.mkdir(mode=0o700)
    listener, old, new = make_peer(b"L", ipc_dir=folder), make_peer(b"O"), make_peer(b"N")
    link(old, listener, listener.endpoints.router[0])
    assert listener.transport.missing_files() == []
    # When the folder vanishes and is made again,
    shutil.rmtree(folder)
    assert len(listener.transport.missing_files()) == 3
    folder.mkdir(mode=0o700)
    listener.transport.bind_again()
    assert listener.transport.missing_files() == []
    # Then others can connect, and who was connected still is.
    link(new, listener, listener.endpoints.router[0])
    for peer in (old, new):
        assert peer.transport.send(listener.as_out, [b"hello"]) == "ok"
        assert listener.transport.send(peer.as_in, [b"hello"]) == "ok"
    pump(
        [listener, old, new],
        lambda: (
            len(listener.handler.bodies()) == 2
            and old.handler.bodies() == new.handler.bodies() == [[b"hello"]]
        ),
    )
    assert [up for _, up in old.handler.connections] == [True]
    listener.transport.close()
    assert list(folder.iterdir()) == []


def test_one_socket_is_bound_again(make_peer: MakePeer, own_directories: Path) -> None:
    listener = make_peer(b"L", ipc_dir=own_directories)
    (gone,) = own_directories.glob("*.p")
    others = {path: path.stat().st_ino for path in own_directories.iterdir() if path != gone}
    gone.unlink()
    assert listener.transport.missing_files() == [gone]
    listener.transport.bind_again()
    assert gone.is_socket()
    assert {path: path.stat().st_ino for path in others} == others


def test_a_folder_that_is_gone_is_named(make_peer: MakePeer, own_directories: Path) -> None:
    folder = own_directories / "mesh"
    folder.mkdir(mode=0o700)
    listener = make_peer(b"L", ipc_dir=folder)
    shutil.rmtree(folder)
    with pytest.raises(ConfigError, match="ZMQTASKS_RUNTIME_DIR"):
        listener.transport.bind_again()
    assert len(listener.transport.missing_files()) == 3


def test_sockets_are_not_bound_again_for_ever(
    make_peer: MakePeer, own_directories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "RUNTIME_REBINDS_MAX", 1)
    listener = make_peer(b"L", ipc_dir=own_directories)
    for path in own_directories.iterdir():
        path.unlink()
    listener.transport.bind_again()
    for path in own_directories.iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="find what removes it"):
        listener.transport.bind_again()


def test_files_are_touched(make_peer: MakePeer, own_directories: Path) -> None:
    listener = make_peer(b"L", ipc_dir=own_directories)
    for path in own_directories.iterdir():
        os.utime(path, (1, 1))
    next(own_directories.glob("*.l")).unlink()
    listener.transport.touch_files()
    assert min(path.stat().st_mtime for path in own_directories.iterdir()) > 1


def test_who_listens_nowhere_misses_nothing(make_peer: MakePeer) -> None:
    producer = make_peer(b"P")
    assert producer.transport.missing_files() == []
    producer.transport.bind_again()
