"""Every public call that blocks can be awaited: by a twin with an ``a`` in front, or itself.

Walks the public classes. What has no twin is listed here with the reason, so that a new method
has to be put somewhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import zmqtasks
from zmqtasks.app.beats import Beats
from zmqtasks.app.broadcasting import BroadcastResult
from zmqtasks.app.completing import Completed
from zmqtasks.app.control import Control, Inspect
from zmqtasks.app.lineage import Collecting
from zmqtasks.app.looking import Look
from zmqtasks.app.news import Following
from zmqtasks.app.story import Story

_VALUE = "reads or makes a value in this process"
_HERE = "registers something in this process"
_LOOP = "gives what `for` and `async for` take"
_ALOOK = "a property: await alook(), which has it and all the others"
_RUNS = "runs the function here and now, or makes its coroutine"
_INSIDE = "for the running task: told on the way to its node, which does not wait"
_IMPORT = "imports modules, which Python does where it is asked to"
_INNER = "of the machinery: called by this package"

#: {class: {reason: names}} of what needs no twin.
NO_TWIN: dict[type, dict[str, str]] = {
    zmqtasks.App: {
        _HERE: "task add_task add_middleware hooks_changed control_command inspect_command "
        "config_from_object config_from_envvar add_periodic_task autodiscover_tasks register_task "
        "set_current set_default reconfigure",
        _IMPORT: "finalize import_default_modules set_up",
        _VALUE: "AsyncResult signature catalog is_eager is_hooked queue_name rules settings "
        "control Task gen_task_name periodic_tasks",
        _INNER: "prepared encode_arguments name_of own_base setup_errors",
    },
    zmqtasks.Task: {
        _VALUE: "s si signature subtask map starmap chunks AsyncResult complete_run is_async "
        "signature_digest signature_text catalog_entry request call_signature set_options "
        "call_defaults",
        "waits for the transaction around it, and not here": "delay_on_commit "
        "apply_async_on_commit",
        _INSIDE: "retry replace add_to_chord update_state progress is_aborted",
        _INNER: "prepared shape hooks_changed forget_calls",
        "overridden by users to be told, or by Celery's names": "before_start on_success "
        "on_failure on_retry after_return on_bound",
    },
    zmqtasks.Signature: {
        _VALUE: "from_dict task name args kwargs options subtask_type immutable id app type "
        "clone partial replace set set_immutable freeze reprcall link link_error on_error "
        "stamp",
        _INNER: "prepared applied",
        "of dict": "clear copy fromkeys get items keys pop popitem setdefault update values",
    },
    zmqtasks.AsyncResult: {
        _VALUE: "id task_id app parent items_count is_settled children as_tuple as_list iterdeps "
        "of_submitted",
        _ALOOK: "result info traceback date_done args kwargs name queue worker retries status",
        _LOOP: "updates stream collect",
        "the same as get": "wait",
        "the same as maybe_throw": "maybe_reraise",
        "calls back, and returns at once": "then",
        _INNER: "settled updated news add_waiter remove_waiter follow conclude",
    },
    zmqtasks.ResultSet: {
        _VALUE: "ids results has is_complete arrived_count arrived the_app of_submitted",
        _HERE: "add update remove discard clear",
        _LOOP: "as_completed iterate iter_native",
        "the same as maybe_throw": "maybe_reraise",
        "calls back, and returns at once": "then",
        _INNER: "settled updated extend retract built expect wait_for_news time_over look "
        "throw_first",
        "a coroutine function": "await_news",
    },
    zmqtasks.GroupResult: {
        _VALUE: "id parent children as_tuple as_list iterdeps of_group extend_loosely",
        _LOOP: "collect",
    },
}
_ALSO = {
    zmqtasks.EagerResult: {_INNER: "of_outcome came_after"},
    zmqtasks.group: {_VALUE: "tasks signatures members skew", _INNER: "opened"},
    zmqtasks.chain: {_VALUE: "tasks firsts parts", _INNER: "planned"},
    zmqtasks.chord: {_VALUE: "tasks header body firsts parts", _INNER: "planned"},
    zmqtasks.chunks: {_VALUE: "group"},
    zmqtasks.xmap: {},
    zmqtasks.xstarmap: {},
    BroadcastResult: {},
    Beats: {},
    Control: {_VALUE: "inspect beat"},
    Inspect: {},
}
_CLASSES = [*NO_TWIN, *_ALSO]


def _reasons(cls: type) -> dict[str, str]:
    """{name: why it has no twin}, with those of its bases."""
    found = {}
    for base in cls.__mro__:
        for reason, names in {**NO_TWIN, **_ALSO}.get(base, {}).items():
            found.update(dict.fromkeys(names.split(), reason))
    return found


def _public(cls: type) -> Iterator[tuple[str, Any]]:
    for name in dir(cls):
        found = inspect.getattr_static(cls, name)
        is_call = isinstance(found, (property, staticmethod, classmethod)) or callable(found)
        if not name.startswith("_") and is_call:
            yield name, found


def _is_twin(cls: type, name: str) -> bool:
    found = getattr(cls, name, None)
    return name.startswith("a") and inspect.iscoroutinefunction(found) and hasattr(cls, name[1:])


def _has_twin(cls: type, name: str) -> bool:
    if issubclass(cls, (Beats, Control, Inspect)) and inspect.isfunction(getattr(cls, name)):
        # Made when they are asked for, of every method.
        made = getattr(cls(zmqtasks.App("twins")), f"a{name}")
        return inspect.iscoroutinefunction(made)
    return inspect.iscoroutinefunction(getattr(cls, f"a{name}", None))


@pytest.mark.parametrize("cls", _CLASSES, ids=lambda cls: cls.__name__)
def test_what_blocks_has_a_twin_that_can_be_awaited(cls: type, gateway: object) -> None:
    reasons = _reasons(cls)
    without = [
        name
        for name, _ in _public(cls)
        if name not in reasons and not _has_twin(cls, name) and not _is_twin(cls, name)
    ]
    assert without == [], "each needs a twin, or a reason in NO_TWIN"


@pytest.mark.parametrize("cls", _CLASSES, ids=lambda cls: cls.__name__)
def test_the_list_names_only_what_is_there_and_has_no_twin(cls: type, gateway: object) -> None:
    own = {**NO_TWIN, **_ALSO}[cls]
    names = [name for listed in own.values() for name in listed.split()]
    assert [name for name in names if not hasattr(cls, name)] == []
    assert len(names) == len(set(names))
    if not issubclass(cls, (Beats, Control, Inspect)):
        assert [name for name in names if _has_twin(cls, name)] == []


@pytest.mark.parametrize("cls", _CLASSES, ids=lambda cls: cls.__name__)
def test_a_twin_takes_what_the_blocking_call_takes(cls: type) -> None:
    for name, _ in _public(cls):
        twin = getattr(cls, f"a{name}", None)
        if not _is_twin(cls, f"a{name}") or isinstance(inspect.getattr_static(cls, name), property):
            continue
        given = inspect.signature(getattr(cls, name)).parameters
        taken = inspect.signature(twin).parameters  # type: ignore[arg-type]
        assert list(given) == [key for key in taken if key != "revoke_on_cancel"], name


@pytest.mark.parametrize("cls", [Completed, Collecting, Following], ids=lambda cls: cls.__name__)
def test_what_loops_take_is_for_both_kinds(cls: type) -> None:
    for name in ("__iter__", "__next__", "__aiter__", "__anext__"):
        assert hasattr(cls, name)


def test_alook_has_every_property_that_asks() -> None:
    asking = [name for name, why in _reasons(zmqtasks.AsyncResult).items() if why is _ALOOK]
    assert [name for name in asking if not hasattr(Look, name)] == []


def test_results_can_be_awaited_themselves() -> None:
    for cls in (zmqtasks.AsyncResult, zmqtasks.ResultSet, zmqtasks.GroupResult):
        assert hasattr(cls, "__await__")
    assert not hasattr(Story, "__await__")  # it is a value


def test_every_public_class_that_does_something_is_looked_at() -> None:
    values = {"Depends", "StampingVisitor"}
    classes = {
        found
        for name in zmqtasks.__all__
        if inspect.isclass(found := getattr(zmqtasks, name))
        and not issubclass(found, BaseException)
        and name not in values
    }
    assert classes <= set(_CLASSES)
