"""What signals of the operating system mean to a node.

::

    SIGINT, SIGTERM   1st: drain     2nd: end what runs, it runs elsewhere     3rd: end at once
                      (one that comes with the first is the first once more)
    SIGHUP            drain, then start the same command line again in this process; from a
                      terminal that is closed: as SIGTERM
    SIGUSR1           write the stacks of all threads into the log
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from zmqtasks.ids import format_task_id
from zmqtasks.pools.running import running_task

if TYPE_CHECKING:
    from zmqtasks.node.serve import Node

#: Exit code of a process that a signal ended before it had joined, or at once.
INTERRUPTED: Final = 130

#: Seconds in which a second signal to stop is an echo of the first: a supervisor passes on what
#: the terminal, or the group of processes, has sent here already. Nobody types it twice so fast.
_ECHO_S: Final = 0.1


class Step(Enum):
    """What a signal asks for."""

    NOTHING = 0
    DRAIN = 1
    HURRY = 2
    KILL = 3
    RESTART = 4


_STOPS: Final = (Step.DRAIN, Step.HURRY, Step.KILL)


class Wishes:
    """What signals, and whoever wants a restart, have asked for so far.

    Args:
        has_terminal: SIGHUP says that a terminal was closed, not that somebody wants a restart.
    """

    def __init__(self, *, has_terminal: bool) -> None:
        self._has_terminal = has_terminal
        self._stops = 0
        self._first_stop_s = 0.0
        #: The node shall start again when it has drained.
        self.wants_restart = False

    def take(self, number: int, now_s: float) -> Step:
        """One signal that stops or restarts.

        Args:
            number: of the signal.
            now_s: seconds of a clock that never goes back.
        """
        if number == signal.SIGHUP and not self._has_terminal:
            return self.restart()
        if self._stops == 1 and now_s - self._first_stop_s < _ECHO_S:
            return Step.NOTHING
        self.wants_restart = False
        self._stops += 1
        if self._stops == 1:
            self._first_stop_s = now_s
        return _STOPS[min(self._stops, len(_STOPS)) - 1]

    def restart(self) -> Step:
        """Somebody wants a restart. A node that stops does not care."""
        if self._stops or self.wants_restart:
            return Step.NOTHING
        self.wants_restart = True
        return Step.RESTART


class Signals:
    """Takes the signals of this process. In its main thread only."""

    def __init__(self) -> None:
        self._wishes = Wishes(has_terminal=_has_terminal())
        self._is_asked_early = False
        self._has_joined = False
        self._node: Node | None = None

    @property
    def wants_restart(self) -> bool:
        """The process shall call :func:`start_again` when the node has drained."""
        return self._wishes.wants_restart

    def catch_early(self) -> None:
        """Until there is a node: what stops raises KeyboardInterrupt, a restart waits."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        if _has_terminal():
            signal.signal(signal.SIGHUP, signal.default_int_handler)
        else:
            signal.signal(signal.SIGHUP, lambda _number, _frame: self.restart())
        # See start_again.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def obey(self, node: Node) -> None:
        """From now on they are the node's, which is about to join."""
        self._node = node
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGUSR1, lambda _number, frame: node.dump_stacks(frame))

    def joined(self) -> None:
        """The node has joined."""
        self._has_joined = True
        if self._is_asked_early:
            self.restart()

    def restart(self) -> None:
        """Have the node drain and start again, as soon as it is up. From any thread."""
        if not self._has_joined:
            self._is_asked_early = True
        elif self._wishes.restart() is Step.RESTART and self._node is not None:
            self._node.restart()

    def _stop(self, number: int, _frame: Any) -> None:
        node = self._node
        assert node is not None
        if number == signal.SIGHUP and not _has_terminal():
            self.restart()
            return
        if not node.is_joining:
            raise KeyboardInterrupt
        step = self._wishes.take(number, time.monotonic())
        if step is Step.KILL:
            # Its fork server sees that it is gone, and kills its children.
            os._exit(INTERRUPTED)
        elif step is not Step.NOTHING:
            node.stop(at_once=step is Step.HURRY, signum=number)


def _has_terminal() -> bool:
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def start_again(folder: Path) -> NoReturn:
    """Become a new process with the same number, command line and environment.

    Args:
        folder: the working directory that this one was started in.
    """
    # Without a handler it would end the process; blocked, it waits for one.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    os.chdir(folder)
    sys.stdout.flush()
    sys.stderr.flush()
    # It is the command line of this very process.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def stacks_text(here: FrameType | None = None) -> str:
    """The stacks of all threads of this process, with their names, a blank line after each.

    Args:
        here: where this thread is, but for what has asked for the stacks.
    """
    frames = sys._current_frames()
    if here is not None:
        frames[threading.get_ident()] = here
    parts = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None:
            stack = "".join(traceback.format_stack(frame))
            task = running_task() if thread is threading.current_thread() else None
            runs = f", runs {task.name}[{format_task_id(task.id)}]" if task else ""
            parts.append(f"thread {thread.name}{runs}, most recent call last:\n{stack}")
    return "\n".join(parts)
