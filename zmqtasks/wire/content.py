"""Whether two calls ask for the same: a digest of what they ask for.

Two payloads of equal arguments may differ in their bytes: sets are written in the order
of their hashes, which changes from process to process, and dicts in the order in which
they were filled. So the digest is made of a form in which both are sorted.
"""

from __future__ import annotations

import hashlib
from typing import Any

from msgpack import ExtType, Packer, Unpacker

from zmqtasks.wire.packing import UNORDERED
from zmqtasks.wire.payload import MSGPACK

#: Bytes of a content digest: who tells two contents apart is not an attacker.
DIGEST_BYTES = 8
#: Stands for a map in the sorted form; no extension type of payloads has this code.
_MAP = 127
_MSGPACK_BYTE = bytes([MSGPACK])


def content_digest(app: str, name: str, body: bytes) -> bytes:
    """8 bytes that are equal for calls of the same task with equal arguments.

    Args:
        app, name: the task's.
        body: the encoded arguments, as :func:`zmqtasks.wire.payload.encode_arguments` makes
            them. Arguments by position and by name count as different.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"zmqtasks call")
    for part in (app.encode(), name.encode(), body[:1]):
        digest.update(len(part).to_bytes(4, "big") + part)
    digest.update(_pack(_sorted_form(body[1:])) if body[:1] == _MSGPACK_BYTE else body[1:])
    return digest.digest()


def _sorted_form(data: bytes) -> Any:
    unpacker = Unpacker(
        strict_map_key=False,
        ext_hook=_ext,
        object_pairs_hook=_pairs,
        unicode_errors="surrogatepass",
        max_buffer_size=max(len(data), 1),
    )
    unpacker.feed(data)
    return unpacker.unpack()


def _ext(code: int, data: bytes) -> ExtType:
    content = _sorted_form(data)  # every extension type holds MessagePack again
    if code in UNORDERED and isinstance(content, list):
        return ExtType(code, b"".join(sorted(map(_pack, content))))
    return ExtType(code, _pack(content))


def _pairs(pairs: list[tuple[Any, Any]]) -> ExtType:
    return ExtType(_MAP, b"".join(sorted(_pack(key) + _pack(value) for key, value in pairs)))


def _pack(value: Any) -> bytes:
    data: bytes = Packer(unicode_errors="surrogatepass").pack(value)
    return data
