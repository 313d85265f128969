"""What is in the database."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order of some pieces of an item."""

    item = models.CharField(max_length=100)
    pieces = models.PositiveIntegerField()
    state = models.CharField(max_length=20, default="placed")
