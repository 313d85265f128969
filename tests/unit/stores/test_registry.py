"""Stores are found by URL, and every mistake in one is named with its remedy."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from zmqtasks.errors import ConfigError
from zmqtasks.stores import registry
from zmqtasks.stores.memory import MemoryStore
from zmqtasks.stores.registry import (
    StoreURL,
    as_blob_store,
    as_queryable,
    hide_password,
    known_schemes,
    make_store,
    parse_store_url,
)
from zmqtasks.stores.sqlite import SqliteStore, sqlite_url


class PlugIn(MemoryStore):
    """What another package brings."""

    def __init__(self, url: StoreURL) -> None:
        super().__init__()
        self.url = url


def offer(monkeypatch: pytest.MonkeyPatch, *values: str, name: str = "mine") -> None:
    """Act as if packages with these entry points were installed."""
    points = metadata.EntryPoints(
        metadata.EntryPoint(name, value, registry.GROUP) for value in values
    )

    def entry_points(**filters: Any) -> metadata.EntryPoints:
        return points.select(**filters)

    monkeypatch.setattr(metadata, "entry_points", entry_points)


def test_built_in_stores_are_made_by_their_urls() -> None:
    assert isinstance(make_store("memory://"), MemoryStore)
    assert isinstance(make_store("sqlite:///results.db"), SqliteStore)
    assert {"memory", "sqlite"} <= set(known_schemes())


def test_making_a_store_touches_no_file(tmp_path: Path) -> None:
    make_store(sqlite_url(tmp_path / "sub" / "results.db"))
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_taken_apart() -> None:
    url = parse_store_url("redis://me:p%40ss@host:6379/a%20b?ttl=5&flag=")
    assert url[1:] == ("redis", "me:p%40ss@host:6379", "/a b", {"ttl": "5", "flag": ""})
    assert str(url) == "redis://me:***@host:6379/a%20b?ttl=5&flag="


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:secret@host/0", "redis://:***@host/0"),
        ("redis://me:se@cret@host/0?x=a:b@c", "redis://me:***@host/0?x=a:b@c"),
        ("redis://me@host/0", "redis://me@host/0"),
        ("sqlite:///a:b@c", "sqlite:///a:b@c"),
        ("nonsense", "nonsense"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert hide_password(text) == shown


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("results.db", ["is no URL", "sqlite:///results.db"]),
        ("", ["is no URL"]),
        ("://x", ["is no URL"]),
        ("memory://?bytes_max", ["memory://?bytes_max", "no usable URL"]),
        ("sqlite:///a#b", ["%23"]),
        ("http://[::1", ["no usable URL"]),
        (
            "sqlit:///x",
            ["no store for sqlit://", "did you mean 'sqlite'", "memory", registry.GROUP],
        ),
        ("sqlite://results.db", ["'results.db'", "sqlite:///results.db"]),
        ("sqlite://", ["names no file"]),
        ("sqlite:///", ["names no file"]),
        ("sqlite:///:memory:", ["memory://"]),
        ("sqlite:///x?mod=ro", ["'mod'", "did you mean 'mode'", "busy_ms"]),
        ("sqlite:///x?mode=r", ["mode=r", "rw or ro"]),
        ("sqlite:///x?synchronous=off", ["NORMAL or FULL"]),
        ("sqlite:///x?busy_ms=soon", ["busy_ms=soon", "whole number"]),
        ("sqlite:///x?busy_ms=0", ["busy_ms=0", "above 0"]),
        ("memory://host", ["no host"]),
        ("memory:///path", ["no path"]),
        ("memory://?bytes=1", ["'bytes'", "did you mean 'bytes_max'"]),
    ],
)
def test_a_bad_url_is_refused_in_one_line_with_the_remedy(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_store(text)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_bad_url_does_not_show_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        make_store("nosuch://me:secret@host/0")
    assert "secret" not in str(caught.value)


def test_another_package_brings_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[__name__]
    monkeypatch.setitem(sys.modules, "some_package_with_a_store", module)
    offer(monkeypatch, "some_package_with_a_store:PlugIn")
    store = make_store("mine://host/x?a=1")
    assert isinstance(store, PlugIn)
    assert store.url.path == "/x"
    assert store.url.params == {"a": "1"}
    assert "mine" in known_schemes()


def test_built_in_schemes_cannot_be_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "nowhere:nothing", name="memory")
    assert isinstance(make_store("memory://"), MemoryStore)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "no_such_library_anywhere:Store [redis]")
    with pytest.raises(ConfigError) as caught:
        make_store("mine://me:secret@host")
    message = str(caught.value)
    assert "needs the module no_such_library_anywhere" in message
    assert "pip install 'no_such_library_anywhere[redis]'" in message
    assert "secret" not in message


def test_a_broken_entry_point_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "json:NoSuchStore")
    with pytest.raises(ConfigError, match="json:NoSuchStore"):
        make_store("mine://")


def test_two_packages_with_one_scheme_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "a:Store", "b:Store")
    with pytest.raises(ConfigError, match="a:Store, b:Store; keep one"):
        make_store("mine://")


def test_a_store_without_its_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", {"sqlite": "no_such_module_at_all:from_url"})
    with pytest.raises(ConfigError, match="needs the module no_such_module_at_all"):
        make_store("sqlite:///x")


def test_asking_for_more_than_a_store_has_is_refused() -> None:
    store = MemoryStore()
    assert as_queryable(store) is store
    with pytest.raises(ConfigError, match="MemoryStore cannot keep large payloads"):
        as_blob_store(store)

    class Plain(MemoryStore):
        capabilities = frozenset()

    with pytest.raises(ConfigError, match="Plain cannot list"):
        as_queryable(Plain())
