"""What options of calls and tasks mean on the wire: facts of a call, a kind, a task.

Source: docs/protocol.md, ``ext`` of TaskRecord and of Kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

from zmqtasks.app import timing
from zmqtasks.app.conf import Conf
from zmqtasks.app.fact_keys import IGNORED_KEY, SHADOW_KEY
from zmqtasks.app.option_checks import REPR_CHARS_MAX, rate_text
from zmqtasks.app.options import CallOptions, check_at_most_once
from zmqtasks.app.routes import Router
from zmqtasks.core.resultlog import EXTENDED_KEY
from zmqtasks.core.workqueue import priority_of
from zmqtasks.errors import ConfigError
from zmqtasks.pools.protocol import TaskFacts
from zmqtasks.pools.running import running_task
from zmqtasks.zones import zone_of

if TYPE_CHECKING:
    from zmqtasks.app.task import Task

#: Call options that travel as facts of the call; those of ``prepare`` are not among them.
_FACTS = frozenset(
    """
    countdown eta expires priority time_limit soft_time_limit argsrepr kwargsrepr shadow
    ignore_result
    """.split()
)


class CallRules:
    """What an application says about all calls of its tasks.

    Args:
        conf: its configuration, which does not change any more.
    """

    def __init__(self, conf: Conf) -> None:
        routes = conf.of_tasks("task_routes")
        #: None when there are no routes.
        self.router = Router(routes) if routes else None
        zone = conf.of_tasks("timezone")
        self.zone: tzinfo = zone_of(zone) if isinstance(zone, str) else zone
        priority = conf.of_tasks("task_default_priority")
        self._defaults: dict[str, Any] = {} if priority is None else {"priority": priority}
        if conf.of_tasks("task_ignore_result"):
            self._defaults["ignore_result"] = True
        self._inherits = conf.of_tasks("task_inherit_parent_priority")
        self._soft_limit = conf.of_tasks("task_soft_time_limit")
        self._hard_limit = conf.of_tasks("task_time_limit")
        self._rate = conf.of_tasks("task_default_rate_limit")
        #: Facts of the kinds of all calls.
        self.of_kinds: tuple[tuple[str, Any], ...] = (
            ((EXTENDED_KEY, 1),) if conf.of_tasks("result_extended") else ()
        )

    @property
    def is_dynamic(self) -> bool:
        """Whether calls of one task may differ though their options are the same."""
        return self._inherits or (self.router is not None and self.router.is_dynamic)

    def complete(
        self, name: str, task: Task[Any, Any] | None, args: Any, kwargs: Any,
        options: CallOptions, where: str,
    ) -> CallOptions:  # fmt: skip
        """The options of a call with those that others have made for it.

        The call itself is first, then its task, a route, the settings.

        Raises:
            ConfigError: they contradict each other.
        """
        own = task.call_defaults if task is not None else {}
        router = self.router
        if router is None and not own and not self._defaults and not self._inherits:
            return options
        given = {key: value for key, value in options.items() if value is not None}
        given = {**own, **given}
        route = router.route(name, args, kwargs, given, task) if router is not None else {}
        merged: Any = {**self._defaults, **self._inherited(), **route, **given}
        if merged.get("delivery") == "at_most_once":
            check_at_most_once(merged, where)
        return merged  # type: ignore[no-any-return]  # made of checked options

    def _inherited(self) -> dict[str, Any]:
        parent = running_task() if self._inherits else None
        return {"priority": priority_of(parent.ext)} if parent is not None else {}

    def facts_of_call(
        self, options: CallOptions, task: Task[Any, Any] | None, where: str
    ) -> dict[str, Any]:
        """Facts of a call, for ``TaskRecord.ext``; its options are complete.

        Raises:
            ConfigError: it would expire before it is due.
        """
        ext: dict[str, Any] = {}
        if _FACTS.isdisjoint(options):
            return ext
        if options.get("priority"):
            ext["pri"] = options["priority"]
        self._add_times(ext, options, where)
        self._add_limits(ext, options, task, where)
        if options.get("ignore_result"):
            ext[IGNORED_KEY] = 1
        for key, fact in (("argsrepr", "ar"), ("kwargsrepr", "kr"), ("shadow", SHADOW_KEY)):
            text = options.get(key)
            if isinstance(text, str):
                ext[fact] = text[:REPR_CHARS_MAX]
        return ext

    def _add_times(self, ext: dict[str, Any], options: CallOptions, where: str) -> None:
        countdown, eta, expires = (options.get(key) for key in ("countdown", "eta", "expires"))
        if countdown is None and eta is None and expires is None:
            return
        now_ms = timing.now_ms()
        due_ms = now_ms
        if isinstance(countdown, (int, float)):
            due_ms = now_ms + timing.span_ms(countdown)
        elif isinstance(eta, datetime):
            due_ms = timing.moment_ms(eta, self.zone)
        if due_ms > now_ms:
            ext["eta"] = due_ms
        if expires is None:
            return
        if isinstance(expires, datetime):
            ext["exp"] = timing.moment_ms(expires, self.zone)
        elif isinstance(expires, (int, float)):
            ext["exp"] = now_ms + timing.span_ms(expires)
        if ext["exp"] <= ext.get("eta", 0):
            raise ConfigError(
                f"{where}: it would expire ({timing.moment_text(ext['exp'])}) before it is due "
                f"({timing.moment_text(ext['eta'])}), so it would never run; give expires= a later "
                "time, which counts from the call"
            )

    def _add_limits(
        self, ext: dict[str, Any], options: CallOptions, task: Task[Any, Any] | None, where: str
    ) -> None:
        soft, hard = options.get("soft_time_limit"), options.get("time_limit")
        if soft is None and hard is None:
            return
        limits = self.limits_of(task)
        ext["tl"] = [
            limits[0] if soft is None else timing.span_ms(soft),
            limits[1] if hard is None else timing.span_ms(hard),
        ]
        if soft is not None and 0 < ext["tl"][1] <= ext["tl"][0]:
            raise ConfigError(
                f"{where}: soft_time_limit {soft:g} is not below the time_limit of the task, "
                f"{ext['tl'][1] / 1000:g}, so the task would be ended before it is told; make it "
                "smaller, or give a time_limit, too"
            )

    def limits_of(self, task: Task[Any, Any] | None) -> tuple[int, int]:
        """Soft and hard time limit of a task in milliseconds, 0 for none."""
        soft = task.soft_time_limit if task is not None else None
        hard = task.time_limit if task is not None else None
        return (
            timing.span_ms((self._soft_limit if soft is None else soft) or 0),
            timing.span_ms((self._hard_limit if hard is None else hard) or 0),
        )

    def facts_of_task(self, task: Task[Any, Any]) -> TaskFacts:
        """What a node that runs it must know."""
        rate = self._rate if task.rate_limit is None else task.rate_limit
        return TaskFacts(
            *self.limits_of(task),
            rate=rate_text(rate, f"task {task.name}: rate_limit"),
            mesh_rate=rate_text(task.mesh_rate_limit, f"task {task.name}: mesh_rate_limit"),
        )


def needs_text(options: Mapping[str, Any]) -> str:
    """What a worker must have, as a fact of a kind; "" for nothing."""
    resources, tags = options.get("resources"), options.get("tags")
    if not resources and not tags:
        return ""
    from zmqtasks.core.requirements import format_needs  # most processes never need it

    return format_needs(resources or {}, tags or ())
