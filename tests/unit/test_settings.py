from __future__ import annotations

import math
import os
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks import limits
from zmqtasks.errors import ConfigError
from zmqtasks.settings import (
    SETTING_NAMES,
    Loaded,
    NodeSettings,
    convert,
    describe,
    load_settings,
    setting_docs,
)
from zmqtasks.settings_checks import parse_cpus
from zmqtasks.settings_texts import plain


def _load(
    folder: Path,
    flags: Mapping[str, object] | None = None,
    app_conf: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
) -> Loaded:
    """Load with nothing but what is given, from this folder."""
    return load_settings(flags, app_conf, {"HOME": str(folder), **(env or {})}, folder)


def _refused(folder: Path, env: Mapping[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        _load(folder, env=env)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- sources ------------------------------------------------------------------------------


def test_defaults(tmp_path: Path) -> None:
    loaded = _load(tmp_path)
    settings = loaded.settings
    assert (settings.mesh, settings.roles, settings.queues) == (
        "default",
        ("worker",),
        ("default",),
    )
    assert settings.lost_ms == limits.LOST_MS
    assert settings.state_dir == str(tmp_path / ".local/state/zmqtasks")
    assert settings.cache_dir == str(tmp_path / ".cache/zmqtasks")
    assert set(loaded.origins) == SETTING_NAMES
    assert set(loaded.origins.values()) == {"default"}


def test_each_source_gives_way_to_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "zmqtasks.toml").write_text('mesh = "file"\nport = 2\nname = "file"\n')
    loaded = _load(
        tmp_path,
        flags={"mesh": "flag"},
        env={"ZMQTASKS_MESH": "env", "ZMQTASKS_PORT": "1"},
        app_conf={"mesh": "conf", "port": 3, "name": "conf", "queues": ("conf",)},
    )
    assert loaded.settings.mesh == "flag"
    assert loaded.settings.port == 1
    assert loaded.settings.name == "file"
    assert loaded.settings.queues == ("conf",)
    assert [loaded.origins[key] for key in ("mesh", "port", "name", "queues", "app")] == [
        "flag --mesh",
        "ZMQTASKS_PORT",
        "zmqtasks.toml",
        "app.conf",
        "default",
    ]


def test_environment_and_folder_of_the_process_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zmqtasks.toml").write_text("port = 2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZMQTASKS_MESH", "env")
    settings = load_settings().settings
    assert (settings.mesh, settings.port) == ("env", 2)


def test_flags_that_were_not_given_do_not_count(tmp_path: Path) -> None:
    loaded = _load(tmp_path, flags={"port": None, "peers": ()}, env={"ZMQTASKS_PEERS": "a:1"})
    assert loaded.settings.peers == ("a:1",)
    assert loaded.origins["port"] == "default"


def test_flags_have_the_names_of_the_command_line(tmp_path: Path) -> None:
    flags = {"roles": ("store",), "peers": ("a:1",), "key_file": "k", "log_level": "debug"}
    origins = _load(tmp_path, flags=flags).origins
    assert [origins[key] for key in flags] == [
        "flag --role",
        "flag --peer",
        "flag --key",
        "flag --log-level",
    ]


def test_pyproject_table_is_read_where_there_is_no_file_of_ours(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.zmqtasks]\nmesh = "project"\n')
    loaded = _load(tmp_path)
    assert (loaded.settings.mesh, loaded.origins["mesh"]) == ("project", "pyproject.toml")
    (tmp_path / "zmqtasks.toml").write_text("port = 2\n")
    assert _load(tmp_path).settings.mesh == "default"


@pytest.mark.parametrize("text", ["", "[project]\nname = 'x'\n", "[tool.other]\nmesh = 'x'\n"])
def test_pyproject_without_our_table_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert _load(tmp_path).settings.mesh == "default"


def test_table_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool]\nzmqtasks = 1\n")
    with pytest.raises(ConfigError, match="must be a table"):
        _load(tmp_path)


def test_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "zmqtasks.toml").write_text("port = = 2\n")
    with pytest.raises(ConfigError, match=r"zmqtasks\.toml is no valid TOML: .*line 1"):
        _load(tmp_path)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "zmqtasks.toml").mkdir()
    with pytest.raises(ConfigError, match=r"zmqtasks\.toml cannot be read"):
        _load(tmp_path)


def test_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    loaded = _load(tmp_path, env={"ZMQTASKS_PORT": "", "ZMQTASKS_MESH": "", "ZMQTASKS_WHAT": ""})
    assert loaded.settings == _load(tmp_path).settings


