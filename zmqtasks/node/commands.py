"""What nodes can be asked and told: one table for nodes, Python and the command line.

The names are Celery's. Which nodes answer follows from ``roles``: a question about pools is
none for a store, and everybody may own tasks.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_WORKERS: Final = frozenset({"worker"})
#: Whatever ``zmqtasks node`` starts.
_NODES: Final = frozenset({"worker", "store", "broker", "beat"})
_BEATS: Final = frozenset({"beat"})
_EVERYBODY: Final[frozenset[str]] = frozenset()
#: Entries of one list in an answer, which is one message.
TOLD_COUNT_MAX: Final = 1_000


class Param(NamedTuple):
    """One argument of a command."""

    name: str
    about: str
    type: type[str] | type[int] | type[float] | type[bool] = str
    is_required: bool = True
    #: On the command line it is this option, with its value, and not at a position.
    flag: str = ""


class Command(NamedTuple):
    """Something that nodes answer, or do."""

    name: str
    #: In words, for ``--help`` and the reference.
    about: str
    #: Nodes with one of these answer; empty: everybody, applications too.
    roles: frozenset[str]
    params: tuple[Param, ...] = ()
    #: It is about tasks, by their ids.
    has_ids: bool = False


_TASK = Param("task_name", "Name of the task.")
_QUEUE = Param("queue", "Name of the queue.")
_COUNT = Param("n", "How many (1).", int, is_required=False)

_ENTRY: Final = (
    Param("entry", "Name of the entry."),
    Param("at_ms", "When it was ordered, in ms since 1970 (now); the latest order holds.",
          int, is_required=False, flag="--at-ms MS"),
    Param("of_app", "Of this application only.", is_required=False, flag="--of APP"),
)  # fmt: skip

#: {name: command} of ``inspect``.
INSPECT: Final = {
    command.name: command
    for command in (
        Command("ping", "Who is there.", _NODES),
        Command("active", "Tasks that run.", _WORKERS),
        Command("reserved", "Tasks that wait at workers for a free slot.", _WORKERS),
        Command("scheduled", "Tasks that wait at their owners until they are due.", _EVERYBODY),
        Command("revoked", "Ids of the tasks that their owners cancelled last.", _EVERYBODY),
        Command(
            "registered",
            "Names of the tasks that workers have.",
            _WORKERS,
            (
                Param(
                    "builtins",
                    "Those that every application has, and its commands, too.",
                    bool,
                    is_required=False,
                    flag="--builtins",
                ),
            ),
        ),
        Command("stats", "Numbers: uptime, memory, slots, tasks that ended.", _NODES),
        Command("active_queues", "Queues that workers serve.", _WORKERS),
        Command("query_task", "Who has these tasks, and what they do.", _EVERYBODY, has_ids=True),
        Command("beat", "Periodic tasks, and what became of their ticks.", _BEATS),
        Command("conf", "Settings, without passwords.", _NODES),
        Command("report", "Versions, system and settings as text, for a report.", _NODES),
    )
}

#: {name: command} of ``control``. Those that end tasks are carried out by ``revoking``.
CONTROL: Final = {
    command.name: command
    for command in (
        Command(
            "rate_limit", "Limit how often each worker starts a task, or all of them together.",
            _WORKERS,
            (
                _TASK,
                Param("rate_limit", "Of each: 10/s, 100/m, 5/h, a number a second; 0: no limit.",
                      is_required=False),
                Param("mesh_rate_limit", "The same for all workers together.", is_required=False,
                      flag="--mesh-rate-limit RATE"),
            ),
        ),
        Command(
            "time_limit", "Change the time limits of a task; 0: none.", _WORKERS,
            (
                _TASK,
                Param("soft", "Seconds until SoftTimeLimitExceeded.", float, is_required=False),
                Param("hard", "Seconds until it is ended.", float, is_required=False),
            ),
        ),
        Command("add_consumer", "Serve one more queue.", _WORKERS, (_QUEUE,)),
        Command("cancel_consumer", "Serve a queue no longer.", _WORKERS, (_QUEUE,)),
        Command("pool_grow", "Run more tasks at once.", _WORKERS, (_COUNT,)),
        Command("pool_shrink", "Run fewer tasks at once.", _WORKERS, (_COUNT,)),
        Command(
            "autoscale", "Run so many tasks at once, by what there is to do.", _WORKERS,
            (
                Param("max", "At most.", int),
                Param("min", "At least (1).", int, is_required=False),
            ),
        ),
        Command("beat_pause", "Start a periodic task no more until it is resumed.", _BEATS, _ENTRY),
        Command("beat_resume", "Start a periodic task again when it is due.", _BEATS, _ENTRY),
        Command("beat_run", "Start a periodic task now, once.", _BEATS, _ENTRY),
        Command("shutdown", "Finish what runs, then leave the mesh.", _NODES),
    )
}  # fmt: skip

#: Celery's commands that have no meaning here: {name: what there is instead}.
INSTEAD: Final = {
    "enable_events": "nothing has to be switched on: `zmqtasks status` and inspect answer always",
    "disable_events": "nothing is sent that nobody asked for",
    "heartbeat": "nodes hear each other all the time; inspect ping shows who is there",
    "election": "there is no leader: each task has its own owner (zmqtasks story ID)",
    "clock": "nodes share no clock",
    "memsample": "inspect stats has the memory of a node",
    "memdump": "inspect stats has the memory of a node",
    "objgraph": "inspect stats has the memory of a node",
    "hello": "nodes find each other; `zmqtasks status` shows how",
    "purge": "revoke tasks by id or header; there is no queue that lies around without an owner",
    "discard_all": "revoke tasks by id or header",
    "pool_restart": "stop the node and start it again; its tasks go on elsewhere meanwhile",
}
