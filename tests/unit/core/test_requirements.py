"""What tasks need of their workers, and which workers have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.machines import WORKER
from zmqtasks.core.requirements import (
    Needs,
    Offer,
    Stock,
    announced,
    explain_misfit,
    fits,
    format_needs,
    format_text,
    kind_for,
    needs_of,
    offer_of,
    parse_needs,
    suits,
)
from zmqtasks.errors import ConfigError
from zmqtasks.wire.messages import Kind

TEXT = "gpu=1;ram_mb=4000.5;tag:cuda;tag:zone=eu"


def kind(**ext: Any) -> Kind:
    return Kind("shop", "tasks.add", "d1", "default", tuple(ext.items()))


def offer(resources: Mapping[str, float] | None = None, *tags: str) -> Offer:
    return offer_of(announced(tags, resources or {}))


# --- the text -----------------------------------------------------------------------------


def test_equal_requirements_are_equal_texts() -> None:
    one = format_needs({"ram_mb": 4000.5, "gpu": 1}, ["zone=eu", "cuda", "cuda"])
    other = format_needs({"gpu": 1.0, "ram_mb": 4000.5}, ["cuda", "zone=eu"])
    assert one == other == TEXT
    assert format_text(parse_needs(TEXT)) == TEXT


def test_no_requirements_are_no_text() -> None:
    assert format_needs({}) == ""
    assert parse_needs("") == needs_of(kind()) == Needs(frozenset(), ())


@pytest.mark.parametrize("text", ["gpu", "gpu=0.5", "gpu=x", "cpu=-1", "tag:", "a b=1", "=1"])
def test_text_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_needs(text)


@pytest.mark.parametrize(("resources", "tags"), [
    ({"gpu": 0.5}, ()), ({"a b": 1}, ()), ({"cpu": 0}, ()), ({}, ("two words",)),
])  # fmt: skip
def test_what_cannot_be_needed_is_refused(resources: dict[str, float], tags: tuple[str]) -> None:
    with pytest.raises(ConfigError):
        format_needs(resources, tags)


# --- who can run what ---------------------------------------------------------------------


@pytest.mark.parametrize(("worker", "can"), [
    (offer({"gpu": 2, "ram_mb": 8000}, "cuda", "zone=eu", "more"), True),
    (offer({"gpu": 1, "ram_mb": 4000.5}, "cuda", "zone=eu"), True),
    (offer({"gpu": 1, "ram_mb": 4000}, "cuda", "zone=eu"), False),
    (offer({"ram_mb": 8000}, "cuda", "zone=eu"), False),
    (offer({"gpu": 1, "ram_mb": 8000}, "cuda"), False),
    (offer(), False),
])  # fmt: skip
def test_worker_must_have_everything(worker: Offer, can: bool) -> None:
    assert fits(parse_needs(TEXT), worker) is can
    assert suits(kind(req=TEXT), WORKER, worker) is can


def test_anybody_may_run_what_needs_nothing() -> None:
    assert suits(kind(), WORKER, offer())
    assert suits(kind(idem=0), WORKER, offer())


def test_task_for_one_node_is_for_nobody_else() -> None:
    assert suits(kind(to=WORKER.hex()), WORKER, offer())
    assert not suits(kind(to=WORKER.hex()), b"worker-2", offer())


@pytest.mark.parametrize("req", ["gpu", 7])
def test_nobody_runs_what_cannot_be_read(req: object) -> None:
    assert not suits(kind(req=req), WORKER, offer({"gpu": 8}))
    assert "cannot be read" in explain_misfit(kind(req=req), [(WORKER, offer())])


@pytest.mark.parametrize("ext", [
    {"tags": "cuda", "res": [1]}, {"tags": [1, None], "res": {"gpu": "2", "cpu": -1, "x": True}},
])  # fmt: skip
def test_what_makes_no_sense_in_a_greeting_is_not_there(ext: dict[str, Any]) -> None:
    found = offer_of(ext)
    assert not found.tags
    assert not {"gpu", "cpu"} & set(found.amounts)


@pytest.mark.parametrize(("ext", "workers", "reason"), [
    ({"req": "tag:cuda"}, [offer({}, "arm", "x86")], "tag 'cuda', and none has it"),
    ({"req": "tag:cuda"}, [offer({}, "arm"), offer({}, "x86")], "they have 'arm', 'x86'"),
    ({"req": "tag:cuda"}, [offer()], "they have no tags"),
    ({"req": "gpu=4"}, [offer({"gpu": 2}), offer({"gpu": 1})], "the most that one has is 2"),
    ({"req": "gpu=4"}, [offer()], "gpu=4, and none has any"),
    ({"req": "gpu=1;tag:a"}, [offer({"gpu": 1}), offer({}, "a")], "no worker has all"),
    ({"to": "00"}, [offer()], "for node 00 only, which is not in sight"),
    ({"req": "gpu=1"}, [offer(), offer({"gpu": 1})], ""),
])  # fmt: skip
def test_reason_names_what_is_missing(
    ext: dict[str, str], workers: list[Offer], reason: str
) -> None:
    text = explain_misfit(kind(**ext), [(WORKER, worker) for worker in workers])
    assert reason in text
    assert bool(reason) == bool(text)


# --- what is free -------------------------------------------------------------------------


def test_resources_are_counted_down_and_up_again() -> None:
    stock = Stock({"cpu": 1})
    needs = parse_needs("cpu=0.4")
    assert stock.take(needs, []) == []
    stock.take(needs, [])
    assert not stock.fits(needs)
    assert stock.lacking(needs) == ["cpu"]
    stock.give_back(needs, [])
    assert stock.fits(needs)


def test_what_a_worker_has_not_never_fits() -> None:
    assert not Stock().fits(parse_needs("gpu=1"))


def test_each_task_gets_gpus_of_its_own_those_of_its_slot_if_they_are_free() -> None:
    stock = Stock({"gpu": 3}, ["0", "1", "5"])
    one, two = parse_needs("gpu=1"), parse_needs("gpu=2")
    assert stock.take(one, ["5"]) == ["5"]
    assert stock.take(two, ["5"]) == ["0", "1"]
    stock.give_back(one, ["5"])
    assert stock.take(one, ["0"]) == ["5"]


# --- what pools can do --------------------------------------------------------------------


def limited(soft_ms: int = 0, hard_ms: int = 0) -> Kind:
    return kind_for(kind(), {"tl": [soft_ms, hard_ms]})


def pool(*can: str) -> Offer:
    return offer_of(announced([], {}, can))


def test_time_limits_of_a_call_make_it_one_of_another_kind() -> None:
    assert dict(limited(hard_ms=1).ext) == {"can": "hard_limit"}
    assert dict(limited(1, 2).ext) == {"can": "soft_limit;hard_limit"}
    assert limited(hard_ms=1) == limited(hard_ms=5_000)
    assert limited() == kind()
    assert dict(kind_for(kind(req="tag:a"), {"tl": [0, 1]}).ext) == {
        "req": "tag:a", "can": "hard_limit",
    }  # fmt: skip


@pytest.mark.parametrize("limits", [None, 1, [], [1], ["a", "b"], [-1, -1], {"a": 1, "b": 2}])
def test_limits_that_are_none_ask_for_nothing(limits: object) -> None:
    assert kind_for(kind(), {"tl": limits}) == kind()


def test_a_retry_without_the_limits_is_of_the_plain_kind_again() -> None:
    assert kind_for(limited(hard_ms=1), {"tl": [0, 0]}) == kind()
    assert kind_for(limited(hard_ms=1), None) == kind()


def test_a_worker_gets_what_its_pool_can_do() -> None:
    able, threads = pool("hard_limit", "soft_limit", "wake"), pool("soft_limit")
    assert able.can == frozenset(("hard_limit", "soft_limit"))
    assert suits(limited(1, 2), WORKER, able)
    assert not suits(limited(1, 2), WORKER, threads)
    assert suits(limited(soft_ms=1), WORKER, threads)
    assert not suits(limited(soft_ms=1), WORKER, pool())
    assert suits(kind(), WORKER, pool())


def test_a_worker_that_does_not_say_what_its_pool_can_do_is_tried() -> None:
    """It is of an earlier version, and refuses by itself."""
    assert offer().can is None
    assert suits(limited(1, 2), WORKER, offer())


def test_what_no_pool_can_do_is_named_with_the_remedy() -> None:
    offers = [(WORKER, pool("soft_limit"))]
    text = explain_misfit(limited(1, 2), offers)
    assert "a soft time limit (soft_time_limit) and a hard time limit (time_limit)" in text
    assert "--pool process" in text
    assert explain_misfit(limited(1, 2), [*offers, (WORKER, offer())]) == ""


def test_a_tag_counts_only_where_the_pool_can_do_it() -> None:
    wanted = kind_for(kind(req="tag:cuda"), {"tl": [0, 1]})
    threads = offer_of(announced(["cuda"], {}, ["soft_limit"]))
    assert "tag 'cuda'" in explain_misfit(wanted, [(WORKER, threads), (WORKER, pool("hard_limit"))])
