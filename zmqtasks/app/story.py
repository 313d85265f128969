"""What is known of a task, for people and for programs: ``AsyncResult.story()``.

Nodes tell plain facts; here they become one account. The owner's word counts, since it
alone decides about the task; what others add is where an attempt is, and what befell it
with earlier owners.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from zmqtasks.app import states
from zmqtasks.ids import format_task_id
from zmqtasks.node.gateway import TaskView
from zmqtasks.wire.messages import Outcome, Status, TaskState

#: Facts that are the same wherever they come from, and those that only the node that knows
#: best is asked for: with others they may be out of date.
_NAMES = ("name", "app", "queue")
_FACTS = ("attempt", "strikes", "durability", "written", "worker", "why")
#: Who knows best.
_RANKS = {"owner": 1, "holder": 2}
_NODE = re.compile(r"\b[0-9a-f]{16}\b")
_WIDTH = 9


class Story:
    """Where a task is, who owns it, each attempt that came to nothing, and why it waits.

    ``print(story)`` shows it; the attributes are for programs. What nobody tells is None.
    """

    def __init__(self, view: TaskView) -> None:
        record = view.record
        #: The task's id.
        self.id = format_task_id(record.id)
        told = sorted(view.told, key=lambda pair: _rank(pair[1]))
        best: Mapping[str, Any] = told[0][1] if told else record.info
        facts: dict[str, Any] = {key: best.get(key) for key in _FACTS}
        for key in _NAMES:
            given = [story.get(key) for story in (*(story for _, story in told), record.info)]
            facts[key] = next((value for value in given if value), None)
        #: Name of the task, of its App, and the queue.
        self.name: str | None = facts["name"]
        self.app: str | None = facts["app"]
        self.queue: str | None = facts["queue"]
        #: Number of the present or last attempt, from 1.
        self.attempt: int | None = facts["attempt"]
        #: How often a worker or child died while running it.
        self.strikes: int | None = facts["strikes"]
        #: "memory" or "disk", and whether it is in its owner's journal.
        self.durability: str | None = facts["durability"]
        self.written: bool | None = facts["written"]
        #: Name of the worker that has it, or whose outcome counts.
        self.worker: str | None = facts["worker"]
        #: Why it does not run.
        self.why: str | None = _named(facts["why"] or self._why_there(told), view.names)
        outcome = record.outcome if record.state == TaskState.SETTLED else None
        self._ended = outcome
        #: PENDING, STARTED, SUCCESS and so on, see ``zmqtasks.states``.
        self.state = _state(record.state, outcome, told)
        #: Name of the node that owns it, None if it has ended or nobody says so.
        self.owner = next((name for name, story in told if _rank(story) == 0), None)
        #: Its owner hands over what it owns and is about to leave.
        self.is_draining = any(_rank(story) == 0 and "draining" in story for _, story in told)
        #: When the attempt that counts began (seconds since 1970), how long it took.
        self.started: float | None = None
        self.run_s: float | None = None
        #: What it failed with, in short.
        self.error: str | None = None
        if outcome is not None:
            self._take_ending(outcome)
        #: What happened, oldest first: each a dict with ``at`` (seconds since 1970),
        #: ``node``, ``event`` and further facts.
        self.lines = _lines(told)
        #: {name of a node: what it told}, as it came.
        self.told = {name: dict(story) for name, story in view.told}

    def _why_there(self, told: list[tuple[str, Mapping[str, Any]]]) -> str | None:
        """What the worker says that has this attempt and does not run it."""
        for _, story in told:
            if story.get("role") == "holder" and story.get("attempt") == self.attempt:
                return story.get("why")
        return None

    def _take_ending(self, outcome: Outcome) -> None:
        ext = outcome.ext or {}
        self.attempt = outcome.attempt
        self.worker = ext.get("w") or self.worker
        self.error = ext.get("e")
        self.why = None
        if outcome.started_ms:
            self.started, self.run_s = outcome.started_ms / 1000, outcome.run_us / 1e6

    @property
    def is_known(self) -> bool:
        """False when nobody in the mesh knows such a task."""
        return bool(self.told) or self.state != states.UNKNOWN

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    def __str__(self) -> str:
        """Everything as text, in several lines."""
        if not self.is_known:
            return f"task {self.id} is known to nobody: a wrong id, or it ended long ago"
        of = f" of app '{self.app}'" if self.app else ""
        queue = f", queue '{self.queue}'" if self.queue else ""
        title = f": {self.name}{of}{queue}" if self.name else ""
        rows = [
            ("state", self._state_text()),
            ("owner", self._owner_text()),
            ("worker", self._worker_text()),
            ("waits", reason_text(self.why) if self.why and not self._ended else ""),
            ("error", self.error or ""),
            ("kept", self._kept_text()),
            ("known to", ", ".join(self.told) if not self.owner else ""),
        ]
        lines = [f"task {self.id}{title}"]
        lines += [f"  {label + ':':<{_WIDTH}} {text}" for label, text in rows if text]
        if self.lines:
            lines += ["  what happened:", *(f"    {line_text(line)}" for line in self.lines)]
        return "\n".join(lines)

    __repr__ = __str__

    def _state_text(self) -> str:
        attempt = f", attempt {self.attempt}" if self.attempt and not self._ended else ""
        strikes = self.strikes
        deaths = "" if not strikes else f", {strikes} {'strike' if strikes == 1 else 'strikes'}"
        return self.state + attempt + deaths

    def _owner_text(self) -> str:
        leaves = ", which is draining: it hands over what it owns" if self.is_draining else ""
        return self.owner + leaves if self.owner else ""

    def _worker_text(self) -> str:
        if self._ended is None:
            waits = ", which has not started it yet" if self.state == states.RECEIVED else ""
            return self.worker + waits if self.worker else ""
        if self.started is None:  # an outcome that its owner has made
            return ""
        return (
            f"{self.worker or 'a worker'} ran attempt {self.attempt} at "
            f"{time_text(self.started)} for {duration_text(self.run_s or 0.0)}"
        )

    def _kept_text(self) -> str:
        if any(
            story.get("state") == states.DEAD and "reason" in story for story in self.told.values()
        ):
            return f"with its arguments; zmqtasks dead retry {self.id} runs it again"
        if self._ended is not None or self.durability is None:
            return ""
        if self.durability == "disk":
            return "on disk, synced (durability 'disk')"
        where = "journal" if self.written else "memory"
        return f"in its owner's {where} (durability 'memory')"


def _rank(story: Mapping[str, Any]) -> int:
    """0 for the owner of an open task, then the one that has settled it, then others."""
    rank = _RANKS.get(str(story.get("role")), 3)
    return 0 if rank == 1 and story.get("state") in (states.PENDING, states.STARTED) else rank


def _state(state: int, outcome: Outcome | None, told: list[tuple[str, Mapping[str, Any]]]) -> str:
    if outcome is not None:
        return states.STATE_OF_STATUS.get(outcome.status, states.FAILURE)
    for _, story in told:
        found = story.get("state")
        if found == Status.DEAD.name:
            return states.DEAD
        if found == states.PENDING:
            return states.pending_state(story)
        if found in states.ALL_STATES and found != states.UNKNOWN:
            return str(found)
        if found == TaskState.UNSETTLED.name:
            return states.STARTED
    return states.STATE_OF_OPEN.get(state, states.PENDING)


def _lines(told: list[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    # Ids of nodes stay ids: who has such an id now may have got it with a journal since.
    lines = [
        {
            "at": line.get("at_ms", 0) / 1000,
            "node": name,
            **{key: value for key, value in line.items() if key != "at_ms"},
        }
        for name, story in told
        for line in story.get("lines", ())
    ]
    return sorted(lines, key=lambda line: line["at"])


def _named(value: Any, names: Mapping[str, str]) -> Any:
    """A text with the ids of known nodes replaced by their names."""
    if not isinstance(value, str):
        return value
    return _NODE.sub(lambda found: names.get(found[0], found[0]), value)


# --- words ------------------------------------------------------------------------------


def line_text(line: Mapping[str, Any]) -> str:
    """One line of a story: when, where, what."""
    event, facts = str(line.get("event", "")), {
        key: value
        for key, value in line.items()
        if key not in ("at", "at_ms", "node", "event", "left_out")
    }  # fmt: skip
    at = line["at"] if "at" in line else line.get("at_ms", 0) / 1000
    node = f"  {line['node']}:" if line.get("node") else ""
    left_out = " (others before it are left out)" if line.get("left_out") else ""
    return f"{time_text(at)}{node}  {_event_text(event, facts)}{left_out}"


def _event_text(event: str, facts: dict[str, Any]) -> str:
    attempt = facts.get("attempt")
    if event == "lost":
        strike = "; a strike, since it was running" if facts.get("strike") else ""
        return f"attempt {attempt} came to nothing: {facts.get('reason')}{strike}"
    if event == "refused":
        return f"a late outcome of attempt {attempt} was refused"
    if event == "given":
        return f"handed over to {_node_text(facts.get('to'))}, which owns it from here on"
    if event == "taken":
        return f"taken over from {_node_text(facts.get('of'))}, at attempt {attempt}"
    if event == "given up":
        return f"left to {_node_text(facts.get('to'))}, which owns it all the same"
    if event == "other content":
        node = _node_text(facts.get("other"))
        return f"{node} had a call with this id and other content, which is not run"
    if event in ("retry", "requeue"):
        delay = f", in {duration_text(facts['in_ms'] / 1000)}" if facts.get("in_ms") else ""
        if event == "requeue":
            return f"attempt {attempt} was {facts.get('error') or 'rejected'}{delay}"
        why = f" after {facts['error']}" if facts.get("error") else ""
        return f"attempt {attempt} asked for a retry{why}{delay}"
    if event == "cancel":
        return "it is to be cancelled" + (", also if it runs" if facts.get("terminate") else "")
    if event == "resumed":
        return f"found in the journal after a restart, at attempt {attempt}"
    if event == "retried":
        return f"submitted anew by hand, in place of dead task {_id_text(facts.get('of'))}"
    words = ", ".join(f"{key} {value}" for key, value in facts.items())
    return f"{event}: {words}" if words else event


def _node_text(value: object) -> str:
    """A node by its name, or "node" and its id."""
    return f"node {value}" if _NODE.fullmatch(str(value)) else str(value)


def _id_text(value: object) -> str:
    try:
        return format_task_id(bytes.fromhex(str(value)))
    except ValueError:
        return str(value)


def reason_text(why: str) -> str:
    """Why something waits, without the name of the task that it begins with."""
    return why.partition(" waits: ")[2] or why


def time_text(seconds: float) -> str:
    """A time as people here read it: local, to the millisecond."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "milliseconds")[:23]


def duration_text(seconds: float) -> str:
    """How long, with as many digits as matter."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"
