"""One message of each type, with every kind of field in use."""

from __future__ import annotations

from zmqtasks.wire.messages import (
    Ack,
    Bye,
    CatalogEntry,
    Credit,
    Demand,
    Done,
    Error,
    Forget,
    Heartbeat,
    Hello,
    Inspect,
    Kind,
    Message,
    Nak,
    Outcome,
    PubHead,
    PubResults,
    Query,
    Rack,
    Reject,
    Replay,
    Report,
    Results,
    Settled,
    Started,
    StateRecord,
    States,
    Submit,
    Submitted,
    TaskRecord,
    Tasks,
    Trimmed,
    VerdictRecord,
    Welcome,
)

TASK = bytes(range(16))
NODE = b"node-one"
KIND = Kind("shop", "tasks.add", "d1", "default", (("sig", "(x, y)"),))
OUTCOME = Outcome(TASK, 1, 0, 7, 0, 1_700_000_000_000, 250, 5, b"value", {"w": "worker"})
VERDICT = VerdictRecord(TASK, 1, 1, 8)

SAMPLES: list[Message] = [
    Hello(
        NODE, 1, 2, 3, 4, b"meshhash", 1, 1, [], "host-1", ["worker"], b"host", 42,
        ["ipc:///run/x.r"], ["ipc:///run/x.p"], ["ipc:///run/x.l"], 2, ["default"],
        [CatalogEntry("shop", "tasks.add", "d1", "(x, y)")], {"v": "1.0"},
    ),
    Welcome(2, 3, 4, 1),
    Heartbeat(1_000, 900, 50, 12, 7, 3, 2, {"s": 6}),
    Bye("drained"),
    Error(1, "another mesh"),
    Ack(),
    Nak(11),
    Tasks([KIND], [TaskRecord(0, TASK, 2, b"args", {"o": NODE})], 100),
    Demand(100),
    Settled([(1, 5), (7, 7)], [6]),
    Submitted(9, ""),
    Credit(64),
    Reject([(TASK, 1, 2)], "the worker is draining", 64),
    Started([(TASK, 1)]),
    Done(64, [OUTCOME]),
    Submit(9, TASK, [KIND], [TaskRecord(0, TASK[::-1], 1, b"args", {"p": TASK})]),
    Rack(8),
    Replay(1, 8, True),
    Results([KIND], [OUTCOME], [VERDICT], 7, 8, True),
    Trimmed(6),
    PubResults(NODE, 1, [KIND], [OUTCOME], [VERDICT]),
    PubHead(NODE, 1, 8),
    Query(3, [TASK], True),
    States(3, [StateRecord(TASK, 3, {"name": "tasks.add"}, OUTCOME)], True),
    Forget([TASK]),
    Inspect(4, "status"),
    Report(4, {"node": "x", "load": [1, 2]}),
]  # fmt: skip
