"""One call for every worker that has the task: each runs it once, whatever queues it serves.

Each worker's call is a task of its own that no other worker may run. When its worker goes
it ends as WorkerLostError.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from zmqtasks.app.control import check_blocking, names_of
from zmqtasks.app.resultset import ResultSet
from zmqtasks.core.links import DRAINING
from zmqtasks.core.requirements import NODE_KEY
from zmqtasks.errors import ConfigError, NoWorkers
from zmqtasks.ids import format_node
from zmqtasks.node.gateway import Call, Gateway
from zmqtasks.node.survey import Request
from zmqtasks.wire.messages import Hello, Kind
from zmqtasks.words import told_apart

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.submitting import Prepared

R = TypeVar("R")
WORKERS = frozenset({"worker"})


class BroadcastResult(ResultSet[R]):
    """The results of a broadcast, one a worker.

    Attributes:
        workers: names of the workers, in the order of the results.
    """

    workers: list[str]

    def by_worker(self, timeout: float | None = None) -> dict[str, R | Exception]:
        """``{worker: what its task returned, or the exception that it ended with}``.

        Raises:
            TimeoutError: not all have ended in so many seconds.
        """
        found = self.get(timeout, propagate=False)
        return dict(zip(self.workers, found, strict=True))

    async def aby_worker(self, timeout: float | None = None) -> dict[str, R | Exception]:
        """Same as ``by_worker()`` without blocking the running loop."""
        found = await self.aget(timeout, propagate=False)
        return dict(zip(self.workers, found, strict=True))


def workers_with(
    through: Gateway, kind: Kind, destination: Sequence[str] | None, timeout: float
) -> list[Hello]:
    """The workers in sight that announce this task.

    Args:
        through: the way to the mesh.
        kind: of the task; an empty ``app`` or ``digest`` fits any.
        destination: names of workers, or patterns; None: all.
        timeout: seconds to find those of other hosts.
    """
    request = Request(f"broadcast of {kind.name}", roles=WORKERS, destination=destination)
    return [
        peer
        for peer in through.find(request, timeout)
        if DRAINING not in peer.ext
        and any(
            entry.name == kind.name
            and kind.app in ("", entry.app)
            and (not kind.digest or not entry.digest or entry.digest == kind.digest)
            for entry in peer.catalog
        )
    ]


def names_apart(peers: Sequence[Hello]) -> list[str]:
    """The names of these workers; of those that share one each with ``@`` and its id."""
    return told_apart([(peer.name, format_node(peer.node)) for peer in peers])


def for_worker(kind: Kind, peer: Hello) -> Kind:
    """The same for this worker only."""
    app = kind.app or next(entry.app for entry in peer.catalog if entry.name == kind.name)
    ext = (*kind.ext, (NODE_KEY, format_node(peer.node)))
    return Kind(app, kind.name, kind.digest, kind.queue, ext)


def broadcast(
    app: App, prepared: Prepared, where: str, destination: str | Collection[str] | None,
    timeout: float,
) -> BroadcastResult[Any]:  # fmt: skip
    """Let every worker that has the task run it once.

    Raises:
        ConfigError: options that name one task.
        NoWorkers: no worker in sight has the task.
        SubmitRejected: it was not accepted.
        RuntimeError: called in a running asyncio loop, or inside a task.
    """
    check_blocking(where)
    options: Mapping[str, Any] = prepared.options
    for option in ("task_id", "idempotency_key", "delivery"):
        if options.get(option):
            raise ConfigError(
                f"{where}(): {option} is for one task, and a broadcast is one for each worker; "
                "leave it out"
            )
    through, call = prepared.gateway, prepared.call
    peers = workers_with(through, call.kind, names_of(destination), timeout)
    if not peers:
        named = f" named {' or '.join(to)}" if (to := names_of(destination)) else ""
        raise NoWorkers(f"{where}(): no worker{named} in sight has this task (zmqtasks status)")
    results: BroadcastResult[Any] = BroadcastResult.of_submitted(app, through)  # type: ignore[assignment]
    results.workers = names_apart(peers)
    submit_to(through, peers, call, results, options=prepared)
    return results


def submit_to(
    through: Gateway, peers: Sequence[Hello], call: Call, results: ResultSet[Any],
    options: Prepared | None = None,
) -> None:  # fmt: skip
    """Submit a call once for each of these workers."""
    ids = through.new_ids(len(peers))
    calls = [
        call._replace(id=task_id, kind=for_worker(call.kind, peer))
        for task_id, peer in zip(ids, peers, strict=True)
    ]
    results.extend(ids)
    more: dict[str, Any] = {"durability": options.durability} if options is not None else {}
    try:
        through.submit(calls, results, **more)
    except BaseException:
        results.retract(len(ids))
        raise
    results.built()