def test_variables_that_kubernetes_sets_for_a_service_are_passed_over(tmp_path: Path) -> None:
    env = {
        "ZMQTASKS_PORT": "tcp://10.0.0.7:5000",
        "ZMQTASKS_PORT_5000_TCP": "tcp://10.0.0.7:5000",
        "ZMQTASKS_PORT_5000_TCP_ADDR": "10.0.0.7",
        "ZMQTASKS_SERVICE_HOST": "10.0.0.7",
        "ZMQTASKS_SERVICE_PORT": "5000",
        "ZMQTASKS_STORE_SERVICE_PORT_ROUTER": "5000",
        "ZMQTASKS_STORE_PORT": "tcp://10.0.0.8:5000",
    }
    assert _load(tmp_path, env=env) == _load(tmp_path)


# --- unknown names ------------------------------------------------------------------------


def test_unknown_key_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"app\.conf: unknown setting 'quues'.*'queues'\?"):
        _load(tmp_path, app_conf={"quues": "x"})
    with pytest.raises(ConfigError, match=r"command line: unknown setting 'prot'.*'port'\?"):
        _load(tmp_path, flags={"prot": 1})
    message = _refused(tmp_path, {"ZMQTASKS_LEASE": "1"})
    assert message == ("environment: ZMQTASKS_LEASE is no setting; did you mean ZMQTASKS_LEASE_MS?")
    (tmp_path / "zmqtasks.toml").write_text("Log-Level = 'INFO'\n")
    with pytest.raises(ConfigError, match=r"zmqtasks\.toml: unknown setting.*'log_level'\?"):
        _load(tmp_path)


def test_unknown_key_that_is_like_none_names_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--print-config lists"):
        _load(tmp_path, app_conf={"zzzzzz": 1})
    with pytest.raises(ConfigError, match=r"app\.conf: unknown setting"):
        convert("zzzzzz", 1, "app.conf")


# --- values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("port", "5000", 5000),
        ("exit_wait_s", "2.5", 2.5),
        ("exit_wait_s", "2", 2.0),
        ("insecure", "yes", True),
        ("insecure", "TRUE", True),
        ("mdns", "off", False),
        ("mdns", "0", False),
        ("queues", "high, low,,high", ("high", "low")),
        ("roles", "worker,store", ("worker", "store")),
        ("peers", "a:1,[::1]:2", ("a:1", "[::1]:2")),
        ("listen", "ipc,127.0.0.1,lan:5000", ("ipc", "127.0.0.1", "lan:5000")),
        ("log_level", "debug", "DEBUG"),
        ("store", "sqlite:///x.db", "sqlite:///x.db"),
        ("key_file", "none", "none"),
        ("name", "web-1@host.example", "web-1@host.example"),
        ("durability", "disk", "disk"),
        ("queue_routes", "mail=broker, *=direct", ("mail=broker", "*=direct")),
        ("queue_routes", "a=b=auto,a=b=auto", ("a=b=auto",)),
        ("tags", "cuda,zone=eu,cuda", ("cuda", "zone=eu")),
        ("resources", "ram_mb=16000, gpu=id:0:3", ("ram_mb=16000", "gpu=id:0:3")),
    ],
)
def test_text_is_converted(tmp_path: Path, key: str, text: str, value: object) -> None:
    loaded = _load(tmp_path, env={f"ZMQTASKS_{key.upper()}": text})
    assert getattr(loaded.settings, key) == value


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("port", 5000, 5000),
        ("exit_wait_s", 2, 2.0),
        ("mdns", False, False),
        ("queues", ["high", "low"], ("high", "low")),
        ("queues", "high,low", ("high", "low")),
        ("queues", ("high,low", "last"), ("high", "low", "last")),
    ],
)
def test_python_value_is_converted(key: str, value: object, expected: object) -> None:
    converted = convert(key, value, "app.conf")
    assert converted == expected
    assert type(converted) is type(expected)


