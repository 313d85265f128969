"""Why nobody can run a task, in one sentence that names what is there instead."""

from __future__ import annotations

from collections.abc import Sequence

from zmqtasks.core.requirements import explain_misfit, offer_of
from zmqtasks.wire.messages import Hello, Kind

#: Nodes are still being found in the first moments: no warning before this. By multicast
#: that may take more than a second, see ``node/finding.py``.
WARN_AFTER_MS = 2_000
_NAMES_MAX = 8
#: Commands of applications are tasks with such names, which nobody calls by hand.
_COMMANDS = ("zmqtasks.control.", "zmqtasks.inspect.")


def is_command(task: str) -> bool:
    """The task of this name is a command of an application, see ``app/commands.py``."""
    return task.startswith(_COMMANDS)


def is_internal(task: str) -> bool:
    """It is a command, or a task that every application has, see ``app/builtin.py``."""
    return task.startswith("zmqtasks.")


def explain_waiting(kind: Kind, workers: Sequence[Hello]) -> str:
    """The reason why no present worker can run tasks of this kind."""
    what = f"task '{kind.name}' (app '{kind.app}', queue '{kind.queue}') waits"
    if not workers:
        return f"{what}: no worker is in sight; it runs when one joins"
    same_app = [w for w in workers if any(entry.app == kind.app for entry in w.catalog)]
    knowing = [
        (worker, entry)
        for worker in workers
        for entry in worker.catalog
        if entry.app == kind.app and entry.name == kind.name
    ]
    if not knowing:
        elsewhere = sorted(
            {e.app for w in workers for e in w.catalog if e.name == kind.name and e.app != kind.app}
        )
        if elsewhere:
            return (
                f"{what}: workers know '{kind.name}' only of app {_quoted(elsewhere)}, "
                "and tasks of different apps do not mix"
            )
        return f"{what}: no present worker knows it{_offers(kind, same_app or list(workers))}"
    matching = [
        worker
        for worker, entry in knowing
        if not kind.digest or not entry.digest or entry.digest == kind.digest
    ]
    if not matching:
        theirs = sorted({entry.signature for _, entry in knowing})
        here = dict(kind.ext).get("sig", "")
        return (
            f"{what}: its signature here is {kind.name}{here}, but workers have "
            + " and ".join(f"{kind.name}{signature}" for signature in theirs)
            + "; restart the side with the older code"
        )
    serving = [worker for worker in matching if kind.queue in worker.queues]
    misfit = explain_misfit(kind, [(w.node, offer_of(w.ext)) for w in serving])
    if serving and misfit:
        return f"{what}: {misfit}"
    queues = sorted({queue for worker in matching for queue in worker.queues})
    return (
        f"{what}: no present worker that knows the task serves queue '{kind.queue}'; "
        f"they serve {_quoted(queues)}"
    )


def _offers(kind: Kind, workers: Sequence[Hello]) -> str:
    known = {entry.name for worker in workers for entry in worker.catalog}
    names = sorted(name for name in known if not is_internal(name))
    if not names:
        return "; they have no tasks at all"
    from difflib import get_close_matches  # only when something is wrong

    near = get_close_matches(kind.name, names, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
    return f"; they know {_quoted(names[:_NAMES_MAX])}{more}{hint}"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
