"""``zmqtasks completion``: what a shell needs to complete our commands and flags."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

#: {shell: how it is switched on for good}.
_SHELLS = {
    "bash": "zmqtasks completion bash > ~/.local/share/bash-completion/completions/zmqtasks",
    "zsh": "zmqtasks completion zsh > ~/.zfunc/_zmqtasks",
    "fish": "zmqtasks completion fish > ~/.config/fish/completions/zmqtasks.fish",
}


@click.command(
    epilog="\b\nFor good (folders must exist):\n"
    + "\n".join(f"  {way}" for way in _SHELLS.values())
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    Try it in bash with: eval "$(zmqtasks completion bash)"
    """
    found = get_completion_class(shell)
    assert found is not None
    root = ctx.find_root().command
    click.echo(found(root, {}, "zmqtasks", "_ZMQTASKS_COMPLETE").source())
