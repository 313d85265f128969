"""``zmqtasks node``: one node of the mesh, in the foreground."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zmqtasks.cli.errors import EXIT_FAILED, one_line, show_error
from zmqtasks.cli.logs import set_up_logging
from zmqtasks.cli.options import setting_options, settings_from
from zmqtasks.cli.reloading import CodeWatcher
from zmqtasks.errors import AppLoadError, ConfigError
from zmqtasks.node.ossignals import Signals, start_again
from zmqtasks.node.slots import node_name
from zmqtasks.settings import SETTING_NAMES, Loaded, NodeSettings, describe
from zmqtasks.settings_checks import parse_autoscale
from zmqtasks.words import counted

if TYPE_CHECKING:
    from zmqtasks.node.beatchild import BeatChild
    from zmqtasks.node.serve import Node
    from zmqtasks.pools.base import Pool

#: {roles: settings that no other node uses}.
_FLAGS_OF = {
    ("worker", "beat"): ("app",),
    ("worker",): (
        "queues",
        "concurrency",
        "tags",
        "resources",
        "pool",
        "autoscale",
        "autoscale_idle_s",
        "max_tasks_per_child",
        "max_memory_per_child",
        "child_idle_s",
        "cpus",
        "gpus",
    ),
    ("store",): ("store", "result_keep_s"),
}
#: Nodes with one of these load the application.
_APP_ROLES = frozenset(("worker", "beat"))


@click.command()
@setting_options()
@click.option("--print-config", is_flag=True, help="Print every setting and its origin, and exit.")
@click.option(
    "--reload",
    "reloads",
    is_flag=True,
    help="Restart in place when a Python file below the working directory changes.",
)
def node(print_config: bool, reloads: bool, **flags: Any) -> None:
    """Start a node: a worker (runs tasks), a store (keeps results), a broker (keeps tasks
    until a worker takes them), a beat (starts periodic tasks), or several of these.

    It runs until SIGINT or SIGTERM: then it finishes what it runs and leaves. A second
    signal has its tasks run elsewhere, a third one kills it. SIGHUP restarts it in place,
    SIGUSR1 writes the stacks of all threads into the log.
    """
    if (flags["log_format"] or os.environ.get("ZMQTASKS_LOG_FORMAT")) == "json":
        # Settings that cannot be used are told to whoever reads the log, too.
        set_up_logging("INFO", "json", node_name(NodeSettings(name=flags["name"] or "")))
    loaded = settings_from(flags)
    if print_config:
        show_config(with_app(flags, loaded))
        return
    check_flags(loaded)
    if reloads and _APP_ROLES.isdisjoint(loaded.settings.roles):
        raise ConfigError("--reload is for nodes that load your code; leave it out")
    sys.exit(run(flags, loaded, reloads=reloads))


def check_flags(loaded: Loaded) -> None:
    """Refuse flags that would do nothing here. The same in a file or in the environment may
    be meant for other nodes.

    Raises:
        ConfigError: names the flag and the role.
    """
    roles = loaded.settings.roles
    for users, keys in _FLAGS_OF.items():
        given = [loaded.origins[key] for key in keys if loaded.origins[key].startswith("flag ")]
        if given and set(users).isdisjoint(roles):
            raise ConfigError(
                f"{given[0]} is for nodes with the role {' or '.join(users)}, and this one is a "
                f"{' and '.join(roles)}: leave it out, or add --role {users[0]}"
            )


def with_app(flags: dict[str, Any], loaded: Loaded) -> Loaded:
    """The settings with those that the application makes, when a node would load it.

    Whatever is wrong with the application, the others can be looked at.
    """
    if _APP_ROLES.isdisjoint(loaded.settings.roles):
        return loaded
    from zmqtasks.app.childmain import conf_of
    from zmqtasks.app.spec import find_spec

    try:
        spec = find_spec(loaded.settings.app, Path.cwd())
    except AppLoadError:
        return loaded
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no setting
            conf = conf_of(spec, flags_for_tasks(loaded))
    except AppLoadError as exc:
        click.echo(f"zmqtasks: without the settings of the application: {one_line(exc)}", err=True)
        return loaded
    return settings_from(flags, conf)


def show_config(loaded: Loaded) -> None:
    """Every value as TOML, with where it came from as a comment."""
    rows = describe(loaded)
    width = max(len(f"{key} = {value}") for key, value, _ in rows if len(value) < 60)
    for key, value, origin in rows:
        click.echo(f"{f'{key} = {value}':<{width}}  # {origin}")


def run(flags: dict[str, Any], loaded: Loaded, *, reloads: bool = False) -> int:
    """Run the node to its end; returns the exit code.

    Args:
        flags: as given, to read the settings again with those that the application makes.
        loaded: the settings as far as they are known before it is loaded.
        reloads: restart in place when code changes.
    """
    settings = loaded.settings
    set_up_logging(settings.log_level, settings.log_format, node_name(settings))
    signals = Signals()
    signals.catch_early()
    folder = Path.cwd()
    watcher = CodeWatcher(folder, signals.restart) if reloads else None
    try:
        node = start(flags, loaded, signals)
    except (AppLoadError, ConfigError) as exc:
        if watcher is None:
            raise
        signals.catch_early()
        show_error(exc)
        logging.getLogger("zmqtasks.node").info("starts again when the code changes (--reload)")
        watcher.wait()
        start_again(folder)
    show_banner(node)
    code = node.run()
    if signals.wants_restart and code != EXIT_FAILED:
        start_again(folder)
    return code


def start(flags: dict[str, Any], loaded: Loaded, signals: Signals) -> Node:
    """The node, up; see :func:`run`."""
    settings, pool, beat = loaded.settings, None, None
    try:
        if "worker" in settings.roles:
            pool = make_pool(settings, flags_for_tasks(loaded))
        if "beat" in settings.roles:
            beat = make_beat(settings, flags_for_tasks(loaded))
        from zmqtasks.node.serve import Node  # after the pool's server has been launched

        of_tasks: dict[str, Any] = {}
        if pool is not None:
            settings, of_tasks = load_app_into(pool, flags, settings)
        if beat is not None:
            conf = beat.load()
            if pool is None and conf:
                settings = settings_of_app(flags, conf)
        node = Node(settings, pool, beat)
        node.runtime.control.of_tasks = of_tasks
        signals.obey(node)
        node.start()
    except BaseException:
        if pool is not None:
            pool.stop()
        if beat is not None:
            beat.close()
        raise
    signals.joined()
    return node


def show_banner(node: Node) -> None:
    """Say what has started: in the log, or as a block on a terminal."""
    lines = banner(node)
    if node.settings.log_format != "text" or not sys.stderr.isatty():
        for line in lines:
            logging.getLogger("zmqtasks.node").info("%s", line)
        return
    width = shutil.get_terminal_size().columns
    for number, line in enumerate(lines):
        click.echo(
            textwrap.fill(
                line, width, initial_indent="  " if number else "", subsequent_indent="    ",
                break_long_words=False, break_on_hyphens=False,
            ),
            err=True,
        )  # fmt: skip


def flags_for_tasks(loaded: Loaded) -> dict[str, Any]:
    """What the command line says, but for the name, which is this node's alone."""
    return {
        key: getattr(loaded.settings, key)
        for key, origin in loaded.origins.items()
        if origin.startswith("flag ") and key != "name"
    }


