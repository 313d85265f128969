"""Ends tasks wherever they are: asks the owner of each, then everybody who has not been asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from zmqtasks.ids import format_task_id, owner_of, parse_task_id
from zmqtasks.node.survey import Request, SeenNode

#: What an owner says of a task, the best answer first. "given": it is another node's now.
_ANSWERS = ("revoked", "running", "settled", "given", "unknown")
_DECIDED = frozenset(_ANSWERS[:3])
#: Ids in one order: a message of some 20 KiB.
_IDS_MAX = 1_000

Ask = Callable[[Request, float], list[SeenNode]]


class Said(NamedTuple):
    """What came of it."""

    #: {task id as text: one of the answers, or "unanswered"}.
    states: dict[str, str]
    #: {node: why there is no answer}.
    unanswered: dict[str, str]
    #: So many more have one of the headers, and were revoked too.
    left_out: int = 0


def revoke_tasks(ask: Ask, ids: Sequence[str], args: Mapping[str, Any], timeout_s: float) -> Said:
    """Cancel these tasks.

    Args:
        ask: gives a request to nodes, see ``Gateway.command``.
        ids: of the tasks, as people write them.
        args: ``terminate`` and ``signal``.
        timeout_s: seconds for each round of questions.
    """
    states: dict[str, str] = {}
    silent: dict[str, str] = {}
    wanted = list(dict.fromkeys(parse_task_id(text) for text in ids))
    for first in range(0, len(wanted), _IDS_MAX):
        piece = wanted[first : first + _IDS_MAX]
        found = dict.fromkeys(piece, "unknown")
        owners = frozenset(owner_of(task_id) for task_id in piece)
        _merge(found, ask(_order(piece, args, owners), timeout_s), silent)
        left = [task_id for task_id in piece if found[task_id] not in _DECIDED]
        if left:
            silent.clear()
            _merge(found, ask(_order(left, args, None), timeout_s), silent)
        for task_id, state in found.items():
            is_open = state == "unknown" and silent
            states[format_task_id(task_id)] = "unanswered" if is_open else state
    return Said(states, silent)


def revoke_by_headers(ask: Ask, args: Mapping[str, Any], timeout_s: float) -> Said:
    """Cancel the tasks that have one of ``args["headers"]``, at all owners."""
    states: dict[bytes, str] = {}
    silent: dict[str, str] = {}
    request = Request("revoke_by_stamped_headers", (), dict(args), is_order=True)
    seen = ask(request, timeout_s)
    _merge(states, seen, silent)
    told = {format_task_id(task_id): state for task_id, state in states.items()}
    return Said(told, silent, sum((node.report or {}).get("left_out", 0) for node in seen))


def _order(
    ids: Sequence[bytes], args: Mapping[str, Any], nodes: frozenset[bytes] | None
) -> Request:
    return Request("revoke", ids, args, is_order=True, nodes=nodes)


def _merge(found: dict[bytes, str], seen: Sequence[SeenNode], silent: dict[str, str]) -> None:
    """Take the best answer for each task."""
    for node in seen:
        if node.report is None:
            silent[node.name or node.node] = node.trouble
            continue
        for key, state in (node.report.get("data") or {}).items():
            task_id = bytes.fromhex(key)
            known = found.get(task_id, "unknown")
            if state in _ANSWERS and _ANSWERS.index(state) <= _ANSWERS.index(known):
                found[task_id] = state
