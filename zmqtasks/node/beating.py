"""The beat of a node: between its machine, the application's process, its file and people."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from zmqtasks import paths
from zmqtasks.core import effects as fx
from zmqtasks.core.beat import Beat
from zmqtasks.core.beatnode import add_beat
from zmqtasks.core.calls import Call
from zmqtasks.core.due import Due
from zmqtasks.errors import ConfigError
from zmqtasks.ids import format_task_id
from zmqtasks.node.beatchild import BeatChild
from zmqtasks.node.beatfile import BeatFile
from zmqtasks.wire.messages import Kind

if TYPE_CHECKING:
    from zmqtasks.node.runtime import Runtime

_LOG = logging.getLogger("zmqtasks.node")

#: What is known of ticks is written this soon, in milliseconds.
_SAVE_MS: Final = 200


class Beating:
    """One beat; on its loop's thread.

    Args:
        runtime: of the node.
        child: has loaded the application.
        file: what is known of ticks; by default the one in the state directory.
    """

    #: Those that are for it.
    EFFECTS: Final = (
        fx.PlanTicks, fx.FireTick, fx.SaveBeat, fx.CallsAccepted, fx.CallsRefused,
    )  # fmt: skip

    def __init__(
        self, runtime: Runtime, child: BeatChild, file: BeatFile | None = None
    ) -> None:  # fmt: skip
        self._runtime = runtime
        self._child = child
        self.app = child.app.name
        self.entries = child.app.entries
        self._file = file or BeatFile(
            paths.state_dir(runtime.settings), runtime.settings.mesh, self.app
        )
        self._beat: Beat | None = None
        self._is_save_planned = False
        #: Questions that the child has not answered: entries, and tasks of ticks.
        self._planning: dict[str, fx.PlanTicks] = {}
        self._making: dict[bytes, fx.FireTick] = {}
        self._is_child_there = True
        #: {token of a durable submission: the task of its tick}.
        self._tokens: dict[int, bytes] = {}
        self._token = 0
        #: What carries them out.
        self.performers: dict[type, Any] = dict(
            zip(
                self.EFFECTS,
                (self._plan, self._fire, self._save, self._accepted, self._refused),
                strict=True,
            )
        )
        runtime.control.add(
            {"beat": self._tell},
            {"beat_pause": self._pause, "beat_resume": self._resume, "beat_run": self._run},
        )

    @property
    def beat(self) -> Beat:
        """The machine."""
        assert self._beat is not None, "the node has been opened"
        return self._beat

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """The node has been opened, and has no links so far."""
        mesh = self._runtime.settings.mesh
        self._beat = add_beat(
            self._runtime.mesh, mesh, self.app, self._runtime.wall_ms(), self.entries,
            self._file.read(),
        )  # fmt: skip
        self._child.answered = self._answered
        self._child.broke = self._broke
        self._child.attach(self._runtime.loop)

    def close(self) -> None:
        """The node has left the mesh."""
        if self._beat is not None:
            self._file.save(self._records())
        self._file.close()
        self._child.close()

    # --- the file -----------------------------------------------------------------------------

    def _save(self, effect: fx.SaveBeat) -> None:
        if not self._is_save_planned:
            self._is_save_planned = True
            self._runtime.loop.call_later(_SAVE_MS, self._save_now)

    def _save_now(self) -> None:
        self._is_save_planned = False
        self._file.save(self._records())

    def _records(self) -> list[Any]:
        """As they are now: the thread that writes them takes its time."""
        whole = [record for piece in self.beat.ledger.all() for record in piece]
        return [msgspec.structs.replace(r, ticks=_copies(r.ticks)) for r in whole]

    # --- the application's process ------------------------------------------------------------

    def _plan(self, effect: fx.PlanTicks) -> None:
        self._planning[effect.name] = effect
        if self._is_child_there:
            self._child.ask("plan", *effect)

    def _fire(self, effect: fx.FireTick) -> None:
        self._making[effect.id] = effect
        if self._is_child_there:
            self._child.ask("make", effect.name, effect.id, effect.first_attempt)

    def _broke(self, why: str) -> None:
        _LOG.error("%s; it is started again", why)
        self._is_child_there = False

    def _answered(self, answer: Any) -> None:
        if not self._is_child_there:
            self._back(answer)
            return
        what, *rest = answer
        if what == "planned":
            name, after_ms, until_ms, *due = rest
            self._planning.pop(name, None)
            self.beat.planned(name, after_ms, until_ms, Due(*due))
        elif what == "unplanned":
            name, text = rest
            self._planning.pop(name, None)
            self.beat.unplanned(name, text)
        elif what == "made":
            self._made(*rest)
        else:
            task_id, text = rest
            self._making.pop(task_id, None)
            self.beat.refused(task_id, text, is_final=True)

    def _back(self, answer: Any) -> None:
        """A new process has loaded the application, or could not."""
        if answer.get("error"):
            _LOG.error("%s", answer["error"])
            return  # it ends, and is started again
        self._is_child_there = True
        for plan in list(self._planning.values()):
            self._plan(plan)
        for fire in list(self._making.values()):
            self._fire(fire)

    def _made(self, task_id: bytes, made: Sequence[Any], is_durable: bool) -> None:
        self._making.pop(task_id, None)
        calls = [_call_of(call) for call in made]
        mesh, now_ms = self._runtime.mesh, self._runtime.now_ms
        assert mesh.dispatcher is not None
        if not calls:
            self.beat.refused(task_id, "its entry calls nothing", is_final=True)
        elif not mesh.dispatcher.has_room:
            text = f"this node has {mesh.dispatcher.open_count} open tasks already"
            self.beat.refused(task_id, text, is_final=False)
        elif is_durable:
            self._token += 1
            self._tokens[self._token] = task_id
            mesh.submit_durable(calls, self._token, now_ms)
        else:
            mesh.submit(calls, now_ms)

    def _accepted(self, effect: fx.CallsAccepted) -> None:
        self._tokens.pop(effect.token, None)

    def _refused(self, effect: fx.CallsRefused) -> None:
        task_id = self._tokens.pop(effect.token, None)
        if task_id is not None:
            self.beat.refused(task_id, effect.text, is_final=False)

    # --- what people want ---------------------------------------------------------------------

    def _tell(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, Any]:
        beat = self.beat
        return {
            "app": self.app,
            "leads": beat.is_leader,
            "leader": self._runtime.name if beat.is_leader else beat.leader_name,
            "entries": beat.describe(),
        }

    def _pause(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        self.beat.pause(self._name_in(args), True, self._time_in(args))
        return {"ok": "paused"}

    def _resume(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        self.beat.pause(self._name_in(args), False, self._time_in(args))
        return {"ok": "goes on"}

    def _run(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        task_id = self.beat.run(self._name_in(args), self._time_in(args))
        if task_id is None:
            return {"ok": "not the leader"}
        return {"ok": "started", "id": format_task_id(task_id)}

    def _name_in(self, args: Mapping[str, Any]) -> str:
        if args.get("of_app") not in (None, self.app):
            raise ConfigError(f"it is a beat of app {self.app}")
        name = args.get("entry")
        if not isinstance(name, str):
            raise ConfigError("entry= is missing: the name of a periodic task (zmqtasks beat list)")
        return name

    def _time_in(self, args: Mapping[str, Any]) -> int:
        """When it was ordered, by the wall clock of whoever did; the same for all beats."""
        at_ms = args.get("at_ms")
        return at_ms if isinstance(at_ms, int) and at_ms > 0 else self._runtime.wall_ms()

    def describe(self) -> list[str]:
        """Lines for the banner."""
        shown = [f"{entry.name} ({entry.schedule})" for entry in self.entries[:8]]
        more = f" and {len(self.entries) - 8} more" if len(self.entries) > 8 else ""
        what = f": {', '.join(shown)}{more}" if shown else ", which has no periodic tasks"
        return [f"starts the periodic tasks of app {self.app}{what}"]


def _copies(ticks: Sequence[Any]) -> list[Any]:
    return [msgspec.structs.replace(tick, starts=list(tick.starts)) for tick in ticks]


def _call_of(made: Sequence[Any]) -> Call:
    task_id, kind, body, ext = made
    return Call(task_id, msgspec.convert(kind, Kind), body, ext)
