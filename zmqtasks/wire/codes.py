"""The numbers of the mesh protocol: what they stand for. Source: docs/protocol.md."""

from __future__ import annotations

from enum import IntEnum


class MessageType(IntEnum):
    """The type byte of the header."""

    HELLO = 0x01
    WELCOME = 0x02
    HEARTBEAT = 0x03
    BYE = 0x04
    ERROR = 0x05
    ACK = 0x06
    NAK = 0x07
    TASKS = 0x10
    CANCEL = 0x11
    RECALL = 0x12
    DEMAND = 0x13
    RACK = 0x14
    REPLAY = 0x15
    QUERY = 0x16
    SETTLED = 0x17
    SUBMITTED = 0x18
    OFFER = 0x19
    HANDED = 0x1A
    HEIR = 0x1B
    CREDIT = 0x20
    REJECT = 0x22
    STARTED = 0x23
    DONE = 0x24
    RETRY = 0x25
    RESULTS = 0x26
    TRIMMED = 0x27
    SUBMIT = 0x28
    STATES = 0x29
    FORGET = 0x2A
    STORED = 0x2B
    TAKEN = 0x2C
    RESOLVE = 0x2D
    UPDATES = 0x2E
    PEERS = 0x30
    INSPECT = 0x31
    REPORT = 0x32
    ORDER = 0x33
    BEATS = 0x34
    PUB_RESULTS = 0x40
    PUB_HEAD = 0x41


class Status(IntEnum):
    """How an attempt ended, as it travels and is stored."""

    SUCCESS = 0
    FAILURE = 1
    RETRIES_EXHAUSTED = 2
    EXPIRED = 3
    CANCELLED = 4
    TIME_LIMIT = 5
    WORKER_LOST = 6
    DEAD = 7
    #: The task raised ``Ignore``: it ended and says nothing of how.
    IGNORED = 8
    #: The task raised ``Reject`` and does not want to run again.
    REJECTED = 9


class RejectCode(IntEnum):
    """Why an intake gives a task back to its owner."""

    BUSY = 1
    DRAINING = 2
    NO_QUEUE = 3
    UNKNOWN_TASK = 4
    BAD = 5
    UNSUPPORTED = 6
    LEASE = 7
    #: The child that held it died; it may have started there.
    CHILD_DIED = 8
    #: The child died while running it: a strike.
    CHILD_DIED_RUNNING = 9
    #: Its task's rate limit, or what it needs of the machine, lets it start later only.
    LATER = 10
    #: Given back because its owner asked for it.
    RECALLED = 11
    #: The child died while running it and others: one of them did it. No strike, but from now
    #: on it runs in a process of its own.
    CHILD_DIED_AMONG = 12


class ErrorCode(IntEnum):
    """Why a peer was refused."""

    WRONG_MESH = 1
    VERSION = 2
    UNKNOWN_LINK = 3
    STALE_EPOCH = 4
    UNSUPPORTED = 5
    TOO_MANY_PEERS = 6


class Verdict(IntEnum):
    """What the owner decided about an attempt's outcome."""

    NONE = 0
    SETTLED = 1
    REFUSED = 2


class TaskState(IntEnum):
    """A task's state as nodes tell it to each other (public names: app/states.py)."""

    UNKNOWN = 0
    PENDING = 1
    STARTED = 2
    SETTLED = 3
    #: The answering node holds an outcome that no owner has settled yet.
    UNSETTLED = 4
