"""What hooks see and do of calls that are about to be submitted: middleware and signals.

Used only by applications that have such hooks: see ``App.is_hooked``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqtasks import signals
from zmqtasks.app.option_checks import check_headers
from zmqtasks.app.options import CallOptions, check_call_options
from zmqtasks.app.timing import moment_text
from zmqtasks.errors import ConfigError
from zmqtasks.ids import format_task_id
from zmqtasks.pools.running import running_task
from zmqtasks.wire.messages import Kind

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.middleware import OutgoingCall


class Arguments(NamedTuple):
    """What a function is called with."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    #: Of its positional parameters, where they are known; see ``encode_arguments``.
    names: Sequence[str]


def is_hooked(app: App) -> bool:
    """Whether anybody wants to see the calls of this application."""
    return (
        signals.before_task_publish.has_listeners()
        or signals.after_task_publish.has_listeners()
        or any(hasattr(each, "submit") for each in app.middleware)
    )


def passed_through(
    app: App, call: OutgoingCall, where: str
) -> tuple[Sequence[Any], Mapping[str, Any], CallOptions]:
    """Arguments and options of a call after all middleware has seen it.

    Raises:
        ConfigError: it made an option that does not exist, or a bad value.
        Exception: whatever it raises; then nothing is submitted.
    """
    for each in app.middleware:
        if hasattr(each, "submit"):
            each.submit(call)
    check_call_options(call.options, f"{where}, after middleware")
    return call.args, call.kwargs, call.options  # type: ignore[return-value]  # just checked


class Publication:
    """One call, as the two signals about submitting tell it.

    Args:
        kind: of the call.
        task_id: of the task.
        arguments: of the call.
        ext: its facts so far.
        headers: its own, as the caller gave them.
    """

    def __init__(
        self,
        kind: Kind,
        task_id: bytes,
        arguments: Arguments,
        ext: Mapping[str, Any],
        headers: Mapping[str, Any] | None,
    ) -> None:
        self._name = kind.name
        self._facts = _facts(kind, task_id, ext)
        self._headers = {**(headers or {}), **self._facts}
        self._named = {
            "body": (tuple(arguments.args), dict(arguments.kwargs), {}),
            "exchange": "",
            "routing_key": kind.queue,
            "headers": self._headers,
        }

    def announce(self) -> dict[str, Any]:
        """Send the first one; returns the headers of the call, with what receivers added.

        Raises:
            ConfigError: a receiver changed what is no header of the call, or added what
                cannot travel.
        """
        signals.before_task_publish.send(
            sender=self._name,
            properties={"correlation_id": self._facts["id"]},
            declare=[],
            retry_policy=None,
            **self._named,
        )
        where = f"before_task_publish of {self._name}"
        for key, value in self._facts.items():
            if self._headers.get(key, value) != value:
                raise ConfigError(
                    f"{where}: a receiver changed {key!r}, which is a fact about the call; "
                    "middleware can change options of calls, receivers can add headers"
                )
        headers = {key: found for key, found in self._headers.items() if key not in self._facts}
        check_headers("headers", headers, where)
        return headers

    def done(self) -> None:
        """Send the second one."""
        signals.after_task_publish.send(sender=self._name, **self._named)


def _facts(kind: Kind, task_id: bytes, ext: Mapping[str, Any]) -> dict[str, Any]:
    """What Celery has among the headers of a task, as far as it exists here."""
    parent = running_task()
    root = (parent.ext or {}).get("r", parent.id) if parent is not None else task_id
    limits = ext.get("tl") or (0, 0)
    return {
        "id": format_task_id(task_id),
        "task": kind.name,
        "retries": 0,
        "eta": moment_text(ext.get("eta")),
        "expires": moment_text(ext.get("exp")),
        "timelimit": [limits[1] / 1000 or None, limits[0] / 1000 or None],
        "parent_id": format_task_id(parent.id) if parent is not None else None,
        "root_id": format_task_id(root),
        "group": format_task_id(ext["g"]) if "g" in ext else None,
        "argsrepr": ext.get("ar"),
        "kwargsrepr": ext.get("kr"),
    }
