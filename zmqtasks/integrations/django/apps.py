"""What Django knows of this package when it is among ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig


class ZmqTasksConfig(AppConfig):
    """It has a management command and nothing else."""

    name = "zmqtasks.integrations.django"
    label = "zmqtasks"
    verbose_name = "zmqtasks"
