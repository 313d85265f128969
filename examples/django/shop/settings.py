"""Settings of the project; those that begin with ``ZMQTASKS_`` are of zmqtasks."""

from __future__ import annotations

import os
from pathlib import Path

DEBUG = True
SECRET_KEY = "only for this example"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = ["zmqtasks.integrations.django", "orders"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE") or Path(__file__).parents[1] / "db.sqlite3",
        # One writer at a time: who begins to write waits for the other one.
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "Europe/Berlin"

ZMQTASKS_TASK_DEFAULT_PRIORITY = 5
ZMQTASKS_CONCURRENCY = 2
