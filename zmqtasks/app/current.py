"""The apps of this process and the gateway that their calls go through.

A producing process opens a client at the first use of an App; Apps with the same
settings share one. Inside a pool child (and in tests) a gateway is installed that serves
all Apps. After a fork the child has the parent's objects but not its I/O thread, so it
forgets the clients and opens its own.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from zmqtasks.errors import ConfigError
from zmqtasks.node.gateway import Gateway

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.node.client import Client
    from zmqtasks.settings import NodeSettings

_lock = threading.RLock()
_apps: WeakSet[App] = WeakSet()
_current: App | None = None
_installed: Gateway | None = None
#: Flags of the command line that this process works for, by setting.
_flags: Mapping[str, object] = {}
_clients: dict[NodeSettings, Client] = {}
#: Clients of the process that this one was forked from; never used, never freed.
_parents_clients: list[Gateway] = []


def add_app(app: App) -> None:
    """A new App."""
    with _lock:
        _apps.add(app)


def set_current(app: App) -> None:
    """This one is meant when none is named."""
    global _current
    with _lock:
        _current = app


def all_apps() -> list[App]:
    """All Apps of this process that are still in use."""
    with _lock:
        return list(_apps)


def current_app() -> App:
    """The App made last, or made the current one: that of shared tasks and ``AsyncResult(id)``.

    Raises:
        ConfigError: there is none.
    """
    if _current is None:
        raise ConfigError(
            "this process has no App yet: create one (app = App('name')) or import the module "
            "that does, before calling shared tasks or looking at results"
        )
    return _current


def install(gateway: Gateway | None) -> None:
    """Send all calls of this process through this gateway; None undoes it."""
    global _installed
    with _lock:
        _installed = gateway
        for app in _apps:
            app.cached_gateway = None


@contextmanager
def through_clients() -> Iterator[None]:
    """Meanwhile calls go through clients of this process, as where no tasks run."""
    installed = _installed
    install(None)
    try:
        yield
    finally:
        install(installed)


def limit_exit(wait_s: float) -> None:
    """Have the clients of this process take no longer than so to hand over what they own, when
    it ends."""
    for client in list(_clients.values()):
        client.exit_wait_s = min(client.exit_wait_s, wait_s)


def end_clients(reason: str) -> None:
    """Have the clients of this process see to what they own, and leave."""
    with _lock:
        clients = list(_clients.values())
        _clients.clear()
    for client in clients:
        client.end(reason)


def gateway(app: App) -> Gateway:
    """The gateway for calls of this App, opened at its first use.

    Raises:
        ConfigError: the settings cannot be used.
    """
    found = app.cached_gateway
    if found is not None:
        return found
    app.set_up()
    with _lock:
        if app.cached_gateway is None:
            app.cached_gateway = _installed or _open_client(app)
        return app.cached_gateway


def _open_client(app: App) -> Gateway:
    # The only place where app/ needs sockets, so everything else starts without them.
    from zmqtasks.node.client import Client

    client = _clients.get(app.settings)
    if client is None:
        client = _clients[app.settings] = Client(app.settings)
    return client


def known_clients() -> list[NodeSettings]:
    """The settings for which this process has opened clients."""
    with _lock:
        return list(_clients)


def close_clients(but: Collection[NodeSettings]) -> None:
    """Leave the mesh with all others; for tests, which join more than one."""
    with _lock:
        ended = [_clients.pop(settings) for settings in list(_clients) if settings not in but]
        for app in _apps:
            if app.cached_gateway in ended:
                app.cached_gateway = None
    for client in ended:
        client.close()


def set_flags(flags: Mapping[str, object]) -> None:
    """Obey these flags of a command line; for Apps that have not read their settings."""
    global _flags
    _flags = flags


def command_line_flags() -> Mapping[str, object]:
    """What a command line says about the settings of this process."""
    return _flags


def in_running_loop() -> bool:
    """Whether the caller runs on an asyncio loop, which it must not block."""
    # Who has not imported asyncio has no loop; importing it takes long. Another thread may
    # be in the midst of that (the one that starts zeroconf), so the function may be missing.
    running_loop = getattr(sys.modules.get("asyncio.events"), "_get_running_loop", None)
    return running_loop is not None and running_loop() is not None


def working_directory() -> Path:
    """Where ``zmqtasks.toml`` is looked for."""
    return Path.cwd()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held the old one
    # Kept, since closing them would reach for sockets that belong to the parent.
    _parents_clients.extend(_clients.values())
    _clients.clear()
    for app in list(_apps):
        app.cached_gateway = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
