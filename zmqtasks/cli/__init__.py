"""The command line: ``zmqtasks COMMAND``.

Commands are modules that are imported when asked for, so that ``--version`` and
``keygen`` do not wait for sockets and stores to load.
"""

from __future__ import annotations

import importlib

import click

from zmqtasks.cli.errors import reporting_errors
from zmqtasks.version import __version__

#: {command: "module:attribute"}, in the order in which ``--help`` lists them.
COMMANDS = {
    "node": "zmqtasks.cli.node:node",
    "call": "zmqtasks.cli.call:call",
    "result": "zmqtasks.cli.result:result",
    "status": "zmqtasks.cli.status:status",
    "story": "zmqtasks.cli.story:story",
    "inspect": "zmqtasks.cli.inspect:inspect",
    "control": "zmqtasks.cli.control:control",
    "beat": "zmqtasks.cli.beat:beat",
    "dead": "zmqtasks.cli.dead:dead",
    "journal": "zmqtasks.cli.journal:journal",
    "bench": "zmqtasks.cli.bench:bench",
    "keygen": "zmqtasks.cli.keygen:keygen",
    "completion": "zmqtasks.cli.completion:completion",
}


#: {command of Celery: what there is instead}.
INSTEAD = {
    "worker": "a worker is: zmqtasks node --app MODULE",
    "multi": "start each node by itself: zmqtasks node (docs/howto/running.md)",
    "events": "zmqtasks status and zmqtasks inspect show what goes on",
    "purge": "zmqtasks control revoke ends tasks; no queue lies around without an owner",
    "list": "zmqtasks inspect registered and active_queues list what workers have",
    "report": "zmqtasks inspect report",
    "shell": "any Python that imports the application will do",
}


def why_not(name: str) -> str:
    """That there is no such command, and what was likely meant."""
    import difflib  # only for mistakes

    likely = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = INSTEAD.get(name) or (f"did you mean {likely[0]!r}?" if likely else "")
    return f"No such command {name!r}{'; ' if hint else '.'}{hint}"


class LazyGroup(click.Group):
    """A group that imports a command when it is used, and reports our errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names for ``--help``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options of this group; those of commands may have been typed here, as with Celery."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            if not exc.possibilities:
                ctx.fail(f"{exc.message} Options follow their command: zmqtasks node --app MODULE")
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was typed, or what there is instead."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(why_not(args[0]))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an error of ours becomes one line and exit code 2."""
        with reporting_errors():
            return super().invoke(ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zmqtasks", message="%(prog)s %(version)s")
def main() -> None:
    """A distributed task queue that needs no broker."""
