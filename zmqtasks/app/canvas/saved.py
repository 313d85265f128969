"""Groups that stores keep: which tasks are members, and what came before them.

A saved group is kept like a result, as the value of a task of that id which never was. So
every store has it, it expires with the results, and is found wherever they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from zmqtasks.app.canvas.result import GroupResult, StepResult
from zmqtasks.app.control import check_blocking
from zmqtasks.app.current import current_app, gateway
from zmqtasks.app.lineage import AnyResult
from zmqtasks.app.result import AsyncResult, AtMostOnceResult
from zmqtasks.errors import TimeoutError
from zmqtasks.ids import format_task_id, parse_task_id
from zmqtasks.wire.messages import Kind, Status, TaskState
from zmqtasks.wire.payload import decode_value, encode_value

if TYPE_CHECKING:
    from zmqtasks.app.app import App

#: What it is in lists of results.
KIND_NAME = "zmqtasks.group"
_ID_BYTES = 16


class _Saved:
    """A group as it was saved, and its results made of that.

    Args:
        app: to ask through.
        told: ``members`` {id of a group: ids of its members, one after the other}, ``parents``
            {id: id of what it waited for}, ``loose`` ids of calls sent at most once.
    """

    def __init__(self, app: App, told: dict[str, Any]) -> None:
        self._app = app
        self._members: dict[bytes, bytes] = told["members"]
        self._parents: dict[bytes, bytes] = told["parents"]
        self._loose = frozenset(_split(told["loose"]))

    def result(self, part_id: bytes) -> AnyResult:
        """That of a group or task."""
        members = self._members.get(part_id)
        if members is None:
            return self._handle(part_id)
        handles = [self._handle(task_id) for task_id in _split(members)]
        found: GroupResult[Any] = GroupResult(format_task_id(part_id), handles, self._app)
        found.find_parent = partial(self._parent_of, part_id)
        return found

    def _handle(self, task_id: bytes) -> AsyncResult[Any]:
        text = format_task_id(task_id)
        if task_id in self._loose:
            return AtMostOnceResult(text, self._app)
        if task_id not in self._parents:
            return AsyncResult(text, self._app)
        found: StepResult[Any] = StepResult(text, self._app)
        found._parent_of = self._parent_of
        found._followers_of = lambda _: []
        return found

    def _parent_of(self, part_id: bytes) -> AnyResult | None:
        before = self._parents.get(part_id)
        return None if before is None else self.result(before)


def save(group: GroupResult[Any], timeout: float) -> None:
    """See ``GroupResult.save``."""
    check_blocking("GroupResult.save")
    app = group.the_app()
    kind = Kind(app.name, KIND_NAME, "", "")
    gateway(app).keep(kind, group.group_id, encode_value(_told_of(group)), timeout)


def restore(text: str, app: App | None, timeout: float) -> GroupResult[Any] | None:
    """See ``GroupResult.restore``."""
    check_blocking("GroupResult.restore")
    app = app or current_app()
    group_id = parse_task_id(text)
    record = gateway(app).states([group_id], timeout).get(group_id)
    if record is not None and record.state == TaskState.UNKNOWN:
        return None
    if record is None or record.state != TaskState.SETTLED or record.outcome is None:
        raise TimeoutError(
            f"group {text} is not restored: not all nodes that may know it answered within "
            f"{timeout:g} s"
        )
    outcome = record.outcome
    assert isinstance(outcome.body, bytes), "the gateway gives outcomes with their bodies"
    told = decode_value(outcome.body) if outcome.status == Status.SUCCESS else None
    if not isinstance(told, dict) or group_id not in told.get("members", ()):
        raise ValueError(f"{text} is the id of a task, not of a group that was saved")
    found = _Saved(app, told).result(group_id)
    assert isinstance(found, GroupResult), "it is among the members' groups"
    return found


def delete(group: GroupResult[Any]) -> None:
    """See ``GroupResult.delete``."""
    gateway(group.the_app()).forget([group.group_id])


def _told_of(group: GroupResult[Any]) -> dict[str, Any]:
    members: dict[bytes, bytes] = {}
    parents: dict[bytes, bytes] = {}
    loose: set[bytes] = set()
    seen: set[bytes] = set()
    open_ones: list[AnyResult] = [group]
    while open_ones:
        each = open_ones.pop()
        part_id = _id_of(each)
        if part_id in seen:
            continue
        seen.add(part_id)
        if isinstance(each, GroupResult):
            members[part_id] = b"".join(each._ids)
            loose |= each._loose
            # Who has parents has a handle; of others there need not be any.
            open_ones += each._handles.values()
        before = each.parent
        if before is not None:
            parents[part_id] = _id_of(before)
            open_ones.append(before)
    return {"members": members, "parents": parents, "loose": b"".join(sorted(loose))}


def _id_of(found: AnyResult) -> bytes:
    return found.group_id if isinstance(found, GroupResult) else parse_task_id(found.id)


def _split(ids: bytes) -> Iterator[bytes]:
    return (ids[at : at + _ID_BYTES] for at in range(0, len(ids), _ID_BYTES))
