"""Where zmqtasks keeps files, by the XDG base directory rules.

============  ==============================================  =======================
folder        base, unless the setting of that name moves it  holds
============  ==============================================  =======================
runtime_dir   ``$XDG_RUNTIME_DIR/zmqtasks``                   ipc sockets, same-host
              (else a per-user folder in the temporary dir)   directory
state_dir     ``$XDG_STATE_HOME/zmqtasks``                    journals, outbox, the
              (else ``~/.local/state/zmqtasks``)              default store
cache_dir     ``$XDG_CACHE_HOME/zmqtasks``                    addresses of peers seen
              (else ``~/.cache/zmqtasks``)                    before
============  ==============================================  =======================

Each base has one folder a mesh, so that meshes never mix. Those folders are closed to
other users and must belong to us: whoever could write there could pose as a node. One
who prepared a folder of that name in the shared temporary directory is found out.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from zmqtasks.errors import ConfigError

#: Longest path of a unix socket in bytes. Source: unix(7), sockaddr_un.sun_path is 108
#: bytes on Linux and 104 on macOS, with a final zero byte.
SOCKET_PATH_BYTES_MAX = 103 if sys.platform == "darwin" else 107


class Directories(Protocol):
    """The settings that this module needs (``NodeSettings`` has them)."""

    @property
    def mesh(self) -> str:
        """Name of the mesh."""

    @property
    def runtime_dir(self) -> str:
        """Base for sockets, "" for the default."""

    @property
    def state_dir(self) -> str:
        """Base for lasting files, "" for the default."""

    @property
    def cache_dir(self) -> str:
        """Base for files that may be lost, "" for the default."""


def runtime_dir(settings: Directories) -> Path:
    """The mesh's folder for sockets, made when missing, mode 0700, ours.

    Raises:
        ConfigError: it cannot be made, written or trusted; says how to move it.
    """
    base = settings.runtime_dir or str(default_runtime_base(os.environ))
    return _private_dir(Path(base), settings.mesh, "runtime_dir")


def make_again(folder: Path) -> Path:
    """A mesh's folder for sockets that somebody removed. Raises as ``runtime_dir``."""
    return _private_dir(folder.parent, folder.name, "runtime_dir")


def state_dir(settings: Directories) -> Path:
    """The mesh's folder for lasting files. Raises as ``runtime_dir``."""
    base = settings.state_dir or str(default_state_base(os.environ))
    return _private_dir(Path(base), settings.mesh, "state_dir")


def journal_dir(settings: Directories) -> Path:
    """The mesh's folder for the slots of journals, not made yet. Raises as ``runtime_dir``."""
    return state_dir(settings) / "journal"


def cache_dir(settings: Directories) -> Path:
    """The mesh's folder for files that may be lost. Raises as ``runtime_dir``."""
    base = settings.cache_dir or str(default_cache_base(os.environ))
    return _private_dir(Path(base), settings.mesh, "cache_dir")


def default_store_url(settings: Directories) -> str:
    """URL of the store that a store node uses when none is set."""
    return f"sqlite:///{quote(str(state_dir(settings) / 'results.db'))}"


def default_runtime_base(env: Mapping[str, str]) -> Path:
    """``$XDG_RUNTIME_DIR/zmqtasks`` where that is usable, else a per-user folder."""
    xdg = _absolute(env, "XDG_RUNTIME_DIR")
    if xdg is not None and _is_ours_and_writable(xdg):
        return xdg / "zmqtasks"
    return _user_temp_dir(env)


def default_state_base(env: Mapping[str, str]) -> Path:
    """``$XDG_STATE_HOME/zmqtasks``, by default under ``~/.local/state``."""
    return (_absolute(env, "XDG_STATE_HOME") or _home(env) / ".local" / "state") / "zmqtasks"


def default_cache_base(env: Mapping[str, str]) -> Path:
    """``$XDG_CACHE_HOME/zmqtasks``, by default under ``~/.cache``."""
    return (_absolute(env, "XDG_CACHE_HOME") or _home(env) / ".cache") / "zmqtasks"


def default_key_file(env: Mapping[str, str]) -> Path:
    """Where the mesh key of this user lies: ``$XDG_CONFIG_HOME/zmqtasks/mesh.key``."""
    config = _absolute(env, "XDG_CONFIG_HOME") or _home(env) / ".config"
    return config / "zmqtasks" / "mesh.key"


def socket_path(directory: Path, name: str) -> Path:
    """``directory/name``, or a short path that stands for it where that is too long.

    The same long path always gives the same short one, in a folder of this user in the
    temporary directory.

    Raises:
        ConfigError: even the short one is too long, or its folder cannot be used.
    """
    path = directory / name
    if _fits(path):
        return path
    digest = hashlib.blake2b(os.fsencode(path), digest_size=12).hexdigest()
    # No mesh name begins with a dot, so this is never the folder of a mesh.
    short = _private_dir(_user_temp_dir(os.environ), ".s", "runtime_dir") / digest
    if not _fits(short):
        raise ConfigError(
            f"socket path {short} is over {SOCKET_PATH_BYTES_MAX} bytes; "
            f"choose a shorter runtime_dir (ZMQTASKS_RUNTIME_DIR)"
        )
    return short


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX


def _absolute(env: Mapping[str, str], name: str) -> Path | None:
    """The folder in an XDG variable. Relative ones are ignored, as XDG demands."""
    value = env.get(name, "")
    return Path(value) if value.startswith("/") else None


def _home(env: Mapping[str, str]) -> Path:
    home = env.get("HOME") or os.path.expanduser("~")  # noqa: PTH111  (Path.home() raises)
    # Without any home the root is named, is not writable, and the error says what to set.
    return Path(home) if home.startswith("/") else Path("/")


def _user_temp_dir(env: Mapping[str, str]) -> Path:
    temp = _absolute(env, "TMPDIR")
    if temp is None or not temp.is_dir():
        import tempfile  # slow, and rarely wanted

        temp = Path(tempfile.gettempdir())
    return temp / _user_dir_name()


def _is_ours_and_writable(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and os.access(path, os.W_OK | os.X_OK)
    )


def _private_dir(base: Path, name: str, setting: str) -> Path:
    """``base/name``, made when missing, closed to others, writable and ours."""
    remedy = f"; choose another {setting} (ZMQTASKS_{setting.upper()})"
    path = base / name
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_shared(base, remedy)
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{setting} {path} is not a directory{remedy}")
        if status.st_uid != os.geteuid():
            raise ConfigError(
                f"{setting} {path} belongs to user {status.st_uid}, "
                f"not to this one ({os.geteuid()}){remedy}"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as exc:
        raise ConfigError(f"{setting} {path} cannot be made ({exc.strerror}){remedy}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"{setting} {path} is not writable{remedy}")
    return path


def _refuse_shared(base: Path, remedy: str) -> None:
    """A folder whose entries others may replace cannot hold private ones."""
    mode = stat.S_IMODE(base.stat().st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError(
            f"{base} can be changed by every user (mode {mode:04o}), so that nothing in it can "
            f"be trusted{remedy}, or close it: chmod o-w {base}"
        )
    if base.name == _user_dir_name():
        # Anybody can make this name in the temporary directory, as a link too.
        status = base.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise ConfigError(
                f"{base} was made by user {status.st_uid}, not by this one ({os.geteuid()}), "
                f"or is a link{remedy}"
            )


def _user_dir_name() -> str:
    return f"zmqtasks-{os.geteuid()}"
