"""What a node tells of the tasks in its custody, and what people may order for dead ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from zmqtasks.core.links import DRAINING
from zmqtasks.ids import foreign_task_id_maker
from zmqtasks.wire.messages import TaskState

if TYPE_CHECKING:
    from zmqtasks.node.runtime import Runtime

#: Of what a node knows about a task that it does not own, this is for people.
_FACTS = frozenset(("name", "queue", "attempt", "worker", "why"))
#: Whoever gave the task away, or has it on offer, says so.
_HEARSAY = frozenset(("taker", "offer"))
#: Dead tasks told in one answer, which is one message: half a megabyte or so.
_TOLD_COUNT_MAX = 1_000


class Custodian:
    """Answers INSPECT and ORDER for one node; on its loop's thread only."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._make_id: Callable[[], bytes] | None = None

    def inspected(self, what: str, ids: Sequence[bytes]) -> dict[str, Any]:
        """The answer to INSPECT: plain data.

        Args:
            what: "story" of these tasks; "dead" for the dead tasks of these ids, or for all
                of them without their stories; "workers" for those that this node is linked
                to; else the node describes itself.
        """
        if what == "workers":
            return {"workers": self._workers()}
        if what == "story":
            found = {task_id.hex(): self.story_of(task_id) for task_id in ids}
            return {"stories": {key: story for key, story in found.items() if story}}
        if what == "dead":
            return self._dead(ids)
        return self._runtime.describe()

    def story_of(self, task_id: bytes) -> dict[str, Any] | None:
        """What this node knows of the task; None if it does not know it.

        Keys: those of ``core.ownerview.story_of``, and ``role``: "owner", "holder" for a
        node that has an attempt or an outcome of it and does not decide about it, or
        "hearsay" for one that owned it before, or may come to own it; ``draining``, True
        while this node hands over what it owns and is about to leave.
        """
        mesh = self._runtime.mesh
        leaves = {"draining": True} if DRAINING in mesh.hello.ext else {}
        told = mesh.dispatcher.story_of(task_id) if mesh.dispatcher is not None else None
        if told is not None and "state" in told:
            return {"role": "owner", **leaves, **told}
        lines = told["lines"] if told is not None else []
        record = mesh.answers.local(task_id)
        if record.state == TaskState.UNKNOWN and not lines:
            return None
        is_hearsay = lines or not _HEARSAY.isdisjoint(record.info)
        story = {
            "role": "hearsay" if is_hearsay else "holder",
            "state": TaskState(record.state).name,
            **leaves,
            **{key: value for key, value in record.info.items() if key in _FACTS},
        }
        entry = mesh.log.entries.get(mesh.log.positions.get(task_id, -1))
        if entry is not None and entry.kind is not None:
            kind = entry.kind
            story |= {"name": kind.name, "app": kind.app, "queue": kind.queue}
        return {**story, "lines": lines}

    def _workers(self) -> list[dict[str, Any]]:
        """The linked workers by what they run: ``names`` of all that have the same ``queues``
        and ``tasks``, pairs of app and name."""
        alike: dict[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], list[str]] = {}
        for link in self._runtime.mesh.membership.links.values():
            peer = link.peer
            if peer is not None and link.is_open and peer.slots and DRAINING not in peer.ext:
                tasks = tuple((entry.app, entry.name) for entry in peer.catalog)
                names = alike.setdefault((tuple(peer.queues), tasks), [])
                if peer.name not in names:
                    names.append(peer.name)
        return [
            {"names": names, "queues": list(queues), "tasks": [list(task) for task in tasks]}
            for (queues, tasks), names in alike.items()
        ]

    def _dead(self, ids: Sequence[bytes]) -> dict[str, Any]:
        dispatcher = self._runtime.mesh.dispatcher
        if dispatcher is None:
            return {"dead": [], "count": 0}
        dead = dispatcher.dead
        if ids:
            told = [task.describe() for task in map(dead.get, ids) if task is not None]
        else:
            told = dead.describe()[:_TOLD_COUNT_MAX]
            for task in told:
                del task["story"]  # the whole of it must fit into one message
        return {"dead": told, "count": len(dead)}

    def ordered(self, what: str, ids: Sequence[bytes]) -> dict[str, Any]:
        """Carry an ORDER out; the answer is plain data.

        ``done`` maps the ids of dead tasks that were here to that of the new task
        ("dead.retry") or "" ("dead.drop"); ``trouble`` says what is wrong with the order.
        """
        dispatcher = self._runtime.mesh.dispatcher
        done: dict[str, str] = {}
        if what not in ("dead.retry", "dead.drop"):
            return {"done": done, "trouble": f"the order {what!r} is unknown to this node"}
        for task_id in ids if dispatcher is not None else ():
            assert dispatcher is not None
            if what == "dead.drop":
                if dispatcher.drop_dead(task_id):
                    done[task_id.hex()] = ""
                continue
            new_id = self._new_id()
            if dispatcher.retry_dead(task_id, new_id, self._runtime.now_ms):
                done[task_id.hex()] = new_id.hex()
        return {"done": done, "trouble": ""}

    def _new_id(self) -> bytes:
        """An id in this node's name, from a maker that nothing else here uses."""
        if self._make_id is None:
            self._make_id = foreign_task_id_maker(self._runtime.node)
        return self._make_id()
