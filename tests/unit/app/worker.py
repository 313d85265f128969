"""A worker's process in small: runs attempts of an App's tasks as a child does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zmqtasks.app import current
from zmqtasks.app.app import App
from zmqtasks.app.child_gateway import ChildGateway
from zmqtasks.app.childmain import AppProgram
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.protocol import ChildOutcome, LogRecord, RunTask, StateUpdate
from zmqtasks.pools.running import set_running
from zmqtasks.wire.payload import decode_value, encode_arguments


class Worker:
    """Use it as a context: while it is open, this process is one that runs tasks."""

    passes: tuple[type[BaseException], ...] = ()

    def __init__(self, app: App) -> None:
        self.app = app
        #: What its tasks told the node.
        self.told: list[Any] = []
        #: What they asked it, and how much they had told before.
        self.asked: list[tuple[Any, int]] = []
        self._before = current._installed

    def __enter__(self) -> Worker:
        current.install(ChildGateway(self))
        self.program = AppProgram(self.app, (), PoolConfig("tasks"), self.told.append)
        return self

    def __exit__(self, *exc: object) -> None:
        set_running(None)
        self.program._forget_loop()
        current.install(self._before)

    def tell(self, request: Any) -> None:
        self.told.append(request)

    def ask(self, make: Any, timeout_s: float | None = None) -> None:
        self.asked.append((make(len(self.asked)), len(self.told)))

    def run(self, name: str, *args: Any, **kwargs: Any) -> ChildOutcome:
        """One attempt."""
        return self.attempt(name, args, kwargs)

    def attempt(
        self, name: str, args: Iterable[Any], kwargs: dict[str, Any], **facts: Any
    ) -> ChildOutcome:
        """One attempt, of which more is said."""
        body = encode_arguments(tuple(args), kwargs)
        known = {"id": b"i" * 16, "attempt": 1, "ext": None, **facts}
        task = RunTask(
            known.pop("id"), known.pop("attempt"), "shop", name, "default", b"o" * 8, body,
            known.pop("ext"), **known,
        )  # fmt: skip
        set_running(task)
        return self.program.execute(task)

    def value(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What a task returns."""
        outcome = self.run(name, *args, **kwargs)
        assert outcome.status == 0, outcome.error
        return decode_value(outcome.body)

    @property
    def log(self) -> str:
        """What was logged."""
        return "\n".join(record.text for record in self.told if isinstance(record, LogRecord))

    @property
    def updates(self) -> list[tuple[str, int, Any]]:
        """``(state, number, value)`` of all news."""
        return [
            (update.state, update.number, decode_value(update.meta))
            for update in self.told
            if isinstance(update, StateUpdate)
        ]
