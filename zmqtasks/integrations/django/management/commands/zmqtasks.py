"""``python manage.py zmqtasks ...``: the command line of zmqtasks, for this project."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError

from zmqtasks.integrations.django.command_line import command_of


class Command(BaseCommand):
    """Becomes ``zmqtasks``: this process loaded Django, which a node must not have."""

    help = (
        "The command line of zmqtasks with the application of this project, such as "
        "'manage.py zmqtasks node --role worker'; 'manage.py zmqtasks --help' says more."
    )

    def run_from_argv(self, argv: list[str]) -> NoReturn:
        """Replace this process; everything after the name of the command is for zmqtasks."""
        command, env = command_of(argv, os.environ)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command[0], command, env)  # noqa: S606 (our own interpreter, no shell)

    def handle(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: see :meth:`run_from_argv`."""
        raise CommandError(
            "zmqtasks takes the place of the process that runs it; start it from a shell: "
            "python manage.py zmqtasks ..."
        )
