"""Which tasks the attempts that run here submit, for ``result.children``."""

from __future__ import annotations

from collections.abc import Sequence

from zmqtasks.core.resultlog import CHILDREN_KEY
from zmqtasks.limits import CHILDREN_TOLD_MAX
from zmqtasks.pools.protocol import RunTask

#: Threads that outlive their attempts leave entries behind; attempts at once are far fewer.
_ATTEMPTS_MAX = 10_000

#: {(id, attempt): ids}, of attempts that have not ended.
submitted: dict[tuple[bytes, int], list[bytes]] = {}


def note(run: RunTask, ids: Sequence[bytes]) -> None:
    """This attempt has submitted these; the first ones are told."""
    if len(submitted) >= _ATTEMPTS_MAX:
        submitted.clear()
    found = submitted.setdefault((run.id, run.attempt), [])
    found += ids[: CHILDREN_TOLD_MAX - len(found)]


def taken(run: RunTask) -> dict[str, bytes]:
    """What its outcome tells of them; from here on nothing is known of this attempt."""
    found = submitted.pop((run.id, run.attempt), None)
    return {CHILDREN_KEY: b"".join(found)} if found else {}