def test_home_folder_and_relative_paths_are_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    env = {"ZMQTASKS_STATE_DIR": "~/s", "ZMQTASKS_KEY_FILE": "k"}
    settings = _load(tmp_path, env=env).settings
    assert (settings.state_dir, settings.key_file) == (str(tmp_path / "s"), str(tmp_path / "k"))


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("mesh", "Shop", "lower-case letters"),
        ("mesh", "-shop", "beginning with a letter or digit"),
        ("mesh", "../shop", "not a mesh name"),
        ("mesh", "x" * 64, "1 to 63"),
        ("name", "two words", "not a node name"),
        ("roles", "wroker", "unknown role 'wroker'; did you mean 'worker'? there are: worker"),
        ("roles", "worker,events", "unknown role 'events'; there are: worker, store, broker, beat"),
        ("roles", ",", "must be a list of texts, at least one"),
        ("queues", "a b", "'a b' is not a queue name"),
        ("default_queue", "a,b", "not a queue name"),
        ("durability", "dsk", "unknown durability 'dsk'; did you mean 'disk'? there are: memory"),
        ("queue_routes", "mail", "'mail' is no route; write QUEUE=direct|broker|auto, with * for"),
        ("queue_routes", "mail=brokr", "unknown route 'brokr'; did you mean 'broker'?"),
        ("queue_routes", "=broker", "'' is not a queue name"),
        ("queue_routes", "m=auto,m=broker", "queue 'm' has two routes, 'auto' and 'broker'; keep"),
        ("tags", "two words", "'two words' is no tag"),
        ("resources", "gpu", "'gpu' is no resource; write NAME=AMOUNT"),
        ("resources", "gpu=1,gpu=2", "'gpu' has two amounts, 'gpu=1' and 'gpu=2'; keep one"),
        ("pool", "proces", "unknown pool 'proces'; did you mean 'process'?"),
        ("autoscale", "8", "write MAX,MIN with 1 <= MIN < MAX <= 4096, for example 8,1"),
        ("autoscale", "1,8", "write MAX,MIN"),
        ("autoscale", "8,0", "write MAX,MIN"),
        ("cpus", "0-", "'0-' is no CPU; write numbers and ranges like 0-3,8, or auto"),
        ("cpus", "3-1", "'3-1' is no CPU"),
        ("gpus", "first", "'first' is no GPU; write its number or its id"),
        ("max_tasks_per_child", "-1", "must be a whole number, 0 to "),
        ("child_idle_s", "-1", "must be a number, 0 to "),
        ("log_level", "LOUD", "there are: DEBUG, INFO, WARNING"),
        ("port", "http", "must be a whole number, 0 to "),
        ("port", "65534", "must be a whole number, 0 to 65533"),
        ("port", "-1", "must be a whole number, 0 to 65533"),
        ("concurrency", "1.5", "must be a whole number, 0 to "),
        ("exit_wait_s", "-1", "must be a number, 0 to "),
        ("exit_wait_s", "inf", "must be a number, 0 to "),
        ("insecure", "perhaps", "must be true or false"),
        ("peers", "host", "has no port; write HOST:PORT"),
        ("peers", "*:5000", "a peer needs a host"),
        ("advertise", "host:0", "a peer needs a host"),
        ("listen", "udp://host", "only tcp://"),
        ("listen", "host:99999", "the port must be a number"),
        ("store", "results.db", "not a store URL; write for example sqlite:///results.db"),
        ("state_dir", "~nobody-of-that-name/x", "no home folder"),
        ("key_file", "a\0b", "zero byte"),
        ("heartbeat_ms", "1", "must be a whole number, 10 to "),
        ("payload_bytes_max", "999999999", f"1024 to {limits.PAYLOAD_BYTES_MAX}"),
    ],
)
def test_bad_value_is_one_line_with_origin_reason_and_remedy(
    tmp_path: Path, key: str, text: str, reason: str
) -> None:
    name = f"ZMQTASKS_{key.upper()}"
    message = _refused(tmp_path, {name: text})
    assert message.startswith(f"{name}: {key} = {text!r}: ")
    assert reason in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", True),
        ("port", 1.5),
        ("mdns", 1),
        ("mesh", 5),
        ("queues", ["a", 1]),
        ("queues", 5),
        ("exit_wait_s", math.nan),
        ("exit_wait_s", None),
    ],
)
def test_python_value_of_another_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^app\.conf: {key} = "):
        convert(key, value, "app.conf")


def test_a_bad_list_is_shown_as_it_is_written() -> None:
    for roles in (("brokr", "store"), ["brokr", "store"], "brokr,store"):
        with pytest.raises(ConfigError, match=r"^here: roles = 'brokr,store': unknown role"):
            convert("roles", roles, "here")


