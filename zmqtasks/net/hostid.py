"""Which host this is."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

HOST_ID_BYTES = 8
_MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_BOOT_ID_FILES = ("/proc/sys/kernel/random/boot_id",)
_NETNS_LINK = "/proc/self/ns/net"


def host_id() -> bytes:
    """8 bytes that are equal in processes which share loopback.

    Hashed from the machine id, the boot id (cloned images share machine ids) and the
    network namespace (containers of one host do not share loopback). Where there is no
    machine id, the MAC address stands in.
    """
    machine = _first_text(_MACHINE_ID_FILES) or f"mac-{uuid.getnode():x}"
    try:
        netns = str(Path(_NETNS_LINK).readlink())
    except OSError:
        netns = ""
    parts = "\n".join((machine, _first_text(_BOOT_ID_FILES), netns))
    return hashlib.blake2b(parts.encode(), digest_size=HOST_ID_BYTES).digest()


def _first_text(paths: tuple[str, ...]) -> str:
    for path in paths:
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if text:
            return text
    return ""
