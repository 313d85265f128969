"""The options of a task as its attributes, under Celery's names."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from zmqtasks.app.options import TASK_ATTRIBUTES, Exceptions, Tags, check_task_option

#: Options that are defaults of calls.
_OF_CALLS = ("queue", "priority", "expires", "resources", "tags", "ignore_result")
_CLASSES = frozenset({"autoretry_for", "dont_autoretry_for", "throws"})


class WithOptions:
    """Attributes that ``@app.task(...)`` sets; a base class may have other defaults.

    They may be changed until the task is called first (in workers: until the application is
    loaded), and are checked like options.
    """

    #: Name of the task in the mesh.
    name: str
    #: Queue of calls that name none; None for the App's default.
    queue: str | None = None
    #: What calls that say nothing survive, "memory" or "disk"; None: the setting decides.
    durability: str | None = None
    #: Whether it may run again after a worker that ran it was lost.
    idempotent: bool = True
    #: Priority of calls that say nothing, 0 to 9; None: the setting decides.
    priority: int | None = None
    #: Seconds from the call, or the moment, after which it is not started any more.
    expires: float | datetime | None = None
    #: Seconds that an attempt may run; None: the setting decides.
    time_limit: float | None = None
    #: Seconds after which SoftTimeLimitExceeded is raised in it; None: the setting decides.
    soft_time_limit: float | None = None
    #: How many each worker starts, such as "10/s"; None: the setting decides.
    rate_limit: str | float | None = None
    #: The same for all workers together; None: as many as they like.
    mesh_rate_limit: str | float | None = None
    #: Amounts of what a worker must have free.
    resources: Mapping[str, float] | None = None
    #: Tags that a worker must have.
    tags: Tags | None = None
    #: Retries before it fails; None: it is tried for ever.
    max_retries: int | None = 3
    #: Seconds before a retry that says nothing.
    default_retry_delay: float = 180
    #: Exceptions after which it is retried without further ado.
    autoretry_for: Exceptions = ()
    #: Those of them after which it is not.
    dont_autoretry_for: Exceptions = ()
    #: ``max_retries`` and ``countdown`` of such retries.
    retry_kwargs: Mapping[str, Any] = MappingProxyType({})
    #: True, or seconds: such retries wait twice as long each time, beginning with this.
    retry_backoff: bool | float = False
    #: Seconds that they wait at most.
    retry_backoff_max: float = 600
    #: They wait for a random part of that time.
    retry_jitter: bool = True
    #: Expected exceptions: logged without a traceback.
    throws: Exceptions = ()
    #: Whether what it returns is not kept, for calls that say nothing; None: the setting decides.
    ignore_result: bool | None = None

    #: What its calls have in common, found at the first one; see ``Task``.
    _kinds: dict[Any, Any]
    _plain_kind: Any
    _call_defaults: dict[str, Any] | None

    def set_options(self, options: Mapping[str, Any]) -> None:
        """Take over what is given, and what a base class says.

        Raises:
            ConfigError: a bad value.
        """
        for key in TASK_ATTRIBUTES:
            if key in options:
                setattr(self, key, options[key])
                continue
            inherited = getattr(type(self), key)
            if inherited is not getattr(WithOptions, key):
                setattr(self, key, inherited)

    def __setattr__(self, key: str, value: Any) -> None:
        if key in TASK_ATTRIBUTES:
            check_task_option(key, value, f"task {self.name}")
            if key in _CLASSES:
                value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
            self.forget_calls()
        object.__setattr__(self, key, value)

    def forget_calls(self) -> None:
        """What was made of its options, or of its application's settings, is out of date."""
        self._kinds = {}
        self._plain_kind = None
        self._call_defaults = None

    @property
    def call_defaults(self) -> Mapping[str, Any]:
        """The options that its calls have when nobody says otherwise."""
        found = self._call_defaults
        if found is None:
            values = ((key, getattr(self, key)) for key in _OF_CALLS)
            found = {key: value for key, value in values if value is not None}
            self._call_defaults = found
        return found
