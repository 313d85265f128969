"""Importing modules of an application; what tests of the loader and of startup leave open."""

from __future__ import annotations

import pytest

from zmqtasks.app.importing import Discovery, import_module, names_of
from zmqtasks.errors import AppLoadError


def test_names_may_be_any_collection_but_no_text() -> None:
    assert names_of(("a", "b.c"), "here") == ["a", "b.c"]
    assert names_of((name for name in "ab"), "here") == ["a", "b"]


def test_a_package_without_the_module_is_passed_over() -> None:
    assert Discovery(["json", "string"], "decoder").module_names() == ["json.decoder"]


def test_a_module_that_is_not_there_is_named_with_the_folder() -> None:
    with pytest.raises(AppLoadError, match=r"no module 'no_such_thing' in /.* set PYTHONPATH"):
        import_module("no_such_thing.tasks")
