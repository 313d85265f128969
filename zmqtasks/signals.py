"""Signals, by Celery's names: functions that are called when something happens.

::

    from zmqtasks.signals import task_failure

    @task_failure.connect
    def tell_somebody(sender=None, task_id=None, exception=None, **kwargs):
        ...

They fire where user code runs: in the process that submits (``*_task_publish``), in the hook
child of a node (``OF_NODES``), and in those that run tasks (all others). Signals of Celery that
would have to fire in the node itself refuse to be connected. Source: docs/howto/hooks.md.
"""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol, TypeVar, overload

from zmqtasks.errors import ConfigError

_LOG = logging.getLogger("zmqtasks.signals")

Receiver = Callable[..., Any]
F = TypeVar("F", bound=Receiver)


class Watcher(Protocol):
    """Has made plans that depend on who is connected to what."""

    def hooks_changed(self) -> None:
        """Make them anew."""


_watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()


def watch(watcher: Watcher) -> None:
    """Tell this object whenever a hook comes or goes, as long as it exists."""
    _watchers.add(watcher)


def changed() -> None:
    """A hook came or went."""
    for watcher in list(_watchers):
        watcher.hooks_changed()


class _Connection(NamedTuple):
    """One connected function."""

    #: The same again is not connected twice.
    key: tuple[Hashable, Hashable | None]
    #: Gives the function, or None when it is gone.
    receiver: Callable[[], Receiver | None]
    #: As ``_sender_key`` gives it; None: of every sender.
    sender: Hashable | None


