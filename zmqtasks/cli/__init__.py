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
    "dead": "zmqtasks.cli.dead:dead",
    "journal": "zmqtasks.cli.journal:journal",
    "bench": "zmqtasks.cli.bench:bench",
    "keygen": "zmqtasks.cli.keygen:keygen",
    "completion": "zmqtasks.cli.completion:completion",
}


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

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an error of ours becomes one line and exit code 2."""
        with reporting_errors():
            return super().invoke(ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zmqtasks", message="%(prog)s %(version)s")
def main() -> None:
    """A distributed task queue that needs no broker."""
