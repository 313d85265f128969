"""The application of the compose file: put yours in its place."""

from __future__ import annotations

from zmqtasks import App

app = App("compose")


@app.task
def add(x: int, y: int) -> int:
    """The sum."""
    return x + y
