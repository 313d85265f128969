"""Where the log of a command goes, and how it looks."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

#: Messages that begin with the name of what happened: ``child.failed slot=2 …``.
_EVENT = re.compile(r"[a-z]+(?:\.[a-z_]+)+(?=[ :]|$)")
#: What children's lines and notes of the mesh carry beside their text.
_FACTS = ("task_id", "task_name", "source")


class JsonFormatter(logging.Formatter):
    """One JSON object a line.

    ``ts`` (ISO 8601, UTC), ``level``, ``logger``, ``message`` and ``node`` always; ``event``
    where what happened has a name; of lines that tasks wrote ``task_id``, ``task_name`` and
    ``source`` (``stdout``, ``stderr`` or the task's logger); ``traceback`` of an exception.

    Args:
        node: name of the node.
    """

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = record.getMessage()
        found = _EVENT.match(message)
        when = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "ts": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "event": getattr(record, "event", None) or (found[0] if found else None),
            "message": getattr(record, "task_text", message),
            **{key: getattr(record, key, None) for key in _FACTS},
            "node": self._node,
            "traceback": self.formatException(record.exc_info)
            if record.exc_info
            else getattr(record, "traceback_text", "") or None,
        }
        return json.dumps({key: value for key, value in line.items() if value is not None})


def set_up_logging(level: str, log_format: str = "text", node: str = "") -> None:
    """One line an event on stderr; may be called again.

    Our own loggers have the handler themselves: a solo pool takes those of the root
    logger away while it runs, since what tasks log comes through us.

    Args:
        level: log this and what is worse.
        log_format: "text" or "json".
        node: name of this node, for JSON.
    """
    own, root = logging.getLogger("zmqtasks"), logging.getLogger()
    own.propagate = False
    ours = next((handler for handler in own.handlers if isinstance(handler, _Handler)), None)
    if ours is None:
        ours = _Handler(sys.stderr)
        own.addHandler(ours)
        root.addHandler(ours)
    ours.setFormatter(JsonFormatter(node) if log_format == "json" else _text_formatter())
    own.setLevel(level)
    root.setLevel(level)


def is_json() -> bool:
    """The log has been set up, as JSON."""
    handlers = logging.getLogger("zmqtasks").handlers
    return any(isinstance(handler.formatter, JsonFormatter) for handler in handlers)


class _Handler(logging.StreamHandler[Any]):
    pass


def _text_formatter() -> logging.Formatter:
    return logging.Formatter(
        "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
