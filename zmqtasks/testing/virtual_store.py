"""The store of a mesh in one process: results in memory, written at once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from zmqtasks.core import effects as fx
from zmqtasks.core.rows import final_row
from zmqtasks.node.runtime import Part
from zmqtasks.stores.memory import MemoryStore
from zmqtasks.wire.messages import Verdict

if TYPE_CHECKING:
    from zmqtasks.testing.virtual_node import VirtualNode
    from zmqtasks.testing.virtual_time import VirtualClock

T = TypeVar("T")


class VirtualStore:
    """A node that keeps results.

    Args:
        clock: of the mesh.
        make_node: makes its node.
    """

    def __init__(self, clock: VirtualClock, make_node: Callable[[Part], VirtualNode]) -> None:
        self._store = MemoryStore(wall_ms=clock.wall_ms)
        part = Part(
            roles=("store",),
            dial_roles=frozenset(),
            owns_tasks=True,
            keeps_results=True,
            performers={
                fx.StoreRows: self._write,
                fx.AskStore: self._ask,
                fx.ForgetRows: lambda effect: finished(self._store.delete(effect.ids)),
            },
        )
        self.node = make_node(part)
        self.node.open()

    def _write(self, effect: fx.StoreRows) -> None:
        finished(self._store.put_batch(effect.outcomes, effect.verdicts))
        ids = [row.task_id for row in effect.outcomes]
        ids += [row.task_id for row in effect.verdicts]
        rows = finished(self._store.get_batch(list(dict.fromkeys(ids))))
        settled = [
            task_id
            for task_id, found in rows.items()
            if (row := final_row(found)) is not None and row.verdict == Verdict.SETTLED
        ]
        self.node.mesh.rows_stored(effect.batch, len(ids), settled)

    def _ask(self, effect: fx.AskStore) -> None:
        rows = finished(self._store.get_batch(effect.ids))
        self.node.mesh.answers.store_answered(effect.token, rows)


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits (those of the memory store)."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("it waits")
