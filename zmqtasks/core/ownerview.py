"""What an owner can say about its tasks: states, stories, numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zmqtasks.core.lanes import RETRIES_KEY, OwnedTask, count_in
from zmqtasks.core.owned import Durability
from zmqtasks.core.waiting import eta_of
from zmqtasks.ids import format_node, format_task_id
from zmqtasks.wire.messages import Outcome, StateRecord, Status, TaskState
from zmqtasks.words import counted

if TYPE_CHECKING:
    from zmqtasks.core.dispatcher import Dispatcher

#: {fact of a call: what it is called where its state is told}.
_TOLD = {"c": "c", "n": "retries", "eta": "eta", "exp": "expires"}
#: From so many seconds on a time is told in minutes.
_LONG_S = 600


def open_state(owner: Dispatcher, task: OwnedTask) -> StateRecord:
    """The state of a task that has not settled."""
    kind = task.lane.kind
    info: dict[str, Any] = {
        "name": kind.name, "queue": kind.queue, "attempt": task.attempt, "owned": True,
    }  # fmt: skip
    if task.worker is not None:
        info["worker"] = task.worker.peer.name
    else:
        info["why"] = why_waiting(owner, task)
    if task.ext is not None:
        info |= {shown: task.ext[key] for key, shown in _TOLD.items() if key in task.ext}
    said = owner.last_said(task.id, task.attempt)
    if said is not None:
        info |= {"state": said.state, "meta": said.meta}
    state = TaskState.STARTED if task.started or said is not None else TaskState.PENDING
    return StateRecord(task.id, state, info, None)


def why_waiting(owner: Dispatcher, task: OwnedTask) -> str:
    """Why no worker has it, in one sentence."""
    lane = task.lane
    if task.is_waiting:
        return _why_later(owner, task)
    if task.outcome is not None:
        return "it has ended, and its owner's journal is noting that"
    if task.is_noting:
        return "its owner's journal is noting it"
    if task.is_unsure:
        return "its owner was restarted and asks the workers whether one of them has it"
    if task.offered:
        return f"it is being handed to node {format_node(task.offered)}"
    if lane.route == "broker":
        return f"queue '{lane.kind.queue}' goes through a broker, and none has taken it yet"
    if not lane.workers:
        return owner.dealer.why_waiting(lane)
    if all(worker.paused for worker in lane.workers):
        return "every worker that can run it is out of reach at the moment"
    if all(lane.kind in worker.kept_back for worker in lane.workers):
        return "its rate limit is reached, or the resources that it needs are in use"
    if task in lane.ready.apart and not any(worker.takes_apart for worker in lane.workers):
        return "it waits for a worker without another task that may kill workers"
    return "every worker that can run it is busy"


def _why_later(owner: Dispatcher, task: OwnedTask) -> str:
    """Its time has not come, or that of others for which it waits."""
    missing = owner.inputs.missing_of(task.id)
    if missing:
        count = counted(len(missing), "other task")
        return f"it waits for {count}, of which the first is {format_task_id(missing[0])}"
    left_s = max(0, eta_of(task) - owner.wall_ms) / 1_000
    left = f"in {left_s:.3g} s" if left_s < _LONG_S else f"in {left_s / 60:,.0f} min"
    retries = count_in(task.ext, RETRIES_KEY)
    if not (task.is_retry or retries):
        return f"it is not to start before its eta, {left}"
    asked = [
        line for line in owner.stories.of(task.id) if line["event"] in ("retry", "requeue")
    ]  # fmt: skip
    if asked and asked[-1]["event"] == "requeue":
        return f"it was {asked[-1].get('error') or 'rejected'}, {left}"
    after = f" after {asked[-1]['error']}" if asked and asked[-1].get("error") else ""
    return f"retry {retries}{after}, {left}"


def describe(owner: Dispatcher) -> dict[str, Any]:
    """Plain data for `zmqtasks status`."""
    waiting = [
        {
            "task": lane.kind.name,
            "app": lane.kind.app,
            "queue": lane.kind.queue,
            "count": len(lane.ready),
            "why": "" if lane.workers else owner.dealer.why_waiting(lane),
        }
        for lane in owner.lanes.values()
        if lane.ready
    ]
    return {
        "open": len(owner.tasks),
        "open_bytes": owner.open_bytes,
        "scheduled": sum(task.is_waiting for task in owner.tasks.values()),
        "redelivered": owner.redelivered_count,
        "retried": owner.retried_count,
        "refused": owner.refused_count,
        "dead": len(owner.dead),
        "waiting": waiting,
    }


def story_of(owner: Dispatcher, task_id: bytes) -> dict[str, Any] | None:
    """Everything that the owner knows of a task, as plain data; None if it knows nothing.

    Keys: ``state``, ``name``, ``app``, ``queue``, ``attempt``, ``strikes``, ``worker``,
    ``why`` (it waits), ``durability``, ``written`` (it is in the journal) and ``lines``,
    each with ``at_ms`` (wall clock), ``event`` and its facts. Those that do not apply are
    left out.
    """
    lines = owner.stories.of(task_id)
    task = owner.tasks.get(task_id)
    if task is not None:
        info = open_state(owner, task).info
        return {
            "state": "STARTED" if task.started else "PENDING",
            "name": task.lane.kind.name,
            "app": task.lane.kind.app,
            "queue": task.lane.kind.queue,
            "attempt": task.attempt,
            "strikes": task.strikes,
            "durability": Durability(task.durability).name.lower(),
            "written": task.is_written,
            **{key: info[key] for key in ("worker", "why", "retries", "eta") if key in info},
            "lines": lines,
        }
    dead = owner.dead.get(task_id)
    if dead is not None:
        return {"state": "DEAD", "why": dead.reason, **dead.describe(), "lines": dead.story}
    kept = owner.kept.get(task_id)
    if kept is not None:
        return {**_ended(kept), "lines": lines}
    return {"lines": lines} if lines else None


def _ended(outcome: Outcome) -> dict[str, Any]:
    ext = outcome.ext or {}
    status = Status(outcome.status)
    return {
        "state": status.name,
        "attempt": outcome.attempt,
        "started_ms": outcome.started_ms,
        "run_us": outcome.run_us,
        **({"worker": ext["w"]} if "w" in ext else {}),
        **({"error": ext["e"]} if "e" in ext else {}),
    }
