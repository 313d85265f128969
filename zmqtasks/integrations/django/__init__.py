"""Django: tasks of its applications, its settings, its transactions, its database connections.

Among ``INSTALLED_APPS`` it gives ``python manage.py zmqtasks``. The rest comes with
``app.config_from_object("django.conf:settings", namespace="ZMQTASKS")`` and
``app.autodiscover_tasks()``, or with :func:`zmqtasks.integrations.django.project.install`.
Source: docs/howto/django.md.
"""
