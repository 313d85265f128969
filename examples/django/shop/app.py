"""The App that the tasks of this project belong to."""

from __future__ import annotations

import os

from zmqtasks import App

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = App("shop")
app.config_from_object("django.conf:settings", namespace="ZMQTASKS")
app.autodiscover_tasks()
