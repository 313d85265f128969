"""What a node says of itself in mDNS, and reading what others claim.

A record may come from anybody on the network: nothing in it is trusted, everything is
checked against its form and cut to size. At worst a false one makes us dial a dead end.

====  =====================================================
key   value
====  =====================================================
v     version of this record, ``1``
m     hash of the mesh's name, hex
n     name of the mesh, for messages to people
id    node id, hex; also the instance name
e     epoch, hex
r     roles, with commas
p     port of R_in (the SRV record has it too)
k     fingerprint of the mesh key, absent without one
h     host id, hex
w     name of the node; absent where that is long
====  =====================================================

Queues, tasks and endpoints are not in it: they come with HELLO, and a TXT record should
stay below 400 bytes (RFC 6763 section 6.2).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from zmqtasks.core.links import Candidate
from zmqtasks.ids import NODE_ID_BYTES
from zmqtasks.limits import ENDPOINTS_PER_PEER_MAX

SERVICE_TYPE = "_zmqtasks._tcp.local."
TXT_BYTES_MAX = 400
_VERSION = "1"
_NODE = re.compile(rf"[0-9a-f]{{{2 * NODE_ID_BYTES}}}")
_HASH = re.compile(r"[0-9a-f]{16}")
_EPOCH = re.compile(r"[0-9a-f]{1,8}")
_ROLES = re.compile(r"[a-z]{1,16}(,[a-z]{1,16}){0,7}")
_MESH_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_FINGERPRINT = re.compile(r"[0-9a-f]{1,32}")
_NODE_NAME = re.compile(r"[A-Za-z0-9_.@+-]{1,64}")


class Record(NamedTuple):
    """What is registered for a node."""

    instance: str
    port: int
    addresses: tuple[str, ...]
    properties: dict[str, str]


def make_record(candidate: Candidate, own_addresses: Sequence[str]) -> Record | None:
    """The record that announces a node, None when nobody on the network could use it.

    Args:
        candidate: the node; of its TCP endpoints those with the first one's port count.
        own_addresses: addresses of the interfaces we speak on. Others (say, of a bridge
            for containers) are left out, unless the user advertises nothing else.
    """
    assert candidate.node is not None
    pairs = [pair for text in candidate.endpoints if (pair := _numeric_tcp(text)) is not None]
    reachable = [pair for pair in pairs if pair[0] in own_addresses]
    if not reachable:
        reachable = [
            pair for pair in pairs if not ipaddress.ip_address(pair[0]).is_loopback
        ]  # fmt: skip
    if not reachable:
        return None
    port = reachable[0][1]
    properties = {
        "v": _VERSION,
        "m": candidate.mesh.hex(),
        "n": candidate.mesh_name,
        "id": candidate.node.hex(),
        "e": f"{candidate.epoch:x}",
        "r": ",".join(candidate.roles),
        "p": str(port),
        "h": candidate.host_id.hex(),
    }
    if candidate.fingerprint:
        properties["k"] = candidate.fingerprint
    if _NODE_NAME.fullmatch(candidate.name):
        properties["w"] = candidate.name
    addresses = tuple(host for host, other in reachable if other == port)
    return Record(candidate.node.hex(), port, addresses[:ENDPOINTS_PER_PEER_MAX], properties)


def read_record(
    instance: str, port: int | None, addresses: Iterable[str], properties: Mapping[str, str | None]
) -> Candidate | None:
    """The candidate that a record stands for; None where anything about it is wrong.

    Args:
        instance: first label of the service's name.
        port: from the SRV record.
        addresses: from the A and AAAA records, IPv6 link-local ones with their scope.
        properties: the TXT record.
    """
    mesh, node, epoch = (properties.get(key) or "" for key in ("m", "id", "e"))
    roles, fingerprint, host = (properties.get(key) or "" for key in ("r", "k", "h"))
    name, node_name = (properties.get(key) or "" for key in ("n", "w"))
    checks = (
        properties.get("v") == _VERSION,
        _HASH.fullmatch(mesh),
        _NODE.fullmatch(node) and node == instance.lower(),
        _EPOCH.fullmatch(epoch),
        not roles or _ROLES.fullmatch(roles),
        not fingerprint or _FINGERPRINT.fullmatch(fingerprint),
        not host or _HASH.fullmatch(host),
        not name or _MESH_NAME.fullmatch(name),
        not node_name or _NODE_NAME.fullmatch(node_name),
        port is not None and 0 < port < 65536,
    )
    if not all(checks):
        return None
    usable = [text for text in addresses if _is_dialable(text)][:ENDPOINTS_PER_PEER_MAX]
    if not usable:
        return None
    return Candidate(
        node=bytes.fromhex(node),
        epoch=int(epoch, 16),
        mesh=bytes.fromhex(mesh),
        mesh_name=name,
        fingerprint=fingerprint,
        endpoints=tuple(
            f"tcp://[{text}]:{port}" if ":" in text else f"tcp://{text}:{port}" for text in usable
        ),
        host_id=bytes.fromhex(host),
        roles=tuple(roles.split(",")) if roles else (),
        source="mdns",
        name=node_name,
    )


def _is_dialable(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.is_multicast or address.is_unspecified:
        return False
    return not (address.version == 6 and address.is_link_local and "%" not in text)


def _numeric_tcp(endpoint: str) -> tuple[str, int] | None:
    """Address and port of a TCP endpoint; None for names, ipc and link-local IPv6."""
    if not endpoint.startswith("tcp://"):
        return None
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    try:
        address = ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        return None
    if address.version == 6 and address.is_link_local:
        return None
    return host, number
