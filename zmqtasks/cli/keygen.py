"""``zmqtasks keygen``: make a mesh key."""

from __future__ import annotations

import os
from pathlib import Path

import click

from zmqtasks import keys
from zmqtasks.paths import default_key_file


@click.command()
@click.argument("path", required=False, metavar="[PATH]")
def keygen(path: str | None) -> None:
    """Make a mesh key and write it to PATH, readable by you alone.

    Copy the file to every host of the mesh. Without PATH it goes to where nodes look
    for it; `-` prints it instead. A file that exists is never overwritten.
    """
    if path == "-":
        click.echo(keys.generate())
        return
    is_default = path is None
    target = default_key_file(os.environ) if path is None else Path(path).expanduser()
    key = keys.write_key(target)
    click.echo(f"wrote {target} (fingerprint {keys.fingerprint(key)})")
    click.echo(
        "copy it to the same place on every host of the mesh, mode 600"
        if is_default
        else f"copy it to every host of the mesh, mode 600, and start nodes with: --key {target}"
    )
