"""When periodic tasks are due, by Celery's names. Pure: no clock is read here."""

from zmqtasks.schedules.base import Missed, Overlap, Schedule, ScheduleEntry, describe
from zmqtasks.schedules.cron import crontab
from zmqtasks.schedules.intervals import schedule
from zmqtasks.schedules.plain import from_plain, to_plain
from zmqtasks.schedules.sun import solar

__all__ = [
    "Missed",
    "Overlap",
    "Schedule",
    "ScheduleEntry",
    "crontab",
    "describe",
    "from_plain",
    "schedule",
    "solar",
    "to_plain",
]
