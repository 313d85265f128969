"""The mesh key: one secret that every node of a mesh holds.

A key is 32 random bytes written as one line of Z85 (ZeroMQ RFC 32), 40 characters. It
serves as the CURVE secret key of every node. Its file is closed to everyone but its
owner; whoever reads it may run code on every worker of the mesh.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from zmqtasks.errors import ConfigError, KeyUnusable

KEY_BYTES = 32
KEY_CHARS = 40
MESH_HASH_BYTES = 8
#: Value of the setting ``key_file`` that asks for no key even where a default one lies.
NO_KEY = "none"

#: Source: ZeroMQ RFC 32, "Z85 alphabet".
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_Z85_VALUE = {char: value for value, char in enumerate(_Z85)}
#: More than any key file holds: a wrong path never reads a large file.
_FILE_BYTES_MAX = 4096
#: Different hashes of different things (BLAKE2 personalisation, 16 bytes at most).
_PERSON_FINGERPRINT = b"zmqtasks-fprint"
_PERSON_MESH = b"zmqtasks-mesh"


def generate() -> str:
    """A fresh mesh key: 40 characters of Z85 without a newline."""
    return _z85_encode(os.urandom(KEY_BYTES))


def mesh_key(key_file: str) -> str | None:
    """The key that the setting ``key_file`` leads to, None where there is to be none.

    Raises:
        KeyUnusable: see :func:`read_key`.
    """
    return None if key_file in ("", NO_KEY) else read_key(key_file)


def read_key(path: str | Path) -> str:
    """The key in a file.

    Raises:
        KeyUnusable: the file is missing, unreadable, no regular file, open to others or
            not one key. The message has the remedy and never any of the content.
    """
    path = Path(path)
    try:
        # Not blocking: a named pipe without a writer would hang the start.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KeyUnusable(
            f"mesh key {path} does not exist; make one with: zmqtasks keygen {path}"
        ) from None
    except OSError as exc:
        raise KeyUnusable(
            f"mesh key {path} cannot be read ({exc.strerror}); "
            f"it must belong to the user that runs the node"
        ) from None
    try:
        _refuse_open_file(path, os.fstat(fd))
        content = os.read(fd, _FILE_BYTES_MAX)
    except OSError as exc:
        raise KeyUnusable(f"mesh key {path} cannot be read ({exc.strerror})") from None
    finally:
        os.close(fd)
    # Foreign bytes become characters that are outside of Z85.
    key = content.decode("latin-1").strip()
    if not is_key(key):
        raise KeyUnusable(
            f"mesh key {path} is malformed: it must be one line of {KEY_CHARS} Z85 characters; "
            f"copy it again from another node or make one with: zmqtasks keygen"
        )
    return key


def _refuse_open_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyUnusable(f"mesh key {path} is not a regular file; give the path of the key file")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise KeyUnusable(
            f"mesh key {path} is open to other users (mode {mode:04o}); close it with: "
            f"chmod 600 {path}"
        )


def is_key(text: str) -> bool:
    """Whether this is the text of a key."""
    if len(text) != KEY_CHARS:
        return False
    try:
        _z85_decode(text)
    except ValueError:
        return False
    return True


def write_key(path: str | Path, key: str | None = None) -> str:
    """Write a key to a new file that only its owner can read; returns the key.

    Missing folders are made, closed to others. An existing file is never overwritten:
    all nodes that hold its key would be locked out.

    Args:
        path: the file to make.
        key: the key to write, a fresh one by default.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    path = Path(path)
    key = generate() if key is None else key
    if not is_key(key):
        raise ValueError(f"a key has {KEY_CHARS} Z85 characters")
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, parents=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if os.path.lexists(path):
            raise ConfigError(
                f"{path} exists and is not overwritten; remove it first or choose another path"
            ) from None
        raise ConfigError(
            f"mesh key {path} cannot be written ({exc.strerror}); choose another path"
        ) from None
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            os.fchmod(fd, 0o600)
            file.write(key + "\n")
            file.flush()
            os.fsync(fd)
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise ConfigError(f"mesh key {path} cannot be written ({exc.strerror})") from None
    return key


def fingerprint(key: str) -> str:
    """16 hex digits that tell keys apart and give nothing away; announced and shown."""
    return hashlib.blake2b(_z85_decode(key), digest_size=8, person=_PERSON_FINGERPRINT).hexdigest()


def mesh_hash(mesh: str) -> bytes:
    """8 bytes that stand for a mesh name on the wire."""
    return hashlib.blake2b(mesh.encode(), digest_size=MESH_HASH_BYTES, person=_PERSON_MESH).digest()


def _z85_encode(data: bytes) -> str:
    chars: list[str] = []
    for start in range(0, len(data), 4):
        value = int.from_bytes(data[start : start + 4], "big")
        group = []
        for _ in range(5):
            value, digit = divmod(value, 85)
            group.append(_Z85[digit])
        chars.extend(reversed(group))
    return "".join(chars)


def _z85_decode(text: str) -> bytes:
    """Bytes of a Z85 text.

    Raises:
        ValueError: the length is no multiple of 5, a character is foreign, or a group
            is beyond 32 bits.
    """
    if len(text) % 5:
        raise ValueError("the length of a Z85 text is a multiple of 5")
    data = bytearray()
    for start in range(0, len(text), 5):
        value = 0
        for char in text[start : start + 5]:
            if char not in _Z85_VALUE:
                raise ValueError("a character outside of Z85")
            value = value * 85 + _Z85_VALUE[char]
        if value >> 32:
            raise ValueError("a Z85 group beyond 32 bits")
        data += value.to_bytes(4, "big")
    return bytes(data)
