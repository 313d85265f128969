"""Makes a node a beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zmqtasks.core.beat import Beat, BeatEntry
from zmqtasks.core.beatpeers import BEAT_KEY, BeatPeers
from zmqtasks.core.mesh import MeshNode
from zmqtasks.core.tickquestions import TickQuestions
from zmqtasks.core.ticks import TickLedger
from zmqtasks.wire.beat import BeatRecord


def add_beat(
    mesh: MeshNode, mesh_name: str, app: str, since_ms: int, entries: Sequence[BeatEntry],
    records: Iterable[BeatRecord] = (),
) -> Beat:  # fmt: skip
    """Let this node start ticks, too; before it has links.

    Args:
        mesh: the machines of the node.
        mesh_name: which the ids of tasks are made of.
        app: name of the application.
        since_ms: now, by the wall clock: who begins first leads.
        entries: of the application.
        records: what was known of ticks when a beat ran here last.
    """
    node = mesh.hello.node
    mesh.hello.ext[BEAT_KEY] = [app, since_ms]
    ledger = TickLedger(mesh_name, app)
    names = {entry.name for entry in entries}
    ledger.merge(record for record in records if record.name in names)
    questions = TickQuestions(
        mesh.inquiry, lambda ids, now_ms: mesh.ask(ids, True, now_ms, dials=False)
    )
    dispatcher = mesh.dispatcher
    assert dispatcher is not None, "a beat owns tasks"
    peers = BeatPeers(node, app, since_ms)
    beat = Beat(node, ledger, peers, entries, questions, dispatcher.tasks.__contains__)
    mesh.add_beat(beat)
    return beat
