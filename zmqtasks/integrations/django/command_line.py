"""From ``manage.py zmqtasks node`` to ``zmqtasks node``, with what Django knows of the project."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from zmqtasks.app.app import App
from zmqtasks.app.current import all_apps
from zmqtasks.settings import load_settings


def command_of(argv: Sequence[str], env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The command that stands for this one, and its environment.

    Args:
        argv: ``["manage.py", "zmqtasks", ...]``.
        env: of this process.

    Raises:
        ConfigError: the settings of zmqtasks are wrong.
    """
    # Django has taken these from the command line and obeyed them.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--settings")
    parser.add_argument("--pythonpath")
    known, rest = parser.parse_known_args(argv[2:])
    # ``python proj/manage.py`` finds modules beside manage.py, wherever it is started.
    folders = [known.pythonpath, str(Path(argv[0]).resolve().parent), env.get("PYTHONPATH")]
    more = {"PYTHONPATH": os.pathsep.join(folder for folder in folders if folder)}
    spec = app_spec()
    if spec and load_settings(env=env).origins["app"] == "default":
        more["ZMQTASKS_APP"] = spec
    return [sys.executable, "-m", "zmqtasks", *rest], {**env, **more}


def app_spec() -> str:
    """``module:attribute`` of the only App of this process; "" when there is none, or several."""
    apps = all_apps()
    if len(apps) != 1:
        return ""
    found = sorted(
        (name.count("."), name, attribute)
        for name, module in list(sys.modules.items())
        if name != "__main__"
        for attribute, value in list(vars(module).items())
        if isinstance(value, App) and value is apps[0]
    )
    return f"{found[0][1]}:{found[0][2]}" if found else ""
