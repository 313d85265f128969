"""Which application a node runs. Apart from the loader, which imports the App class: the
node itself never runs user code and has no use for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from zmqtasks.errors import AppLoadError

#: Where an application is looked for when nothing names it.
DEFAULT_MODULE: Final = "tasks"


def find_spec(spec: str, cwd: Path) -> str:
    """The spec given, or that of the ``tasks.py`` here.

    Args:
        spec: flag or setting; "" when there is neither.
        cwd: where to look.

    Raises:
        AppLoadError: nothing was given and nothing is here; says what was looked for.
    """
    if spec:
        return spec
    file, package = cwd / f"{DEFAULT_MODULE}.py", cwd / DEFAULT_MODULE / "__init__.py"
    if file.is_file() or package.is_file():
        return DEFAULT_MODULE
    raise AppLoadError(
        "no application: looked for --app, ZMQTASKS_APP, app in zmqtasks.toml or "
        f"pyproject.toml, and {file}; name one with --app MODULE or --app MODULE:ATTRIBUTE"
    )
