"""A project with one Django application, ``orders``, that has tasks."""

from shop.app import app

__all__ = ["app"]  # so that every process of the project has it
