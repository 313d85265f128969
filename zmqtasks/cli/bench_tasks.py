"""The application that ``zmqtasks bench`` runs, in its own node or in yours."""

from __future__ import annotations

from zmqtasks import App

app = App("zmqtasks-bench")


@app.task
def noop(value: int) -> int:
    """Nothing but the way there and back."""
    return value
