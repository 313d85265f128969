"""What is known of a task at one moment, under Celery's names."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from zmqtasks.app import states
from zmqtasks.app.outcomes import error_of, traceback_of, value_of
from zmqtasks.core.resultlog import ARGUMENTS_KEY, CHILDREN_KEY, ITEMS_KEY
from zmqtasks.node.gateway import UNKNOWN_STATUS
from zmqtasks.wire.messages import Outcome, StateRecord
from zmqtasks.wire.payload import decode_arguments, decode_value

R = TypeVar("R")

#: Facts of a state: the one that the task gave itself, and what it told with it, encoded.
SAID_STATE, SAID_META = "state", "meta"
_ID_BYTES = 16
_EPOCH = datetime.fromtimestamp(0, UTC)


class Look:
    """What was known of a task when somebody looked; it does not change any more.

    Args:
        outcome: how it has ended, None if it has not.
        record: what nodes tell, None where they were not asked or nobody answered.
    """

    __slots__ = ("_facts", "_outcome", "_record", "_told")

    def __init__(self, outcome: Outcome | None, record: StateRecord | None) -> None:
        self._outcome = outcome
        self._record = record
        self._facts: Mapping[str, Any] = {} if record is None else record.info
        said = outcome if outcome is not None or record is None else record.outcome
        #: What the outcome tells beside how it ended, or would if it counts.
        self._told: Mapping[str, Any] = {} if said is None else said.ext or {}

    @property
    def is_of_handle(self) -> bool:
        """Nobody was asked: the outcome was here."""
        return self._outcome is not None and self._record is None

    @property
    def state(self) -> str:
        """See ``zmqtasks.states``; or what the task calls its state while it runs."""
        if self._outcome is not None:
            return states.STATE_OF_STATUS.get(self._outcome.status, states.FAILURE)
        if self._record is None:
            return states.PENDING
        said = self._facts.get(SAID_STATE)
        return said if isinstance(said, str) else states.state_of(self._record)

    status = state

    @property
    def result(self) -> Any:
        """The value, the exception if it did not succeed, None while it is not finished."""
        if self._outcome is None:
            return None
        error = error_of(self._outcome)
        return value_of(self._outcome) if error is None else error

    @property
    def info(self) -> Any:
        """The same as ``result``; while the task runs, what it told with its last state."""
        if self._outcome is not None:
            return self.result
        told = self._facts.get(SAID_META)
        return decode_value(told) if isinstance(told, bytes) else None

    @property
    def traceback(self) -> str | None:
        """The remote traceback as text, None where there is none."""
        return None if self._outcome is None else traceback_of(self._outcome)

    @property
    def name(self) -> str | None:
        """Name of the task; None where nobody tells."""
        return _text(self._facts.get("name"))

    @property
    def queue(self) -> str | None:
        """The queue that it went to; None where nobody tells."""
        return _text(self._facts.get("queue"))

    @property
    def worker(self) -> str | None:
        """Name of the node that has it or ran it last; None where nobody tells."""
        return _text(self._told.get("w") or self._facts.get("worker"))

    @property
    def retries(self) -> int | None:
        """How often it was retried because it raised; None where nobody tells."""
        outcome = self._outcome
        is_told = outcome is not None and outcome.status != UNKNOWN_STATUS
        found = self._told.get("n", 0 if is_told else self._facts.get("retries"))
        return found if isinstance(found, int) else None

    @property
    def date_done(self) -> datetime | None:
        """When the attempt that counts ended, by the clock of its worker, in UTC.

        None while the task has not ended, and where it ended without having run.
        """
        outcome = self._outcome
        if outcome is None or not outcome.started_ms:
            return None
        return _EPOCH + timedelta(milliseconds=outcome.started_ms, microseconds=outcome.run_us)

    @property
    def args(self) -> list[Any] | None:
        """Positional arguments of the attempt that counts, see ``kwargs``."""
        found = self._arguments()
        return None if found is None else list(found[0])

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """Keyword arguments of the attempt that counts.

        None while the task has not ended, without the setting ``result_extended``, and where
        they have more than 8 KiB.
        """
        found = self._arguments()
        return None if found is None else dict(found[1])

    def _arguments(self) -> tuple[Any, Any] | None:
        found = self._told.get(ARGUMENTS_KEY) if self._outcome is not None else None
        return decode_arguments(found) if isinstance(found, bytes) else None

    @property
    def children_ids(self) -> list[bytes]:
        """The tasks that the attempt that counts submitted, the first 256 of them."""
        found = self._told.get(CHILDREN_KEY)
        if self._outcome is None or not isinstance(found, bytes):
            return []
        return [found[at : at + _ID_BYTES] for at in range(0, len(found), _ID_BYTES)]

    @property
    def items_count(self) -> int:
        """How many items the task, which has ended, yielded."""
        found = self._told.get(ITEMS_KEY)
        return found if self._outcome is not None and isinstance(found, int) else 0

    def as_dict(self) -> dict[str, Any]:
        """All of it by name."""
        names = (
            "state result traceback name queue worker retries date_done args kwargs"
        ).split()  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"<Look: {self.name or 'a task'} {self.state}>"


class Looks(Generic[R]):
    """The part of a handle that looks at its task.

    What is not known here is asked of the mesh, which takes a second at most. That blocks: in
    coroutines await ``alook()``, which has all of it.
    """

    __slots__ = ()

    def _seen(self) -> Look:
        """With as few questions as possible: none for a task whose outcome is here."""
        raise AssertionError("each kind of handle does that in its own way")

    def look(self) -> Look:
        """All that is known of the task, asked for once, also where its outcome is here."""
        raise AssertionError("each kind of handle does that in its own way")

    async def alook(self) -> Look:
        """Same as ``look()`` without blocking the running loop."""
        import asyncio

        return await asyncio.to_thread(self.look)

    @property
    def state(self) -> str:
        """How it stands, see ``zmqtasks.states``.

        Or what the task calls its state itself (``self.update_state``) while it runs. For a
        task of another process this asks the mesh, for a second at most.
        """
        return self._seen().state

    status = state

    async def astate(self) -> str:
        """Same as ``state`` without blocking the running loop; ``alook()`` has all the rest."""
        return (await self._aseen()).state

    def ready(self) -> bool:
        """Whether ``get()`` would return or raise at once."""
        return self.state in states.READY_STATES

    async def aready(self) -> bool:
        """Same as ``ready()`` without blocking the running loop."""
        return (await self._aseen()).state in states.READY_STATES

    def successful(self) -> bool:
        """Whether the task returned a value; False while it has not finished."""
        return self.state == states.SUCCESS

    async def asuccessful(self) -> bool:
        """Same as ``successful()`` without blocking the running loop."""
        return (await self._aseen()).state == states.SUCCESS

    def failed(self) -> bool:
        """Whether the task failed (FAILURE or DEAD); False while it has not finished."""
        return self.state in states.FAILED_STATES

    async def afailed(self) -> bool:
        """Same as ``failed()`` without blocking the running loop."""
        return (await self._aseen()).state in states.FAILED_STATES

    async def _aseen(self) -> Look:
        import asyncio

        return await asyncio.to_thread(self._seen)

    @property
    def result(self) -> R | Exception | None:
        """The value, the exception if it did not succeed, None while it is not finished."""
        found: R | Exception | None = self._seen().result
        return found

    @property
    def info(self) -> Any:
        """The same as ``result``; while the task runs, what it told with its last state."""
        return self._seen().info

    @property
    def traceback(self) -> str | None:
        """The remote traceback as text, None where there is none."""
        return self._seen().traceback

    @property
    def date_done(self) -> datetime | None:
        """When the attempt that counts ended, in UTC; None before, and if it never ran."""
        return self._seen().date_done

    @property
    def args(self) -> list[Any] | None:
        """Positional arguments, with the setting ``result_extended``, of what has ended."""
        return self._seen().args

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """Keyword arguments, with the setting ``result_extended``, of what has ended."""
        return self._seen().kwargs

    @property
    def name(self) -> str | None:
        """Name of the task; None where nobody tells."""
        return self._seen_or_asked("name")

    @property
    def queue(self) -> str | None:
        """The queue that it went to; None where nobody tells."""
        return self._seen_or_asked("queue")

    @property
    def worker(self) -> str | None:
        """Name of the node that has it or ran it last; None where nobody tells."""
        return self._seen_or_asked("worker")

    @property
    def retries(self) -> int | None:
        """How often it was retried because it raised; None where nobody tells."""
        return self._seen().retries

    def _seen_or_asked(self, fact: str) -> str | None:
        """What the outcome need not tell."""
        seen = self._seen()
        found: str | None = getattr(seen, fact)
        if found is None and seen.is_of_handle:
            found = getattr(self.look(), fact)
        return found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
