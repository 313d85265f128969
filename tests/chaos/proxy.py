"""A TCP proxy that makes the way between two processes as bad as a test wants it.

Loopback only. Each route has a listening port of its own and leads to one target; its
weather can change at any time and holds for the connections that it has and will have.
Nothing that a route holds back is lost until the connection itself ends, as with TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

_T = TypeVar("_T")

#: "up" leads from who dialled to the target.
Way = Literal["up", "down"]

_HOST = "127.0.0.1"
_CHUNK_BYTES = 16 * 1024
_LOOK_EVERY_S = 0.005
#: A slow slice after slice keeps the loop from its other connections.
_SLICES_PER_TURN = 64
_ANSWER_S = 10.0
#: SO_LINGER with no time: closing sends RST instead of FIN.
_AT_ONCE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Weather:
    """How a route carries bytes."""

    #: Each piece waits at most so long, drawn anew.
    delay_s_max: float = 0.0
    #: So many bytes a segment, 0 for as many as there are.
    slice_bytes: int = 0
    #: A connection is reset after so many bytes both ways, drawn between these for each.
    reset_bytes: tuple[int, int] | None = None
    #: Nothing is carried this way, and nothing lost.
    stalled: frozenset[Way] = frozenset()


CLEAR = Weather()


@dataclass(eq=False)
class _Connection:
    dialled: socket.socket
    target: socket.socket
    #: It is reset when so many bytes have been carried.
    bytes_max: float
    bytes_count: int = 0
    #: The target has been told that it is over and who dialled has not: what that one
    #: sends is swallowed.
    half_open: bool = False

    @property
    def is_spent(self) -> bool:
        return self.bytes_count >= self.bytes_max

    def close(self) -> None:
        for sock in (self.dialled, self.target):
            if self.is_spent:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            sock.close()


@dataclass(eq=False)
class Route:
    """One listening port and where it leads."""

    port: int
    target_port: int
    weather: Weather = CLEAR
    #: Connections that were accepted, and of those the ones that the route has cut.
    accepted_count: int = 0
    cut_count: int = 0
    bytes_count: int = 0
    open: set[_Connection] = field(default_factory=set)


class Proxy:
    """Routes on a thread of their own; a context manager.

    Args:
        seed: of all that is drawn.
    """

    def __init__(self, seed: int = 0) -> None:
        self._draw = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: list[socket.socket] = []
        self.routes: list[Route] = []

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._on_loop(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_S)
        self._loop.close()

    def lead(self, target_port: int) -> Route:
        """A new route to a port of this host."""
        listening = socket.create_server((_HOST, 0))
        listening.setblocking(False)
        route = Route(listening.getsockname()[1], target_port)
        self.routes.append(route)
        self._listening.append(listening)
        self._call(lambda: self._spawn(self._accept(listening, route)))
        return route

    def half_open(self, route: Route) -> int:
        """The connections end for the target; who dialled is not told.

        Returns:
            How many there were.
        """

        def cut() -> int:
            found = [one for one in route.open if not one.half_open]
            for one in found:
                one.half_open = True
                with contextlib.suppress(OSError):
                    one.target.shutdown(socket.SHUT_RDWR)
            route.cut_count += len(found)
            return len(found)

        return self._call(cut)

    # --- on the loop ----------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket, route: Route) -> None:
        while True:
            dialled, _ = await self._loop.sock_accept(listening)
            dialled.setblocking(False)
            self._spawn(self._serve(dialled, route))

    async def _serve(self, dialled: socket.socket, route: Route) -> None:
        target = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        target.setblocking(False)
        span = route.weather.reset_bytes
        connection = _Connection(
            dialled, target, self._draw.randint(*span) if span else float("inf")
        )
        route.accepted_count += 1
        route.open.add(connection)
        try:
            await self._loop.sock_connect(target, (_HOST, route.target_port))
            for sock in (dialled, target):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._carry(connection, route, "up"))
                ways.create_task(self._carry(connection, route, "down"))
        except* OSError:
            pass
        finally:
            route.open.discard(connection)
            connection.close()

    async def _carry(self, connection: _Connection, route: Route, way: Way) -> None:
        """Until the source has no more to say.

        Raises:
            OSError: the connection has come to its end.
        """
        source, sink = connection.dialled, connection.target
        if way == "down":
            source, sink = sink, source
        while data := await self._loop.sock_recv(source, _CHUNK_BYTES):
            weather = route.weather
            if weather.delay_s_max:
                await asyncio.sleep(self._draw.uniform(0.0, weather.delay_s_max))
            while way in route.weather.stalled:  # noqa: ASYNC110  another thread changes it
                await asyncio.sleep(_LOOK_EVERY_S)
            if connection.half_open:
                continue
            if connection.bytes_count + len(data) > connection.bytes_max:
                data = data[: int(connection.bytes_max) - connection.bytes_count]
            connection.bytes_count += len(data)
            route.bytes_count += len(data)
            await self._send(sink, data, weather.slice_bytes)
            if connection.is_spent:
                route.cut_count += 1
                raise ConnectionResetError("as the weather wants it")
        if not connection.half_open:
            sink.shutdown(socket.SHUT_WR)
        elif way == "up":
            raise ConnectionAbortedError("who dialled has given up")
        else:
            await asyncio.Event().wait()

    async def _send(self, sink: socket.socket, data: bytes, slice_bytes: int) -> None:
        if not slice_bytes:
            await self._loop.sock_sendall(sink, data)
            return
        for number, at in enumerate(range(0, len(data), slice_bytes)):
            await self._loop.sock_sendall(sink, data[at : at + slice_bytes])
            if number % _SLICES_PER_TURN == 0:
                await asyncio.sleep(0)

    async def _end(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sock in self._listening:
            sock.close()

    # --- from other threads ---------------------------------------------------------------

    def _on_loop(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_S)

    def _call(self, function: Callable[[], _T]) -> _T:
        async def call() -> _T:
            return function()

        return self._on_loop(call())
