"""Calls that come of a task, which its owner makes: errbacks of one that fails, those that take
the place of one that runs, those that join a chord.

They travel with the task, or with what its attempt says of its end, and are owned when that
counts: a worker that is lost takes none of them along, and none is made twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from zmqtasks.core.calls import Call
from zmqtasks.core.inputs import REPLACED_KEY
from zmqtasks.limits import PAYLOAD_BYTES_MAX
from zmqtasks.wire.carried import CarriedCall
from zmqtasks.wire.joined import Joined, join
from zmqtasks.wire.messages import Outcome, Status

#: Key in a task's facts: calls to make if it fails.
ERRBACKS_KEY = "eb"
#: Key in the facts of such a call, unless it wants to know nothing of that: ``[id, attempt,
#: status, facts of its outcome, app, name, queue, facts]`` of the task that failed. Its error
#: is result 0 of the joined payload, its arguments are result 1.
FAILED_KEY = "of"
#: Keys in the facts of a call that waits for others: milliseconds from then on after which it
#: is due, and after which it expires.
DUE_IN_KEY, EXPIRES_IN_KEY = "ein", "xin"
#: Key in the facts of an outcome: the task because of which this one did not run.
CAUSE_KEY = "by"

#: Longest time span, some thirty years.
_SPAN_MS_MAX = 10**12
#: How a task has to end for its errbacks to be called.
_FAILURES = frozenset(
    {
        Status.FAILURE,
        Status.RETRIES_EXHAUSTED,
        Status.TIME_LIMIT,
        Status.WORKER_LOST,
        Status.DEAD,
    }
)


def errback_calls(
    failed: Call, outcome: Outcome, carried: list[CarriedCall], wall_ms: int
) -> list[tuple[Call, bool]]:
    """Those of a call's errbacks that are called after this outcome, and which of them are to
    be on the disk."""
    if outcome.status not in _FAILURES:
        return []
    is_its_own = CAUSE_KEY not in (outcome.ext or {}) or REPLACED_KEY in (failed.ext or {})
    return [
        (errback_call(failed, outcome, each, wall_ms), each.is_durable)
        for each in carried
        if is_its_own or each.is_for_inputs
    ]


def errback_call(failed: Call, outcome: Outcome, carried: CarriedCall, wall_ms: int) -> Call:
    """The call of an errback.

    One failure makes it once, however many of the tasks that fail with it have this errback.

    Args:
        failed: the call that has failed.
        outcome: its.
        carried: the errback.
        wall_ms: now.
    """
    told = outcome.ext or {}
    first = told.get(CAUSE_KEY)
    task_id = derived_id(first if isinstance(first, bytes) else failed.id, carried.id)
    ext = timed(carried.ext, wall_ms)
    if FAILED_KEY not in ext:
        return Call(task_id, carried.kind, carried.body, ext or None)
    kind = failed.kind
    about = {key: told[key] for key in ("e", CAUSE_KEY) if key in told}
    ext[FAILED_KEY] = [
        failed.id, outcome.attempt, int(outcome.status), about, kind.app, kind.name, kind.queue,
        {key: fact for key, fact in (failed.ext or {}).items() if key != ERRBACKS_KEY},
    ]  # fmt: skip
    error = outcome.body if isinstance(outcome.body, bytes) else b""
    results = {0: error, 1: failed.body}
    left = PAYLOAD_BYTES_MAX - len(carried.body) - len(error)
    if left < len(failed.body):
        del results[1]
    if left < 0:
        results[0] = b""
    return Call(task_id, carried.kind, join(Joined(carried.body, results)), ext)


def timed(ext: Mapping[str, Any] | None, wall_ms: int) -> dict[str, Any]:
    """The facts of a call that may go from now on."""
    found = dict(ext or {})
    for span_key, key in ((DUE_IN_KEY, "eta"), (EXPIRES_IN_KEY, "exp")):
        span_ms = found.pop(span_key, None)
        if isinstance(span_ms, int) and 0 <= span_ms <= _SPAN_MS_MAX:  # it may come from anybody
            found[key] = wall_ms + span_ms
    return found


def derived_id(task_id: bytes, seed: bytes) -> bytes:
    """The id of a task that comes of this one: always the same."""
    return hashlib.blake2b(task_id + seed, digest_size=16, person=b"zmqtasks of").digest()
