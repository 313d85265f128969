"""Tasks that come from another owner, and are here already.

Who repeats a call, with its ``idempotency_key`` or ``task_id``, while nobody is in sight that
knows of the first one, owns it as well. That shows when both come to one node. With the
same content it is the same task, and has one outcome. Of two contents the one that was
here first stands; its story tells of the other one, which nobody runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import Effect, Note
from zmqtasks.core.links import LinkId
from zmqtasks.ids import format_node, format_task_id

#: Key of a task's ``ext``: the digest of its content.
_CONTENT_KEY = "c"


class Repeats:
    """Tells what is here already. ``effects`` is drained by the owner.

    Args:
        dispatcher: owns tasks, and keeps outcomes.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.effects: list[Effect] = []
        #: {link: tasks} offered there by somebody who waits for their outcomes.
        self._awaited: dict[LinkId, dict[bytes, None]] = {}

    def is_here(self, task_id: bytes, ext: dict[str, Any] | None, giver: bytes) -> bool:
        """This node owns the task, or has settled it: nothing is to be done for it again.

        Args:
            task_id: of a task that another node owns, or owned when it ended.
            ext: of that task.
            giver: that node.
        """
        owner = self.dispatcher
        known = owner.tasks.get(task_id) or owner.kept.get(task_id)
        if known is not None and has_other_content(ext, known.ext):
            self._tell(task_id, giver)
        return known is not None

    # --- who waits for them -----------------------------------------------------------------

    def is_awaited(self, task_id: bytes, link: LinkId) -> None:
        """Whoever offers it here wants to hear of its outcome, once it is given."""
        self._awaited.setdefault(link, {})[task_id] = None

    def take_awaited(self, ids: Iterable[bytes], link: LinkId) -> list[bytes]:
        """The offers of these are decided; returns those whose outcome is awaited there."""
        awaited = self._awaited.get(link)
        if awaited is None:
            return []
        found = [task_id for task_id in ids if task_id in awaited]
        for task_id in found:
            awaited.pop(task_id, None)
        if not awaited:
            del self._awaited[link]
        return found

    def link_down(self, link: LinkId) -> None:
        """It asks of its own accord when it is back."""
        self._awaited.pop(link, None)

    # --- other content ----------------------------------------------------------------------

    def _tell(self, task_id: bytes, giver: bytes) -> None:
        node = format_node(giver)
        stories = self.dispatcher.stories
        if not any(line.get("other") == node for line in stories.of(task_id)):
            stories.tell(task_id, "other content", other=node)
        text = (
            f"node {node} hands over a task with the id of {format_task_id(task_id)} and other "
            "content: only the one that was here first is run; repeat a call with the same "
            "arguments, or choose another idempotency_key or task_id"
        )
        self.effects.append(Note("warning", "task.other_content", text, text))


def has_other_content(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    """Two calls with one id, which their callers have chosen, ask for different things."""
    digest = (one or {}).get(_CONTENT_KEY)
    return bool(digest is not None and (other or {}).get(_CONTENT_KEY, digest) != digest)
