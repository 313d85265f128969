"""How many slots a worker has, between two bounds: more while work waits, fewer when not needed.

Pure: who looks at the worker now and then asks :meth:`Autoscale.decide` what to have.
"""

from __future__ import annotations

from zmqtasks.limits import AUTOSCALE_GROW_MS


class Autoscale:
    """The rule of ``autoscale = MAX,MIN``.

    Slots are added when all have been busy while tasks waited, at each look for
    ``AUTOSCALE_GROW_MS``: a burst of short tasks that is over in a moment starts no process.
    As many are added as tasks wait. They go when there were never more than so many busy for
    ``idle_ms``.

    Args:
        most: upper bound.
        least: lower bound, at least 1.
        idle_ms: how long slots may be unused.
    """

    def __init__(self, most: int, least: int, idle_ms: int) -> None:
        self.most = most
        self.least = least
        self.idle_ms = idle_ms
        #: Since when all slots are busy and tasks wait, -1: not so.
        self._pressed_ms = -1
        #: The most slots that were busy at once since a moment, and that moment.
        self._peak = 0
        self._peak_since_ms = -1

    def decide(self, now_ms: int, slots: int, busy: int, waiting: int) -> int:
        """How many slots to have.

        Args:
            now_ms: of a clock that does not go back.
            slots: that there are, those included that are being started.
            busy: slots with tasks.
            waiting: tasks that would start if there were slots.
        """
        grown = self._grown(now_ms, slots, busy, waiting)
        return min(self.most, max(self.least, grown or self._shrunk(now_ms, slots, busy)))

    def _grown(self, now_ms: int, slots: int, busy: int, waiting: int) -> int:
        if busy < slots or not waiting or slots >= self.most:
            self._pressed_ms = -1
            return 0
        if self._pressed_ms < 0:
            self._pressed_ms = now_ms
        if now_ms - self._pressed_ms < AUTOSCALE_GROW_MS:
            return 0
        self._pressed_ms = -1
        self._peak_since_ms = -1
        return slots + waiting

    def _shrunk(self, now_ms: int, slots: int, busy: int) -> int:
        if self._peak_since_ms < 0:
            self._peak, self._peak_since_ms = 0, now_ms
        self._peak = max(self._peak, busy)
        if now_ms - self._peak_since_ms < self.idle_ms:
            return slots
        self._peak_since_ms = -1
        return min(slots, self._peak)
