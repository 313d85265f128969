"""A beat of a mesh in one process: it calls periodic tasks when the mesh's clock says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from zmqtasks.app.beatmain import BeatProgram, TickGateway
from zmqtasks.node.beating import Beating
from zmqtasks.node.gateway import Call
from zmqtasks.node.runtime import Part
from zmqtasks.testing.virtual_pool import way

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.node.beatchild import BeatChild
    from zmqtasks.node.beatfile import BeatFile
    from zmqtasks.testing.virtual_node import VirtualNode


class VirtualBeat:
    """One of them; made by ``VirtualMesh.add_beat``.

    Args:
        app: whose periodic tasks it calls.
        make_node: makes its node.
        called: told of the calls of each tick.

    Raises:
        ConfigError: a periodic task cannot be called.
    """

    def __init__(
        self, app: App, make_node: Callable[[Part], VirtualNode],
        called: Callable[[Sequence[Call]], None],
    ) -> None:  # fmt: skip
        program = _Program(app, called)
        part = Part(roles=("beat",), dial_roles=frozenset(), owns_tasks=True)
        part.performers = dict.fromkeys(Beating.EFFECTS, self._wants)
        self.node = make_node(part)
        self.name = self.node.name
        self._beating = Beating(
            self.node.as_runtime, cast("BeatChild", program), cast("BeatFile", _Forgotten())
        )
        self.node.open(self._beating.start)

    @property
    def is_alive(self) -> bool:
        """It has not been killed."""
        return self.node.rid in self.node.wires.nodes

    @property
    def leads(self) -> bool:
        """It is the one of its App's beats that calls them."""
        return self.is_alive and self._beating.beat.is_leader

    def _wants(self, effect: Any) -> None:
        self._beating.performers[type(effect)](effect)

    def __repr__(self) -> str:
        return f"<VirtualBeat {self.name}{'' if self.is_alive else ' (gone)'}>"


class _Program:
    """The application's side of a beat, which has a process of its own elsewhere: a
    ``BeatChild``."""

    def __init__(self, app: App, called: Callable[[Sequence[Call]], None]) -> None:
        self._gateway = TickGateway()
        self._program = BeatProgram(app, self._gateway)
        self._called = called
        self._loop: Any = None
        self.app = self._program.describe()
        self.answered: Callable[[list[Any]], None] = lambda answer: None
        self.broke: Callable[[str], None] = lambda why: None

    def attach(self, loop: Any) -> None:
        self._loop = loop

    def ask(self, *question: Any) -> None:
        self._loop.call_soon(self._answer, question)

    def _answer(self, question: Sequence[Any]) -> None:
        token = way.set(self._gateway)
        try:
            answer = self._program.answer(question)
        finally:
            way.reset(token)
        if answer[0] == "made":
            self._called(answer[2])
        self.answered(answer)


class _Forgotten:
    """A beat's file that keeps nothing."""

    def read(self) -> list[Any]:
        return []

    def save(self, records: object) -> None:
        """Nobody reads it."""