def load_app_into(
    pool: Pool, flags: dict[str, Any], settings: NodeSettings
) -> tuple[NodeSettings, dict[str, Any]]:
    """Wait until the pool has the application.

    Returns:
        The settings with those that it makes; and those that are about its tasks.
    """
    from zmqtasks.node.slots import plan_of

    made = pool.load()
    conf = {key: value for key, value in made.items() if key in SETTING_NAMES}
    of_tasks = {key: value for key, value in made.items() if key not in conf}
    if conf:
        settings = settings_of_app(flags, conf)
    pool.plan(plan_of(settings))
    return settings, of_tasks


def settings_of_app(flags: dict[str, Any], conf: Mapping[str, Any]) -> NodeSettings:
    """The settings with those that the application makes."""
    settings = settings_from(flags, conf).settings
    set_up_logging(settings.log_level, settings.log_format, node_name(settings))
    return settings


def make_beat(settings: NodeSettings, flags: dict[str, Any]) -> BeatChild:
    """The process that has the schedules of a beat, launched."""
    from zmqtasks.app.spec import find_spec
    from zmqtasks.node.beatchild import BeatChild, BeatStart

    app = find_spec(settings.app, Path.cwd())
    return BeatChild(BeatStart(app, flags))


def make_pool(settings: NodeSettings, flags: dict[str, Any]) -> Pool:
    """The pool of a worker, launched."""
    from zmqtasks.app.spec import find_spec
    from zmqtasks.node.slots import cpus_of
    from zmqtasks.pools.base import PoolConfig
    from zmqtasks.pools.registry import make_pool as make_pool_of

    config = PoolConfig(
        app=find_spec(settings.app, Path.cwd()),
        node_name=node_name(settings),
        payload_bytes_max=settings.payload_bytes_max,
        log_level=settings.log_level,
        flags=flags,
        cpus=cpus_of(settings),
        gpus=settings.gpus,
    )
    pool = make_pool_of(settings.pool, config)
    pool.launch()
    return pool


