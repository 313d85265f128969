"""What completes an application before its first use: signals about that, and periodic tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from threading import RLock
from typing import TYPE_CHECKING, Any

from zmqtasks.errors import ConfigError
from zmqtasks.signals import SetupSignal

if TYPE_CHECKING:
    from zmqtasks.app.canvas.signature import Signature
    from zmqtasks.app.conf import Conf
    from zmqtasks.app.periodic import Periodic
    from zmqtasks.app.task import Task
    from zmqtasks.schedules import Schedule, ScheduleEntry


class WithSetup:
    """The part of an App that its first use completes."""

    name: str
    conf: Conf

    def __init__(self) -> None:
        #: Its last chance to change the configuration. Sender: the App; ``source``: its conf.
        self.on_after_configure = SetupSignal("on_after_configure")
        #: The configuration does not change any more. Sender: the App.
        self.on_after_finalize = SetupSignal("on_after_finalize")
        self._is_set_up = False
        self._setting_up = RLock()
        #: What functions connected to these two raised.
        self._setup_errors: list[ConfigError] = []
        self._periodic: Periodic | None = None

    def add_periodic_task(
        self,
        schedule: float | timedelta | Schedule,
        sig: Signature[Any] | Task[Any, Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **opts: Any,
    ) -> str:
        """Have a task called again and again, by nodes with the role beat.

        Args:
            schedule: seconds, a ``timedelta``, ``crontab(...)``, ``solar(...)`` or any object
                with ``next_after(moment)``.
            sig: what to call: a signature, a chain, a group, a chord, or a task.
            args: come before the arguments of ``sig``.
            kwargs: go with the keyword arguments of ``sig``.
            name: the ids of its calls are made from it; by default ``repr(sig)``.
            opts: ``missed``, ``overlap``, ``enabled``, ``relative`` and ``timezone``, as in an
                entry of ``beat_schedule``; all others are options of the call.

        Returns:
            The name.

        Raises:
            ConfigError: a bad schedule or option, or another one has this name.
        """
        from zmqtasks.app.periodic import POLICIES

        policies = {key: value for key, value in opts.items() if key in POLICIES}
        options = {key: value for key, value in opts.items() if key not in POLICIES}
        called = {"task": sig, "args": args, "kwargs": kwargs or {}, "options": options}
        return self._periodic_tasks.add(name, {"schedule": schedule, **called, **policies})

    def periodic_tasks(self) -> list[ScheduleEntry]:
        """All periodic tasks, those of ``beat_schedule`` and those added, sorted by name.

        The application is in use with this.

        Raises:
            ConfigError: one of them cannot be called, or a function that was to add some raised.
        """
        self.set_up()
        if self._setup_errors:
            raise self._setup_errors[0]
        return self._periodic_tasks.entries()

    def set_up(self) -> None:
        """Complete the configuration; it does not change afterwards. Done at the first use."""
        if self.conf.is_frozen:
            return
        # Another thread that uses it first, too, waits; functions connected to it do not.
        with self._setting_up:
            if self._is_set_up:
                return
            self._is_set_up = True
            self._tell(self.on_after_configure, source=self.conf)
            self.conf.freeze()
            self._tell(self.on_after_finalize)

    #: Celery's name of it.
    finalize = set_up

    @property
    def setup_errors(self) -> list[ConfigError]:
        """What functions connected to its signals raised."""
        return self._setup_errors

    def _tell(self, signal: SetupSignal, **named: Any) -> None:
        for receiver, answer in signal.send(self, **named):
            if isinstance(answer, Exception):
                function = getattr(receiver, "__name__", repr(receiver))
                error = ConfigError(
                    f"App({self.name!r}): {function:.75}, connected to {signal.name}, raised "
                    f"{type(answer).__name__}: {answer}"
                )
                error.__cause__ = answer
                self._setup_errors.append(error)

    @property
    def _periodic_tasks(self) -> Periodic:
        if self._periodic is None:
            from zmqtasks.app.app import App
            from zmqtasks.app.periodic import Periodic  # most processes never need it

            assert isinstance(self, App), "nothing else is of this class"
            self._periodic = Periodic(self)
        return self._periodic