class Signal:
    """Something that happens, and the functions that are called then.

    Args:
        name: as users import it.
        refusal: why nobody can be connected, with the remedy; "" for those that fire.
    """

    def __init__(self, name: str, refusal: str = "") -> None:
        self.name = name
        #: Why nobody can be connected, "" where everybody can.
        self.refusal = refusal
        self._connections: list[_Connection] = []
        self._lock = threading.RLock()

    @overload
    def connect(
        self, receiver: F, sender: object = None, weak: bool = True,
        dispatch_uid: Hashable | None = None,
    ) -> F: ...  # fmt: skip
    @overload
    def connect(
        self, receiver: None = None, sender: object = None, weak: bool = True,
        dispatch_uid: Hashable | None = None,
    ) -> Callable[[F], F]: ...  # fmt: skip
    def connect(
        self, receiver: Any = None, sender: object = None, weak: bool = True,
        dispatch_uid: Hashable | None = None,
    ) -> Any:  # fmt: skip
        """Call this function from now on; also a decorator, with and without arguments.

        Args:
            receiver: takes keyword arguments, also those that it does not know (``**kwargs``).
            sender: only when the signal comes from it: a task or the name of one.
            weak: it does not keep the function alive.
            dispatch_uid: of several with the same one only the first is connected.

        Raises:
            ConfigError: the signal does not exist here; says why, and what to do instead.
            ValueError: the function takes no ``**kwargs``, or is an ``async def`` one.
        """
        if self.refusal:
            raise ConfigError(f"signal {self.name}: {self.refusal}")
        if receiver is None:
            return lambda function: self.connect(function, sender, weak, dispatch_uid)
        if not callable(receiver) or not _takes_any_keyword(receiver):
            raise ValueError(
                f"signal {self.name}: {receiver!r:.75} must be a function that takes **kwargs, "
                "since later versions may tell it more"
            )
        if inspect.iscoroutinefunction(receiver):
            raise ValueError(
                f"signal {self.name}: {receiver!r:.75} is an async def function, and nobody would "
                "await it; connect a plain one, which may call asyncio.run()"
            )
        sender_key = None if sender is None else _sender_key(sender)
        key = (_identity(receiver) if dispatch_uid is None else dispatch_uid, sender_key)
        reference = _weakly(receiver) if weak else lambda: receiver
        with self._lock:
            self._forget_gone()
            if all(known.key != key for known in self._connections):
                # A new list, so that whoever goes through the old one is not disturbed.
                found = _Connection(key, reference, sender_key)
                self._connections = [*self._connections, found]
        changed()
        return receiver

    def disconnect(
        self, receiver: Receiver | None = None, sender: object = None,
        dispatch_uid: Hashable | None = None,
    ) -> bool:  # fmt: skip
        """Undo ``connect`` with the same arguments; whether there was anything to undo."""
        sender_key = None if sender is None else _sender_key(sender)
        key = (_identity(receiver) if dispatch_uid is None else dispatch_uid, sender_key)
        with self._lock:
            left = [known for known in self._connections if known.key != key]
            was_there = len(left) < len(self._connections)
            self._connections = left
        changed()
        return was_there

    def send(self, sender: object, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call all that are connected, one after the other.

        What one of them raises is logged, and stands in the place of its answer.

        Returns:
            ``(function, what it returned)`` of each.
        """
        if not self._connections:
            return []
        answers: list[tuple[Receiver, Any]] = []
        sender_key = _sender_key(sender)
        for connection in self._connections:
            if connection.sender is not None and connection.sender != sender_key:
                continue
            receiver = connection.receiver()
            if receiver is None:
                continue
            try:
                answer = receiver(signal=self, sender=sender, **named)
            except Exception as exc:  # noqa: BLE001 (foreign code)
                _LOG.exception("receiver %r of signal %s raised", receiver, self.name)
                answer = exc
            answers.append((receiver, answer))
        return answers

    #: Celery's other name for it.
    send_robust = send

    def has_listeners(self, sender: object = None) -> bool:
        """Whether anybody would be called."""
        self._forget_gone()
        key = None if sender is None else _sender_key(sender)
        return any(key is None or known.sender in (None, key) for known in self._connections)

    @property
    def receivers(self) -> list[Receiver]:
        """All that are connected."""
        found = (connection.receiver() for connection in self._connections)
        return [receiver for receiver in found if receiver is not None]

    def _forget_gone(self) -> None:
        with self._lock:
            self._connections = [
                known for known in self._connections if known.receiver() is not None
            ]

    def __repr__(self) -> str:
        return f"<Signal: {self.name}>"


class SetupSignal(Signal):
    """Something that happens once: who connects afterwards is called at once."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        #: What it was sent with.
        self._sent: tuple[object, dict[str, Any]] | None = None

    def connect(
        self, receiver: Any = None, sender: object = None, weak: bool = True,
        dispatch_uid: Hashable | None = None,
    ) -> Any:  # fmt: skip
        """See ``Signal.connect``."""
        if receiver is None:
            return super().connect(None, sender, weak, dispatch_uid)
        found = super().connect(receiver, sender, weak, dispatch_uid)
        if self._sent is not None:
            source, named = self._sent
            receiver(signal=self, sender=source, **named)
        return found

    def send(self, sender: object, **named: Any) -> list[tuple[Receiver, Any]]:
        """See ``Signal.send``."""
        self._sent = sender, named
        return super().send(sender, **named)


def _weakly(receiver: Receiver) -> Callable[[], Receiver | None]:
    if inspect.ismethod(receiver):
        return weakref.WeakMethod(receiver)
    return weakref.ref(receiver)


def _identity(receiver: Receiver | None) -> Hashable:
    # A bound method is another object each time it is asked for.
    if inspect.ismethod(receiver):
        return id(receiver.__self__), id(receiver.__func__)
    return id(receiver)


def _sender_key(sender: object) -> Hashable:
    """Tasks are known by their names: one that belongs to several applications, or is
    defined anew by a reload, is the same."""
    if isinstance(sender, str):
        return sender
    name = getattr(sender, "name", None)
    return name if isinstance(name, str) else id(sender)


def _takes_any_keyword(receiver: Receiver) -> bool:
    try:
        parameters = inspect.signature(receiver).parameters.values()
    except ValueError:  # built-ins that tell nothing about themselves
        return True
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


# --- in the process that submits ----------------------------------------------------------

#: A task is about to be submitted. Sender: its name. ``headers`` may be changed.
before_task_publish = Signal("before_task_publish")
#: It is submitted. Sender: its name.
after_task_publish = Signal("after_task_publish")

# --- in a process that runs tasks ---------------------------------------------------------

#: An attempt begins. Sender of this and those below: the task.
task_prerun = Signal("task_prerun")
#: It has ended, however it did.
task_postrun = Signal("task_postrun")
#: It returned a value.
task_success = Signal("task_success")
#: It asked for another one.
task_retry = Signal("task_retry")
#: It failed.
task_failure = Signal("task_failure")
#: A handler of a task raised.
task_internal_error = Signal("task_internal_error")
#: A process that runs tasks has loaded the application.
worker_process_init = Signal("worker_process_init")
#: Such a process ends.
worker_process_shutdown = Signal("worker_process_shutdown")

# --- in the hook child of a node; with the solo pool, in the node -------------------------

#: The node starts; it joins when all receivers have returned.
worker_init = Signal("worker_init")
#: It has joined and takes work.
worker_ready = Signal("worker_ready")
#: It begins to drain. Sender: its name.
worker_shutting_down = Signal("worker_shutting_down")
#: Its tasks have ended and it is about to end.
worker_shutdown = Signal("worker_shutdown")

OF_NODES = (worker_init, worker_ready, worker_shutting_down, worker_shutdown)

# --- those that do not exist ----------------------------------------------------------------

_OF_NODES = (
    "it would fire in the node itself, which runs no code of yours so that nothing can hold up "
    "its heartbeats; "
)
_SETUP = "; use worker_process_init, which fires in every process that runs tasks"


def _of_nodes(name: str, instead: str) -> Signal:
    return Signal(name, _OF_NODES + instead)


task_received = _of_nodes("task_received", "use task_prerun, which fires where the task runs")
task_revoked = _of_nodes("task_revoked", "what is revoked shows in 'zmqtasks story ID'")
task_unknown = _of_nodes("task_unknown", "tasks go only to workers that have them")
task_rejected = _of_nodes("task_rejected", "the node logs messages that it cannot read")
celeryd_init = _of_nodes("celeryd_init", "configure the application where it is defined")
celeryd_after_setup = _of_nodes("celeryd_after_setup", "use worker_init")
heartbeat_sent = _of_nodes("heartbeat_sent", "'zmqtasks status' shows who is alive")
setup_logging = Signal(
    "setup_logging",
    "configure logging where the application is defined: handlers and levels that it sets up "
    "itself are kept",
)
after_setup_logger = Signal("after_setup_logger", "there is no such step" + _SETUP)
after_setup_task_logger = Signal("after_setup_task_logger", "there is no such step" + _SETUP)
task_sent = Signal("task_sent", "Celery has given it up; use after_task_publish")
import_modules = Signal("import_modules", "import modules where the application is defined")
_IN_BEATS = (
    "use app.on_after_finalize, which fires wherever the application is used, so in the process of "
    "a beat that has it, too"
)
beat_init = Signal("beat_init", _IN_BEATS)
beat_embedded_init = Signal("beat_embedded_init", _IN_BEATS)
