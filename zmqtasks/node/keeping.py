"""Values that stores keep like outcomes, published by whoever has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zmqtasks.errors import StoreError
from zmqtasks.ids import format_task_id
from zmqtasks.node.clock import wall_ms
from zmqtasks.node.runtime import Runtime
from zmqtasks.wire.messages import Kind, Outcome, Status

if TYPE_CHECKING:
    from zmqtasks.node.client import Client


def publish(runtime: Runtime, kind: Kind, record_id: bytes, body: bytes) -> int:
    """Publish a value as the outcome of a task that this node owned; on the loop's thread.

    Returns:
        The position of this node's log up to which a store must have it.
    """
    now_ms = wall_ms()
    outcome = Outcome(record_id, 1, Status.SUCCESS, 0, -1, now_ms, 0, len(body), body, None)
    runtime.mesh.publisher.publish_own([(kind, outcome)], runtime.now_ms, now_ms)
    return runtime.mesh.log.head


def keep(client: Client, kind: Kind, record_id: bytes, body: bytes, timeout_s: float) -> None:
    """See ``Gateway.keep``."""
    log = client.runtime.mesh.log
    what = f"{kind.name} {format_task_id(record_id)}"
    if not client.on_loop(lambda: bool(log.stores)):
        client.survey.settle(timeout_s, lambda peers: any("store" in peer.roles for peer in peers))
    if not client.on_loop(lambda: bool(log.stores)):
        raise StoreError(
            f"{what} is not saved: no node with the role store is in sight; start one (zmqtasks "
            "node --role store)"
        )
    upto = client.on_loop(lambda: publish(client.runtime, kind, record_id, body))
    if not client.conditions.wait(lambda: max(log.stores.values(), default=0) >= upto, timeout_s):
        raise StoreError(
            f"{what} is not saved yet: no store has confirmed it after {timeout_s:g} s; it gets it "
            "when it can, while this process runs ('zmqtasks status' says what the store waits for)"
        )
