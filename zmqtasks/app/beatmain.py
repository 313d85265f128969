"""What the process of a beat runs that has the application: its schedules, and its calls.

The node asks ``["plan", name, after_ms, until_ms]`` (when an entry is due) and
``["make", name, id, first_attempt]`` (the calls of one tick), see ``node/beatchild.py``. Calls
are made as any other call of the application is, but that they go to the node.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from zmqtasks.app import current
from zmqtasks.app.app import App
from zmqtasks.app.canvas.signature import signature
from zmqtasks.app.loader import load_app
from zmqtasks.core.beat import BeatEntry
from zmqtasks.core.due import find_due
from zmqtasks.core.lanes import FIRST_KEY
from zmqtasks.errors import AppLoadError, ConfigError, SubmitRejected, ZmqTasksError
from zmqtasks.ids import derived_task_id, format_task_id
from zmqtasks.node.beatchild import LENGTH, BeatApp, BeatStart
from zmqtasks.node.gateway import Call, Durability, Pending, Ticket
from zmqtasks.schedules import ScheduleEntry, describe

_READ_BYTES: Final = 256 * 1024


def main(fd: int) -> None:
    """Load the application, then answer until the node has gone."""
    # They are for the node, which ends this process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    link = _Link(socket.socket(fileno=fd))
    first = link.receive()
    if first is None:
        return
    start = msgspec.convert(first, BeatStart)
    gateway = TickGateway()
    current.install(gateway)  # type: ignore[arg-type]  # nothing else is asked of it
    current.set_flags(start.flags)
    program = None
    try:
        program = BeatProgram(load_app(start.app, Path.cwd()), gateway)
        link.send(program.describe())
    except AppLoadError as exc:
        link.send(BeatApp(error=str(exc), traceback=exc.traceback))
    except ZmqTasksError as exc:
        link.send(BeatApp(error=str(exc)))
    while program is not None and (question := link.receive()) is not None:
        link.send(program.answer(question))
    # The application may have started threads.
    os._exit(0)


class _Link:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

    def receive(self) -> Any:
        """The next message; None: there will be no more."""
        buffer = self._buffer
        while True:
            if len(buffer) >= LENGTH.size:
                end = LENGTH.size + LENGTH.unpack_from(buffer)[0]
                if len(buffer) >= end:
                    message = msgspec.msgpack.decode(bytes(buffer[LENGTH.size : end]))
                    del buffer[:end]
                    return message
            data = self._sock.recv(_READ_BYTES)
            if not data:
                return None
            buffer += data

    def send(self, message: object) -> None:
        data = msgspec.msgpack.encode(message)
        try:
            self._sock.sendall(LENGTH.pack(len(data)) + data)
        except OSError:
            os._exit(0)  # the node has gone


class TickGateway:
    """Keeps the calls of one tick instead of submitting them."""

    inside_task = False

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.is_durable = False
        self._tick = b""
        self._count = 0

    def begin_tick(self, tick: bytes) -> None:
        """The calls from now on are those of the tick with this id."""
        self.calls, self.is_durable = [], False
        self._tick, self._count = tick, 0

    def new_ids(self, count: int) -> list[bytes]:
        """The same for the same tick: as often as it is started, its workflow has these ids."""
        if not self._tick:
            raise SubmitRejected("a beat submits ticks only: call tasks in tasks")
        self._count += count
        return [derived_task_id(self._tick, self._count - left) for left in range(count, 0, -1)]

    def submit(
        self,
        calls: Sequence[Call],
        ticket: Ticket,
        *,
        wait_s: object = None,
        require_worker_s: float | None = None,
        delivery: str = "at_least_once",
        durability: Durability = Durability.MEMORY,
    ) -> None:
        """See ``Gateway``; nobody waits for room or for workers here.

        Raises:
            SubmitRejected: they are not of a tick, or nobody would know how they end.
        """
        if not self._tick:
            raise SubmitRejected("a beat submits ticks only: call tasks in tasks")
        if delivery != "at_least_once" or require_worker_s is not None:
            raise SubmitRejected(
                "a tick has a recorded outcome: leave delivery and require_worker out"
            )
        self.calls += calls
        self.is_durable |= durability is Durability.DISK

    def begin(
        self, calls: Sequence[Call], ticket: Ticket, *, after: object = None, wait_s: object = None
    ) -> Pending:
        """See ``Gateway``."""
        self.submit(calls, ticket, durability=Durability.DISK)
        return _Accepted()

    def forget(self, ids: Sequence[bytes]) -> None:
        """There is nothing to forget."""


class _Accepted:
    def wait(self) -> None:
        """At once."""

    def forget(self) -> None:
        """There is nobody to tell."""


class BeatProgram:
    """Answers for one application.

    Args:
        app: the application.
        gateway: through which its calls go.

    Raises:
        ConfigError: it has entries that cannot be called.
    """

    def __init__(self, app: App, gateway: TickGateway) -> None:
        self._app = app
        self._gateway = gateway
        self._entries = {entry.name: entry for entry in app.periodic_tasks()}
        if app.is_eager:
            raise ConfigError(
                f"App({app.name!r}): with task_always_eager the beat itself would run its tasks; "
                "leave that setting away"
            )

    def describe(self) -> BeatApp:
        """What the node needs to know."""
        return BeatApp(
            self._app.name,
            [
                BeatEntry(e.name, e.task, describe(e.schedule), e.missed, e.overlap, e.enabled)
                for e in self._entries.values()
            ],
            dict(self._app.conf.for_nodes),
        )

    def answer(self, question: Sequence[Any]) -> list[Any]:
        """One question."""
        what, name, *rest = question
        if what == "plan":
            return self._plan(name, *rest)
        return self._make(name, *rest)

    def _plan(self, name: str, after_ms: int, until_ms: int) -> list[Any]:
        try:
            due = find_due(self._entries[name].schedule, after_ms, until_ms)
        except Exception as exc:  # noqa: BLE001 - a schedule may be the application's
            return ["unplanned", name, f"{type(exc).__name__}: {exc}"]
        return ["planned", name, after_ms, until_ms, *due]

    def _make(self, name: str, task_id: bytes, first_attempt: int) -> list[Any]:
        entry = self._entries[name]
        task = self._app.tasks.get(entry.task)
        if first_attempt > 1 and task is not None and not task.idempotent:
            text = (
                f"it was started, nobody knows how that ended, and {entry.task} is not idempotent, "
                "so it is not started again"
            )
            return ["unmade", task_id, text]
        self._gateway.begin_tick(task_id)
        try:
            self._call(entry, format_task_id(task_id))
        except Exception as exc:  # noqa: BLE001 - hooks and routes are the application's
            return ["unmade", task_id, f"{type(exc).__name__}: {exc}"]
        finally:
            calls, is_durable = self._gateway.calls, self._gateway.is_durable
            self._gateway.begin_tick(b"")
        return ["made", task_id, _as_tick(calls, task_id, first_attempt), is_durable]

    def _call(self, entry: ScheduleEntry, task_id: str) -> None:
        if entry.signature is not None:
            signature(entry.signature, app=self._app).apply_async(task_id=task_id)
            return
        options: Any = {**entry.options, "task_id": task_id}
        self._app.send_task(entry.task, entry.args, dict(entry.kwargs), **options)


def _as_tick(calls: Sequence[Call], task_id: bytes, first_attempt: int) -> list[Call]:
    """The calls with the numbers of their attempts. One of them has the id of the tick: of a
    group, which has no last call, it is one that no other waits for."""
    found = list(calls)
    if found and all(call.id != task_id for call in found):
        found[-1] = found[-1]._replace(id=task_id)
    if first_attempt == 1:
        return found
    return [call._replace(ext={**(call.ext or {}), FIRST_KEY: first_attempt}) for call in found]
