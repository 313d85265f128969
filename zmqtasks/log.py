"""A logger for tasks: its records know which task they are from."""

from __future__ import annotations

import logging

from zmqtasks.ids import format_task_id
from zmqtasks.pools.running import running_task


class _TaskFacts(logging.Filter):
    """Puts name and id of the running task into records; lets all pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        task = running_task()
        record.task_name = task.name if task is not None else None
        record.task_id = format_task_id(task.id) if task is not None else None
        return True


_FACTS = _TaskFacts()


def get_task_logger(name: str) -> logging.Logger:
    """The logger of this name, whose records have ``task_name`` and ``task_id``.

    Both are None outside of tasks. They are for handlers and formatters of your own
    (``%(task_id)s``): lines in the log of a worker begin with them anyway.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_FACTS)  # once, however often
    return logger
