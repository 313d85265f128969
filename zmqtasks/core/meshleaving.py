"""What a node of the mesh still has to do before it may leave."""

from __future__ import annotations

from zmqtasks.core.intake import Intake
from zmqtasks.core.ownership import Ownership
from zmqtasks.core.publishing import Publisher


class LeavingNode:
    """The base of ``MeshNode`` that is about its end."""

    ownership: Ownership | None
    intake: Intake | None
    publisher: Publisher

    def leave_tasks(self, now_ms: int) -> None:
        """Give away what this node owns, as far as others take it; see ``tasks_left``."""
        assert self.ownership is not None
        self.ownership.leave(now_ms)

    @property
    def tasks_left(self) -> int:
        """Open tasks that nobody else has taken."""
        return self.ownership.handoff.left() if self.ownership is not None else 0

    def stay_with_tasks(self) -> dict[str, int]:
        """Give nothing more away; what is offered stays here. Before goodbyes are said, and
        then ``is_deciding`` has to turn False.

        Returns:
            {name of a node: tasks that it has taken since ``leave_tasks``}.
        """
        assert self.ownership is not None
        return self.ownership.stay()

    @property
    def is_deciding(self) -> bool:
        """The journal is writing, or a task is on its way from one owner to another."""
        return self.ownership is not None and self.ownership.is_deciding

    @property
    def is_idle(self) -> bool:
        """Nothing runs here, nobody waits for an outcome of ours, and the journal has what
        it was asked to hold (for draining)."""
        if self.intake is not None and self.intake.running_count:
            return False
        if self.is_deciding:
            return False
        return self.publisher.is_idle
