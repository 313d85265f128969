"""``app.control.beat``: what the beats of an application do, and telling them.

Every beat of an application knows what became of its ticks, and all of them take an order, so
that it holds whoever leads. Only the leader starts ticks, and knows when the next ones are due.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqtasks.app.control import TIMEOUT_S, AsyncTwins, Replies, check_blocking
from zmqtasks.app.current import gateway
from zmqtasks.app.timing import now_ms
from zmqtasks.errors import ConfigError
from zmqtasks.node.commands import CONTROL, INSPECT
from zmqtasks.node.survey import Request

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.result import AsyncResult


class AppBeats(NamedTuple):
    """The beats of one application, and its periodic tasks."""

    app: str
    #: Name of the one that starts ticks; "": nobody does.
    leader: str
    #: Names of all that answered.
    beats: list[str]
    #: As the leader knows them.
    entries: list[dict[str, Any]]


class Told(NamedTuple):
    """What came of an order."""

    #: {beat: what it did}
    done: dict[str, str]
    #: {beat: why it did nothing}
    refused: dict[str, str]
    #: Of the task that was started, "" if none was.
    task_id: str


def question() -> Request:
    """Asks all beats for the periodic tasks."""
    return Request("beat", roles=INSPECT["beat"].roles)


def order(what: str, entry: str, of_app: str | None) -> Request:
    """Tells all beats something about an entry.

    Args:
        what: "pause", "resume" or "run".
        entry: its name.
        of_app: only to beats of this application; None: to all.
    """
    name = f"beat_{what}"
    # All of them get the same moment, and so mean the same order.
    args: dict[str, Any] = {"entry": entry, "at_ms": now_ms()}
    if of_app is not None:
        args["of_app"] = of_app
    return Request(name, (), args, is_order=True, roles=CONTROL[name].roles)


def by_app(replies: Mapping[str, Any]) -> list[AppBeats]:
    """What the beats know, for each application; sorted by name."""
    found: dict[str, AppBeats] = {}
    for name, answer in sorted(replies.items()):
        if not isinstance(answer, Mapping) or "app" not in answer:
            continue
        app = answer["app"]
        entries = list(answer.get("entries", ()))
        known = found.get(app)
        if known is None:
            leader = name if answer.get("leads") else answer.get("leader") or ""
            found[app] = AppBeats(app, leader, [name], entries)
        elif answer.get("leads"):
            found[app] = AppBeats(app, name, [*known.beats, name], entries)
        else:
            known.beats.append(name)
    return [found[app] for app in sorted(found)]


def told(replies: Mapping[str, Any]) -> Told:
    """What the beats made of an order."""
    done: dict[str, str] = {}
    refused: dict[str, str] = {}
    task_id = ""
    for name, answer in replies.items():
        if isinstance(answer, Mapping) and "ok" in answer:
            done[name] = str(answer["ok"])
            task_id = task_id or str(answer.get("id") or "")
        elif isinstance(answer, Mapping):
            refused[name] = str(answer.get("error", answer))
    return Told(done, refused, task_id)


def why_not(what: str, entry: str, said: Told, silent: Iterable[str]) -> str | None:
    """Why an order was not carried out; None: it was."""
    if said.task_id or (what != "run" and said.done):
        return None
    reasons = [f"{name}: {why}" for name, why in said.refused.items()]
    reasons += [f"{name} did not answer" for name in silent]
    if said.done:
        reasons.append(f"{', '.join(said.done)}: no beat leads at the moment; try again")
    nobody = "no beat is in sight; start one: zmqtasks node --role beat --app MODULE"
    return f"beat {what} {entry!r:.75}: {'; '.join(reasons) or nobody}"


class Beats(AsyncTwins):
    """The beats of an application; ``app.control.beat``.

    Args:
        app: the application.
    """

    _where = "app.control.beat"

    def __init__(self, app: App) -> None:
        self._app = app

    def list(self, timeout: float = TIMEOUT_S) -> list[dict[str, Any]]:
        """The periodic tasks of the application, and what became of their last 100 ticks.

        Args:
            timeout: seconds that beats have to answer.

        Raises:
            ConfigError: no beat of the application answered.
        """
        check_blocking(f"{self._where}.list")
        replies = self._give(question(), timeout)
        found = [beats for beats in by_app(replies) if beats.app == self._app.name]
        if not found:
            silent = ", ".join(f"{name} did not answer" for name in replies.unanswered)
            hint = silent or "start one: zmqtasks node --role beat --app MODULE"
            raise ConfigError(f"{self._where}: no beat of app {self._app.name!r} is here; {hint}")
        return found[0].entries

    def pause(self, name: str, timeout: float = TIMEOUT_S) -> None:
        """Start this periodic task no more until it is resumed; kept by all beats.

        Raises:
            ConfigError: no beat has it.
        """
        self._order("pause", name, timeout)

    def resume(self, name: str, timeout: float = TIMEOUT_S) -> None:
        """Start this periodic task again when it is due.

        Raises:
            ConfigError: no beat has it.
        """
        self._order("resume", name, timeout)

    def run(self, name: str, timeout: float = TIMEOUT_S) -> AsyncResult[Any]:
        """Start this periodic task now, once, also if it is paused.

        Returns:
            The handle of its task.

        Raises:
            ConfigError: no beat has it, or none leads.
        """
        return self._app.AsyncResult(self._order("run", name, timeout).task_id)

    def _order(self, what: str, name: str, timeout: float) -> Told:
        check_blocking(f"{self._where}.{what}")
        replies = self._give(order(what, name, self._app.name), timeout)
        said = told(replies)
        problem = why_not(what, name, said, replies.unanswered)
        if problem is not None:
            raise ConfigError(problem)
        return said

    def _give(self, request: Request, timeout: float) -> Replies:
        return Replies(gateway(self._app).command(request, timeout)).warn(request.what)
