"""Peers on the local network, by multicast DNS (RFC 6762) and service discovery (6763).

One thread of its own with its own asyncio loop, since zeroconf wants one and may not slow
the node's loop down; it is imported there too (200 ms). The node's loop only hands over
what to announce and gets candidates through ``call_soon``.

mDNS only ever adds candidates. Its lifetimes say nothing about life (a crashed node stays
visible for over an hour), so a goodbye drops no link and silence proves nothing.

Choices that were measured: ``cooperating_responders`` skips probing for name conflicts,
1.2 s that unique names do not need; questions are asked by multicast (QM), because with
unicast answers (QU) several processes of one host take each other's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zmqtasks.core.links import Candidate
from zmqtasks.discovery.base import DiscoveryLoop, Gone, Listener
from zmqtasks.discovery.interfaces import (
    Interface,
    choose,
    speaking_addresses,
    system_interfaces,
)
from zmqtasks.discovery.mdns_record import SERVICE_TYPE, Record, make_record, read_record
from zmqtasks.limits import CANDIDATES_COUNT_MAX

if TYPE_CHECKING:
    from zeroconf import Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

_LOG = logging.getLogger("zmqtasks.discovery")
_ZEROCONF_LOG = logging.getLogger("zeroconf")
_THREAD_NAME = "zmqtasks-mdns"
#: Interfaces are looked at again this often: a laptop changes networks.
_INTERFACES_S = 10.0
#: Known candidates are told again this often, for who forgot one that was away.
_TELL_AGAIN_S = 60.0
#: A record that came without its address is asked for, this long and this many at once.
_RESOLVE_MS = 3_000
_RESOLVING_COUNT_MAX = 64
_HOST_TTL_S = 120


class MdnsDiscovery:
    """Peers found and told by multicast DNS.

    Args:
        mesh: hash of the mesh's name; other meshes are not looked at.
        loop: the node's loop.
        interfaces: names, addresses or networks to speak on; empty for the LAN's.
        delay_s: wait before anything is done, so that a short script which finds its
            peers another way never pays for this one.
    """

    def __init__(
        self,
        mesh: bytes,
        loop: DiscoveryLoop,
        interfaces: Sequence[str] = (),
        delay_s: float = 0.0,
    ) -> None:
        self._mesh = mesh
        self._loop = loop
        self._pinned = tuple(interfaces)
        self._delay_s = delay_s
        self._listener: Listener | None = None
        self._own_node = b""
        self._announcement: Candidate | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._aio: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        #: {instance name: candidate}, used by the thread alone.
        self._known: dict[str, Candidate] = {}
        self._resolving: set[asyncio.Task[None]] = set()

    # --- the Discovery protocol ---------------------------------------------------------

    def start(self, listener: Listener, gone: Gone) -> None:
        """Start the thread. ``gone`` is never called: mDNS proves no death."""
        self._listener = listener
        self._thread = threading.Thread(target=self._run, name=_THREAD_NAME, daemon=True)
        self._thread.start()

    def announce(self, candidate: Candidate) -> None:
        """Announce this node; one that only this host can reach is not announced."""
        self._own_node = candidate.node or b""
        self._announcement = candidate
        self._notify()

    def stop(self) -> None:
        """Say goodbye and end; :meth:`join` waits for it."""
        self._listener = None
        self._ended.set()
        self._notify()

    def join(self, timeout_s: float) -> None:
        """Wait until the goodbye is out, ``timeout_s`` at most."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _notify(self) -> None:
        aio, wake = self._aio, self._wake
        if aio is not None and wake is not None:
            try:
                aio.call_soon_threadsafe(wake.set)
            except RuntimeError:
                return  # The thread has ended by itself.

    # --- the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        if self._delay_s and self._ended.wait(self._delay_s):
            return
        _ZEROCONF_LOG.addFilter(_in_one_line)
        try:
            asyncio.run(self._main())
        except Exception as exc:  # noqa: BLE001  foreign code must not cost the node its life
            _LOG.warning(
                "mdns.failed: %s: %s; nodes of other hosts are found by --peer only",
                type(exc).__name__, exc,
            )  # fmt: skip

    async def _main(self) -> None:
        self._wake = asyncio.Event()
        self._aio = asyncio.get_running_loop()
        last_problem = ""
        while not self._ended.is_set():
            chosen = choose(system_interfaces(), self._pinned)
            problem = "" if chosen else "no interface to speak on"
            if chosen:
                try:
                    await self._speak(chosen)
                except OSError as exc:
                    problem = str(exc)
            if problem and problem != last_problem:
                _LOG.info("mdns.off: %s; trying on", problem)
            last_problem = problem
            if problem:
                await self._pause(_INTERFACES_S)

    async def _pause(self, limit_s: float) -> None:
        """Until something is to be done, ``limit_s`` at most."""
        wake = self._wake
        assert wake is not None
        try:
            await asyncio.wait_for(wake.wait(), limit_s)
        except TimeoutError:
            return
        finally:
            wake.clear()

    async def _speak(self, chosen: list[Interface]) -> None:
        """Announce and browse, until told to end or the interfaces changed."""
        from zeroconf import DNSQuestionType
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        zeroconf = AsyncZeroconf(interfaces=speaking_addresses(chosen))
        own_addresses = [text for one in chosen for text in one.addresses]
        try:
            browser = AsyncServiceBrowser(
                zeroconf.zeroconf,
                SERVICE_TYPE,
                handlers=[self._service_changed],
                question_type=DNSQuestionType.QM,
            )
            await self._serve(zeroconf, own_addresses, chosen)
            await browser.async_cancel()
        finally:
            for task in list(self._resolving):
                task.cancel()
            await zeroconf.async_close()

    async def _serve(
        self, zeroconf: AsyncZeroconf, own_addresses: list[str], chosen: list[Interface]
    ) -> None:
        registered: Record | None = None
        aio = asyncio.get_running_loop()
        tell_again_s = aio.time() + _TELL_AGAIN_S
        while not self._ended.is_set():
            candidate = self._announcement
            wanted = make_record(candidate, own_addresses) if candidate is not None else None
            if wanted != registered:
                await self._register(zeroconf, registered, wanted)
                registered = wanted
            await self._pause(_INTERFACES_S)
            if choose(system_interfaces(), self._pinned) != chosen:
                return
            if aio.time() >= tell_again_s:
                tell_again_s = aio.time() + _TELL_AGAIN_S
                for candidate in list(self._known.values()):
                    self._loop.call_soon(self._tell, candidate)

    async def _register(
        self, zeroconf: AsyncZeroconf, old: Record | None, new: Record | None
    ) -> None:
        if new is None:
            await zeroconf.async_unregister_all_services()
        elif old is None:
            await zeroconf.async_register_service(_info(new), cooperating_responders=True)
        else:
            await zeroconf.async_update_service(_info(new))

    # --- what others announce -----------------------------------------------------------

    def _service_changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: Any
    ) -> None:
        """Called by zeroconf in this thread's loop; must not block."""
        if state_change.name == "Removed":
            self._known.pop(name, None)
            return
        from zeroconf.asyncio import AsyncServiceInfo

        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._found(name, info)
        elif len(self._resolving) < _RESOLVING_COUNT_MAX:
            task = asyncio.get_running_loop().create_task(self._resolve(zeroconf, name, info))
            self._resolving.add(task)
            task.add_done_callback(self._resolving.discard)

    async def _resolve(self, zeroconf: Zeroconf, name: str, info: AsyncServiceInfo) -> None:
        from zeroconf import DNSQuestionType

        if await info.async_request(zeroconf, _RESOLVE_MS, question_type=DNSQuestionType.QM):
            self._found(name, info)

    def _found(self, name: str, info: AsyncServiceInfo) -> None:
        instance = name.removesuffix(f".{SERVICE_TYPE}")
        addresses = info.parsed_scoped_addresses()
        candidate = read_record(instance, info.port, addresses, info.decoded_properties)
        if candidate is None or candidate.mesh != self._mesh or candidate.node == self._own_node:
            return
        if name not in self._known and len(self._known) >= CANDIDATES_COUNT_MAX:
            return
        if self._known.get(name) != candidate:
            self._known[name] = candidate
            self._loop.call_soon(self._tell, candidate)

    def _tell(self, candidate: Candidate) -> None:
        if self._listener is not None:
            self._listener(candidate)


def _in_one_line(record: logging.LogRecord) -> bool:
    """Take over what zeroconf says on our thread: an interface that is down for a while
    is worth a line, but neither a warning nor a traceback. Others' use of it is theirs."""
    if record.threadName != _THREAD_NAME or record.levelno < logging.WARNING:
        return True
    _LOG.info("mdns.trouble: %s; trying on", record.getMessage())
    return False


def _info(record: Record) -> AsyncServiceInfo:
    from zeroconf.asyncio import AsyncServiceInfo

    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{record.instance}.{SERVICE_TYPE}",
        port=record.port,
        properties=record.properties,
        # A host name of its own: the machine's may be served by another responder.
        server=f"{record.instance}.local.",
        parsed_addresses=list(record.addresses),
        host_ttl=_HOST_TTL_S,
    )
