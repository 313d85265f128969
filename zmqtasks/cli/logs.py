"""Where the log of a command goes."""

from __future__ import annotations

import logging
import sys


def set_up_logging(level: str) -> None:
    """One line an event on stderr.

    Our own loggers have the handler themselves: a solo pool takes those of the root
    logger away while it runs, since what tasks log comes through us.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(
        "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S"
    ))  # fmt: skip
    own = logging.getLogger("zmqtasks")
    own.propagate = False
    for logger in (own, logging.getLogger()):
        logger.addHandler(handler)
    set_level(level)


def set_level(level: str) -> None:
    """Log this and what is worse."""
    for logger in (logging.getLogger("zmqtasks"), logging.getLogger()):
        logger.setLevel(level)