@given(st.sampled_from(sorted(SETTING_NAMES)), st.text(max_size=30))
def test_any_text_is_a_value_or_a_config_error(key: str, text: str) -> None:
    try:
        convert(key, text, "test")
    except ConfigError as exc:
        assert str(exc).startswith(f"test: {key} = ")  # noqa: PT017  (both ends are right)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"heartbeat_ms": 2000}, "lost_ms = 4000 must be at least 3 times heartbeat_ms = 2000"),
        ({"heartbeat_ms": 1300, "lease_ms": 2500}, "lease_ms = 2500 must be at least 2 times"),
        ({"stalled_ms": 1999}, "stalled_ms = 1999 must be at least 2 times"),
        ({"lease_ms": 4000}, "lost_ms = 4000 must be greater than lease_ms = 4000"),
        ({"stalled_ms": 60_000}, "stalled_lost_ms = 60000 must be greater than stalled_ms"),
        (
            {"payload_bytes_max": 1024, "result_inline_bytes_max": 8192},
            "payload_bytes_max = 1024 must be at least result_inline_bytes_max = 8192",
        ),
        ({"dial": True, "port": 5000}, "port says where other hosts reach this one, and dial"),
        ({"dial": True, "listen": ["host"]}, "listen says where other hosts reach this one"),
        ({"dial": True, "advertise": ["host:1"]}, "advertise says where other hosts reach"),
    ],
)
def test_values_must_fit_together(tmp_path: Path, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        _load(tmp_path, app_conf=values)
    assert "from app.conf" in str(caught.value)
    with pytest.raises(ConfigError, match=reason):
        NodeSettings(**values)


def test_a_broker_must_be_dialled() -> None:
    with pytest.raises(ConfigError, match="a broker has to be dialled by others"):
        NodeSettings(roles=("worker", "broker"), dial=True)
    assert NodeSettings(dial=True, listen=("ipc",)).dial


def test_autoscale_and_concurrency_contradict_each_other(tmp_path: Path) -> None:
    message = _refused(tmp_path, {"ZMQTASKS_AUTOSCALE": "4,1", "ZMQTASKS_CONCURRENCY": "2"})
    assert "autoscale and concurrency both say how many tasks run at once" in message
    assert "autoscale from ZMQTASKS_AUTOSCALE" in message


def test_a_solo_pool_with_more_than_one_task_at_once_is_refused(tmp_path: Path) -> None:
    message = _refused(tmp_path, {"ZMQTASKS_POOL": "solo", "ZMQTASKS_CONCURRENCY": "2"})
    assert "the solo pool runs one task at a time; say --concurrency 1" in message
    for few in (0, 1):
        assert NodeSettings(pool="solo", concurrency=few).concurrency == few


def test_cpus_are_numbers_and_ranges_each_once(tmp_path: Path) -> None:
    assert parse_cpus("4, 0-2,1") == (4, 0, 1, 2)


def test_small_payloads_alone_are_no_contradiction(tmp_path: Path) -> None:
    settings = _load(tmp_path, app_conf={"payload_bytes_max": 5000}).settings
    assert (settings.payload_bytes_max, settings.result_inline_bytes_max) == (5000, 5000)


def test_defaults_fit_together() -> None:
    assert NodeSettings().mesh == "default"


# --- key and folders ----------------------------------------------------------------------


def test_key_at_the_default_place_is_used_when_it_is_there(tmp_path: Path) -> None:
    assert _load(tmp_path).settings.key_file == ""
    key = tmp_path / ".config" / "zmqtasks" / "mesh.key"
    key.parent.mkdir(parents=True)
    key.write_text("")
    assert _load(tmp_path).settings.key_file == str(key)
    assert _load(tmp_path, env={"ZMQTASKS_KEY_FILE": "none"}).settings.key_file == "none"


def test_key_folder_that_we_may_not_enter_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    assert _load(tmp_path).settings.key_file == ""


def test_folders_can_be_moved(tmp_path: Path) -> None:
    env = {
        "XDG_RUNTIME_DIR": str(tmp_path),
        "XDG_STATE_HOME": "/state",
        "ZMQTASKS_CACHE_DIR": "/moved",
    }
    loaded = _load(tmp_path, env=env)
    assert loaded.settings.runtime_dir == str(tmp_path / "zmqtasks")
    assert loaded.settings.state_dir == "/state/zmqtasks"
    assert (loaded.settings.cache_dir, loaded.origins["cache_dir"]) == (
        "/moved",
        "ZMQTASKS_CACHE_DIR",
    )


# --- routes -------------------------------------------------------------------------------


def test_route_of_a_queue_is_its_own_then_that_of_all_others_then_auto() -> None:
    assert NodeSettings().route_of("mail") == "auto"
    routes = NodeSettings(queue_routes=("mail=broker", "a=b=direct"))
    assert [routes.route_of(queue) for queue in ("mail", "a=b", "a")] == [
        "broker", "direct", "auto",
    ]  # fmt: skip
    rest = NodeSettings(queue_routes=("*=broker", "mail=auto"))
    assert [rest.route_of(queue) for queue in ("mail", "other")] == ["auto", "broker"]


# --- showing ------------------------------------------------------------------------------


def test_description_has_every_value_and_its_origin(tmp_path: Path) -> None:
    loaded = _load(tmp_path, env={"ZMQTASKS_QUEUES": "high,low"})
    rows = {key: (value, origin) for key, value, origin in describe(loaded)}
    assert set(rows) == SETTING_NAMES
    assert rows["queues"] == ('["high", "low"]', "ZMQTASKS_QUEUES")
    assert rows["mdns"] == ("true", "default")
    assert rows["mesh"] == ('"default"', "default")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hush@host:6379/0", "redis://:***@host:6379/0"),
        ("postgresql://ann:hush@host/db", "postgresql://ann:***@host/db"),
        ("postgresql://ann:hu@sh@host/db", "postgresql://ann:***@host/db"),
        ("redis://host/0?password=hush&db=1", "redis://host/0?password=***&db=1"),
        ("sqlite:////a:b/c@d.db", "sqlite:////a:b/c@d.db"),
    ],
)
def test_passwords_are_never_shown(tmp_path: Path, url: str, shown: str) -> None:
    loaded = _load(tmp_path, env={"ZMQTASKS_STORE": url})
    assert loaded.settings.store == url
    assert {key: value for key, value, _ in describe(loaded)}["store"] == f'"{shown}"'


