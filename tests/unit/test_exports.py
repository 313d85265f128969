"""The public names: all there, documented, and nothing else."""

from __future__ import annotations

import zmqtasks
from zmqtasks import errors


def test_every_public_name_exists_and_is_documented() -> None:
    for name in zmqtasks.__all__:
        found = getattr(zmqtasks, name)
        assert name.startswith("__") or found.__doc__, name
    assert set(zmqtasks.__all__) <= set(dir(zmqtasks))
    assert len(set(zmqtasks.__all__)) == len(zmqtasks.__all__)


def test_names_that_do_not_exist_are_attribute_errors() -> None:
    assert not hasattr(zmqtasks, "Celery")


def test_all_errors_that_users_may_catch_are_public() -> None:
    inner = {
        "FrameTooLarge",
        "LocalProtocolError",
        "ProtocolError",
        "RemoteProtocolError",
        "VersionMismatch",
    }
    classes = {
        name
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, errors.ZmqTasksError)
    }
    assert classes - inner <= set(zmqtasks.__all__)
