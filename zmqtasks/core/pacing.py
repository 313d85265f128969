"""Attempts that yield items faster than these are read: they pause until somebody has read on.

After so many items an attempt asks its owner whether that has got them (a SUBMIT of nothing),
and goes on when it is answered. While the reader in the owner's process is behind, the answer
waits here: a pause costs no message, no timer and no window on the wire. Readers in other
processes, and callers that read nothing, hold nobody up.
"""

from __future__ import annotations

from collections.abc import Callable

from zmqtasks.core.links import LinkId


class Pacing:
    """Which tasks pause, and who waits for that to end.

    Args:
        answer: tells an attempt to go on, by the link and the number of its request.
    """

    def __init__(self, answer: Callable[[LinkId, int], None]) -> None:
        self._answer = answer
        #: {task id: requests that are not answered}, of all tasks whose reader is behind.
        self.paused: dict[bytes, list[tuple[LinkId, int]]] = {}

    def asked(self, link: LinkId, request: int, task_id: bytes) -> None:
        """An attempt of this task asks whether it may go on."""
        waiting = self.paused.get(task_id)
        if waiting is None:
            self._answer(link, request)
        else:
            waiting.append((link, request))

    def pause(self, task_id: bytes, is_behind: bool) -> None:
        """The reader of this task is behind, or is not any more."""
        if is_behind:
            self.paused.setdefault(task_id, [])
            return
        for link, request in self.paused.pop(task_id, ()):
            self._answer(link, request)

    def release(self) -> None:
        """Nobody reads on in this process, which is about to end."""
        for task_id in list(self.paused):
            self.pause(task_id, False)

    def link_down(self, link: LinkId) -> None:
        """Nobody is there to be answered."""
        for task_id, waiting in self.paused.items():
            self.paused[task_id] = [entry for entry in waiting if entry[0] != link]