def test_password_is_not_shown_in_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        convert("store", "Redis://:hush@host", "ZMQTASKS_STORE")
    assert "hush" not in str(caught.value)


def test_description_can_be_read_back_as_a_file(tmp_path: Path) -> None:
    loaded = _load(tmp_path, env={"ZMQTASKS_QUEUES": "high,low", "ZMQTASKS_NAME": "n-1"})
    lines = [f"{key} = {value}\n" for key, value, _origin in describe(loaded)]
    (tmp_path / "zmqtasks.toml").write_text("".join(lines), encoding="utf-8")
    assert _load(tmp_path).settings == loaded.settings


def test_every_setting_is_documented() -> None:
    docs = {doc.key: doc for doc in setting_docs()}
    assert set(docs) == SETTING_NAMES
    assert all(doc.description.endswith((".", ")")) for doc in docs.values())
    assert docs["port"].type == "a whole number, 0 to 65533"
    assert docs["key_file"].flag == "--key"
    assert docs["lost_ms"].env == "ZMQTASKS_LOST_MS"
    assert docs["queue_routes"].flag == "--queue-route"


def test_nothing_is_read_from_the_environment_by_the_constructor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(os.environ, "ZMQTASKS_MESH", "env")
    assert NodeSettings().mesh == "default"


def test_values_of_any_kind_are_shown_as_plain_data_without_passwords() -> None:
    assert plain({"a": (1, 2.5, None, True), 3: {"x": OSError}, "f": plain}) == {
        "a": [1, 2.5, None, True], "3": {"x": "OSError"}, "f": "zmqtasks.settings_texts.plain",
    }  # fmt: skip
    assert plain("redis://me:secret@host/0") == "redis://me:***@host/0"
    assert plain([{"Api_Token": "x", "db_password": 7, "secret": None}]) == [
        {"Api_Token": "***", "db_password": "***", "secret": None}
    ]
    assert plain(UTC) == "UTC"


@pytest.mark.parametrize("make", [
    lambda endless: [["x" * 1_000] * 100] * 10,
    lambda endless: {f"task{n}": {"token": "t0p"} for n in range(1_000)},
    lambda endless: {"a": {"b": endless}},
    lambda endless: [10**40, "\ud800", math.nan],
])  # fmt: skip
def test_whatever_is_shown_can_be_told_in_a_message_and_is_short(make: Any) -> None:
    endless: list[object] = []
    endless.append(endless)
    told = msgspec.msgpack.encode(plain(make(endless)))
    assert len(told) < 5_000
    assert b"t0p" not in told
