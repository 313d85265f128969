"""The process that children are forked from.

It is started before the node has threads or ZeroMQ contexts, imports the application
and then only waits: a child forked from it starts in milliseconds, with clean threads
and warm imports. It is the parent of the children, so it alone can say how one ended
and can kill its process group without the risk of hitting a reused number. Python's own
``multiprocessing`` fork server is not used: it imports the caller's main module again,
adds a resource tracker process and does not tell exit statuses.

Protocol with the node, JSON lines over a stream socket:

* ``{"op": "spawn", "serial": n, "slot": i}`` (slot -1: the hook child) with four descriptors
  (child's socket, stdout, stderr, page), ``{"op": "kill", "serial": n}``,
  ``{"op": "end", "serial": n, "ordinal": k, "signal": s}``, ``{"op": "dump"}`` (have all children
  write their stacks to stderr); end of file: kill everything and exit.
* ``{"op": "up", "threads": n}`` once (-1: the import failed),
  ``{"op": "exit", "serial": n, "status": s}`` where s is an exit code or a negated signal,
  ``{"op": "looked", "serial": n, "ordinal": k, "hit": bool}`` once for each "end".

"end" is to hit one attempt and no other. So the child is stopped first, its page is looked
at once it has stopped, and only if it runs that attempt it gets the signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import io
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from typing import Any, Final, NoReturn

import msgspec

from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.child import ignore, load_function, run_child
from zmqtasks.pools.children import FDS_PER_CHILD
from zmqtasks.pools.page import DOOMED, Page
from zmqtasks.pools.protocol import HOOK_SLOT

_PR_SET_PDEATHSIG: Final = 1
_READ_BYTES: Final = 64 * 1024
#: Has a child write its stacks. A real-time signal, which applications hardly use; the handler
#: is C code that interrupts neither Python nor, beyond a restart, system calls.
_DUMP_SIGNAL: Final = getattr(signal, "SIGRTMIN", signal.SIGUSR1 - 4) + 4


def main(control_fd: int) -> NoReturn:
    """Entry point; the first line on the socket is the configuration."""
    control = socket.socket(fileno=control_fd)
    # What the application prints while it is imported must not mix with the output of
    # the node's command.
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):  # children must not get it unwritten
        sys.stdout.reconfigure(line_buffering=True)
    with contextlib.suppress(BrokenPipeError):
        _Server(control).run()
    os._exit(0)


def die_with_parent(enabled: bool) -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if enabled else 0)


def preload(config: PoolConfig) -> int:
    """Import what children need.

    Returns:
        The number of threads this started (children must not be forked beside threads),
        or -1 if it failed; the first child will fail likewise and tell why.
    """
    if not config.preload:
        return 0
    try:
        load_function(config.preload)(config)
    except BaseException:  # noqa: BLE001 (user code; see above)
        return -1
    return threading.active_count() - 1


class _Started:
    """A child that was not yet waited for."""

    def __init__(self, serial: int, page: Page) -> None:
        self.serial = serial
        self.page = page
        #: (attempt, signal) to be looked after when it has stopped.
        self.ends: list[tuple[int, int]] = []


class _Server:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._buffer = b""
        #: Descriptors that came with spawn lines, in order.
        self._fds: list[int] = []
        #: By pid.
        self._children: dict[int, _Started] = {}
        self._config = PoolConfig(app="")
        self._must_reap = False
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> None:
        """Serve until the node closes the socket."""
        lines = self._read_lines()
        while lines is not None and not lines:
            lines = self._read_lines()
        if lines is None:
            return
        self._config = msgspec.json.decode(lines[0], type=PoolConfig)
        # Ctrl-C and the SIGTERM of a service manager are for the node, which drains.
        signal.signal(signal.SIGINT, ignore)
        signal.signal(signal.SIGTERM, ignore)
        # An import that hangs would outlive a killed node.
        die_with_parent(True)
        threads = preload(self._config)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or never there
            sys.stdout.flush()  # what it printed may end without a newline
        die_with_parent(False)
        gc.collect()
        gc.freeze()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, ignore)
        # Children have it from their first moment: without it the signal would end them.
        faulthandler.register(_DUMP_SIGNAL, file=2, all_threads=True)
        self._tell({"op": "up", "threads": threads})
        for line in lines[1:]:
            self._obey(json.loads(line))
        self._loop()

    def _loop(self) -> None:
        try:
            while True:
                control: int = self._control.fileno()
                readable, _, _ = select.select([control, self._wake_read], [], [])
                if self._wake_read in readable:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                    self._reap()
                if control in readable:
                    lines = self._read_lines()
                    if lines is None:
                        return
                    for line in lines:
                        self._obey(json.loads(line))
                if self._must_reap:
                    self._must_reap = False
                    self._reap()
        finally:
            self._end_all()

    def _read_lines(self) -> list[bytes] | None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, _READ_BYTES, 8 * FDS_PER_CHILD)
        except ConnectionResetError:
            return None
        if not data:
            return None
        self._fds += fds
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return lines

    def _tell(self, message: dict[str, Any]) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")

    def _obey(self, order: dict[str, Any]) -> None:
        if order["op"] == "spawn":
            self._spawn(order["serial"], order["slot"])
            return
        if order["op"] == "dump":
            for pid in self._children:
                os.kill(pid, _DUMP_SIGNAL)  # not collected yet, so it cannot be another one's
            return
        for pid, child in self._children.items():
            if child.serial != order["serial"]:
                continue
            if order["op"] == "kill":
                _kill_group(pid)
            else:
                child.ends.append((order["ordinal"], order["signal"]))
                os.kill(pid, signal.SIGSTOP)
                self._must_reap = True  # it may have been stopped before

    def _spawn(self, serial: int, slot: int) -> None:
        fds, self._fds = self._fds[:FDS_PER_CHILD], self._fds[FDS_PER_CHILD:]
        page = Page(fds[-1])
        try:
            pid = os.fork()
        except OSError as exc:
            self._tell({"op": "exit", "serial": serial, "status": f"cannot start: {exc}"})
            pid = -1
        if pid == 0:
            self._become_child(serial, slot, page, fds)
        if pid > 0:
            self._children[pid] = _Started(serial, page)
        else:
            page.close()
        for fd in fds:
            os.close(fd)

    def _become_child(self, serial: int, slot: int, page: Page, fds: list[int]) -> NoReturn:
        code = 1
        try:
            os.setsid()
            die_with_parent(True)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            for fd in (self._wake_read, self._wake_write, *self._fds):
                os.close(fd)
            for sibling in self._children.values():
                sibling.page.close()
            sock_fd, stdout, stderr, page_fd = fds
            os.close(page_fd)
            if self._config.capture:
                os.dup2(stdout, 1)
                os.dup2(stderr, 2)
            os.close(stdout)
            os.close(stderr)
            _fresh_randomness()
            sock = socket.socket(fileno=sock_fd)
            if slot == HOOK_SLOT:
                from zmqtasks.pools.hooking import run_hook_child  # one process at most needs it

                run_hook_child(sock, serial, self._config, page.words)
            else:
                _pin(slot, self._config)
                run_child(sock, serial, self._config, page.words)
            code = 0
        except BaseException:  # noqa: BLE001 (nothing may return into the server's loop)
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        for pid in list(self._children):
            # Look without collecting, so that the number cannot be used anew before
            # the rest of the group is gone.
            what = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT
            found = os.waitid(os.P_PID, pid, what)
            if found is None:
                continue
            if found.si_code in (os.CLD_STOPPED, os.CLD_TRAPPED):
                self._look(pid, self._children[pid])
                continue
            _kill_group(pid)
            _, status = os.waitpid(pid, 0)
            child = self._children.pop(pid)
            child.page.close()
            self._tell(
                {"op": "exit", "serial": child.serial, "status": os.waitstatus_to_exitcode(status)}
            )

    def _look(self, pid: int, child: _Started) -> None:
        """It has stopped: end what is to be ended if it runs, then let it go on."""
        # Whoever else stopped it (a debugger, an operator) lets it go on.
        if not child.ends:
            return
        ends, child.ends = child.ends, []
        look = child.page.look()
        for ordinal, signum in ends:
            hit = look.is_running and look.begun == ordinal
            if hit:
                child.page.words[DOOMED] = ordinal
            self._tell({"op": "looked", "serial": child.serial, "ordinal": ordinal, "hit": hit})
            if hit and signum == signal.SIGKILL:
                _kill_group(pid)
            elif hit:
                os.kill(pid, signum)
        os.kill(pid, signal.SIGCONT)

    def _end_all(self) -> None:
        for pid in self._children:
            _kill_group(pid)
        for pid in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    # Before its setsid() a child is still in this process's group.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _pin(slot: int, config: PoolConfig) -> None:
    """Give this process the CPU and the GPU of its slot."""
    if config.cpus and sys.platform == "linux":
        os.sched_setaffinity(0, {config.cpus[slot % len(config.cpus)]})
    if config.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = config.gpus[slot % len(config.gpus)]


def _fresh_randomness() -> None:
    """Python seeds ``random`` anew after a fork; numpy does not."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