def slots_text(settings: NodeSettings, slots: int) -> str:
    """How many tasks run at once, for people."""
    if not settings.autoscale:
        return str(slots)
    most, least = parse_autoscale(settings.autoscale)
    return f"{least} to {most}"


def tasks_text(names: Collection[str]) -> str:
    """How many tasks there are, and which; commands of the application apart."""
    from zmqtasks.core.diagnosis import is_command, is_internal

    commands = sorted(name.split(".", 2)[2] for name in names if is_command(name))
    tasks = sorted(name for name in names if not is_internal(name))
    shown = f" ({', '.join(tasks[:8])}{', …' if len(tasks) > 8 else ''})" if tasks else ""
    more = f" and {counted(len(commands), 'command')} ({', '.join(commands)})" if commands else ""
    return f"{counted(len(tasks), 'task')}{shown}{more}"


def banner(node: Node) -> list[str]:
    """What a person wants to know of a node that has just started."""
    runtime, settings = node.runtime, node.settings
    hello = runtime.mesh.hello
    lines = [
        f"node {hello.name} of mesh '{settings.mesh}' is up: {', '.join(hello.roles)}",
        "listens on " + ", ".join(hello.endpoints),
    ]
    if hello.slots:
        of = "queue" if len(hello.queues) == 1 else "queues"
        names = tasks_text({entry.name for entry in hello.catalog})
        lines.append(
            f"runs {names} of {of} {', '.join(hello.queues)}, "
            f"{slots_text(settings, hello.slots)} at once ({settings.pool} pool)"
        )
        if settings.tags or settings.resources:
            lines.append(f"has {', '.join((*settings.tags, *settings.resources))}")
    if node.beating is not None:
        lines += node.beating.describe()
    if "store" in hello.roles:
        lines.append(f"keeps results in {node.part.describe_store()['url']}")
    journal = node.journal
    if journal.folder and ("broker" in hello.roles or journal.resumed_count):
        lines.append(
            f"keeps the tasks that it owns in {journal.folder} and goes on with "
            f"{journal.resumed_count:,} that were there"
        )
    has_port = any(endpoint.startswith("tcp://") for endpoint in hello.endpoints)
    unused = [key for key in ("port", "advertise") if getattr(settings, key) and not has_port]
    if unused:
        lines.append(f"opens no port, so it does nothing with: {' and '.join(unused)}")
    if runtime.fingerprint:
        who = (
            "members on other hosts can join"
            if runtime.endpoints.lan_port
            else "dials brokers and stores of other hosts, where nobody can reach it (--dial)"
            if settings.dial
            else "only members on this host can reach it (--listen '*' opens it to other hosts)"
        )
        lines.append(f"mesh key {runtime.fingerprint}: {who}")
    elif not settings.insecure:
        who = "processes on this host" if has_port else "this user's processes on this host"
        lines.append(
            f"no mesh key: only {who} can join; for more hosts run 'zmqtasks keygen' and copy the "
            "key to each"
        )
    return lines
