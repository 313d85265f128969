"""Write the reference pages that are made from the code: settings, errors, pools, commands.

``make reference`` runs it; a test checks that the committed pages are current.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from zmqtasks import errors
from zmqtasks.app.app_settings import APP_SETTINGS
from zmqtasks.cli import main as command_line
from zmqtasks.cli.options import CLIENT_KEYS
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.registry import BUILT_IN, make_pool
from zmqtasks.settings import setting_docs
from zmqtasks.settings_texts import SettingDoc
from zmqtasks.testing.pool_contract import behaviours

REFERENCE = Path(__file__).parent / "reference"

_SETTINGS_HEAD = """\
# Settings

<!-- Made by docs/generate_reference.py from zmqtasks/settings.py; change it there. -->

A value comes from, the first found wins:

1. the command line (`--port 5000`; `zmqtasks COMMAND --help` lists the flags that a command has),
2. the environment (`ZMQTASKS_PORT=5000`; lists with commas; an empty variable counts as not set),
3. `zmqtasks.toml` in the working directory (`port = 5000`), or where there is none
   `[tool.zmqtasks]` in `pyproject.toml`,
4. `App("shop", port=5000)` or `app.conf.port = 5000`, for every process that uses the application
   and for the workers that load it (`app`, `name`, `pool` and `roles` cannot be set there),
5. the default.

`zmqtasks node --print-config` shows every value and where it came from. An unknown setting is an
error that names the nearest one. Variables that Kubernetes and Docker set for a service called
`zmqtasks` (`ZMQTASKS_PORT=tcp://…`, `ZMQTASKS_SERVICE_HOST`) are passed over.

`mesh`, not the name of an app, decides which nodes belong together. Each mesh has its own folder
under the runtime, state and cache directories, closed to other users.

Values that must fit together: `heartbeat_ms` × 3 ≤ `lost_ms`; `heartbeat_ms` × 2 ≤ `lease_ms` and
≤ `stalled_ms`; `lease_ms` < `lost_ms`; `stalled_ms` < `stalled_lost_ms`;
`result_inline_bytes_max` ≤ `payload_bytes_max`. `dial` goes neither with the role `broker` nor with
`listen` (but for `ipc`), `port` and `advertise`.

| setting | flag, environment | values | default | meaning |
|---|---|---|---|---|
"""

_APP_SETTINGS_HEAD = """
## Settings of applications

These are about the tasks of an application, so only `App(...)` and `app.conf` set them. They cannot
change once the application is in use. `zmqtasks inspect conf` shows what a worker has of them.

| setting | values | default | meaning |
|---|---|---|---|
"""

_ERRORS_HEAD = """\
# Errors

<!-- Made by docs/generate_reference.py from zmqtasks/errors.py; change it there. -->

Everything that zmqtasks raises is a `ZmqTasksError`. Messages name the thing, the reason and the
remedy. On the command line an error is one line on stderr and exit code 2.

A task's own exception comes back as its own type where that can be imported, else as `TaskFailed`.

| error | is a | meaning |
|---|---|---|
"""


_POOLS_HEAD = """\
# Pools

<!-- Made by docs/generate_reference.py from zmqtasks/testing/pool_contract.py; change it there. -->

What the pools can do (`--pool`, see [Workers](../howto/workers.md)). Each row is tried by the
suite `zmqtasks.testing.PoolContract`, which all pools run; what a pool cannot do it refuses when
the node starts. Calls with time limits go to workers whose pools can keep them. Where a running
task cannot be ended, the worker's log says so.

"""

_POOLS_TAIL = """
* **Soft limits** of `thread` and `asyncio` are raised when the task runs Python code next: a call
  that blocks is interrupted when it returns. An `async def` task is interrupted at its `await`,
  in every pool.
* **Hard limits** need a process for each task. Neither a thread nor a coroutine can be made to
  end.
* **Ending a running task**: `asyncio` cancels its coroutine, and the task ends as cancelled
  whatever it makes of the `CancelledError`; one that goes on for ever goes on for ever. Functions
  (`def`) go on, there and in threads. They can ask `is_cancelled()`.
* **Blame**: where tasks share a process and several ran when it died, nobody can say which of
  them did it. They run again, with no strike against them, each in a process of its own (8 at a
  time). So the one that did it is found at its next attempt, and is dead after three; no other
  one ever is. Those that must not run twice (`idempotent=False`) end as `WorkerLostError`.
* **Replacing the process**: in `thread` and `asyncio` the numbers and the memory are those of the
  one process that all tasks share. The new one takes over while the old one ends what it has.
* `async def` tasks run in every pool: one at a time in each process, thread or main thread, all
  at once in `asyncio`. There, functions run in threads, at most `min(32, CPUs + 4)` at once.

## A pool of your own

`--pool module:Class`, or a name with an entry point in the group `zmqtasks.pools`. The class
takes a `PoolConfig` and has the methods of `zmqtasks.pools.base.Pool`.
`zmqtasks.testing.PoolContract` tries it:

```python
from zmqtasks.testing import PoolContract


class TestMyPool(PoolContract):
    @staticmethod
    def make_pool(config):
        return MyPool(config)
```
"""


#: Options of commands are not repeated where their text is longer.
_SHORT_CHARS = 120
_CLI_HEAD = """\
# Commands

<!-- Made by docs/generate_reference.py from zmqtasks/cli/; change it there. -->

`zmqtasks COMMAND --help` says the same. `python -m zmqtasks` is `zmqtasks`, and `-h` is `--help`.

What a program wants goes to stdout, as JSON with `--json`; errors and logs go to stderr. An error
is one line that names the thing, the reason and the remedy.

| exit code | |
|---|---|
| 0 | done |
| 1 | the task failed, or nobody knows it; a node did not answer, or could not do it |
| 2 | the command could not do what it was asked: something is wrong with it, or nobody is there |
| 3 | the task has not finished |
| 130 | interrupted from the keyboard |

Those of `zmqtasks node` are in [Running nodes](../howto/running.md#exit-codes).

## Options that many commands have

Commands that talk to a mesh, marked *mesh options* below, take the flags of these settings, see
[Settings](settings.md): {mesh_options}.
"""


def cli_page() -> str:
    """The text of ``reference/cli.md``."""
    flags = {doc.key: doc.flag for doc in setting_docs()}
    parts = [_CLI_HEAD.format(mesh_options=", ".join(f"`{flags[key]}`" for key in CLIENT_KEYS))]
    #: {the options of a command: the first one that has these}
    first: dict[str, str] = {}
    for path, command in _commands("zmqtasks", command_line):
        parts.append(_command_text(path, command))
        options = _options_text(command)
        same = first.setdefault(options, path) if len(options) > _SHORT_CHARS else path
        if same != path:
            options = f"\nOptions as of [{same}](#{same.replace(' ', '-')}).\n"
        parts.append(options)
    return "".join(parts)


def _commands(path: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    ctx = click.Context(group, info_name=path)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None, name
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from _commands(f"{path} {name}", command)


def _command_text(path: str, command: click.Command) -> str:
    text = f"\n#{'#' * path.count(' ')} {path}\n\n"
    if not isinstance(command, click.Group):
        usage = " ".join(command.collect_usage_pieces(click.Context(command, info_name=path)))
        text += f"```\n{path} {usage}\n```\n\n"
    text += f"{inspect.cleandoc(command.help or '')}\n"
    if command.epilog:
        text += f"\n```\n{command.epilog.removeprefix(chr(8)).strip()}\n```\n"
    return text


def _options_text(command: click.Command) -> str:
    options = [param for param in command.params if isinstance(param, click.Option)]
    # Some commands have an option of their own by the name of a setting.
    taken = [doc for doc in setting_docs() for option in options if _is_of(option, doc)]
    own = [option for option in options if not any(_is_of(option, doc) for doc in taken)]
    text = "\n| option | |\n|---|---|\n" + "".join(map(_option_row, own)) if own else ""
    keys = {doc.key for doc in taken}
    if keys == set(CLIENT_KEYS):
        text += "\nAnd the *mesh options*.\n"
    elif len(taken) == len(setting_docs()):
        text += "\nAnd one flag for each [setting](settings.md).\n"
    elif taken:
        flags = ", ".join(f"`{doc.flag}`" for doc in taken)
        text += f"\nOf the [settings](settings.md): {flags}.\n"
    return text


def _is_of(option: click.Option, doc: SettingDoc) -> bool:
    return option.name == doc.key and option.help == doc.description.replace("`", "")


def _option_row(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or option.type.name.split()[0].upper()}"
    names = ", ".join(f"`{name}{value}`" for name in (*option.opts, *option.secondary_opts))
    default = f" Default: `{option.default}`." if option.show_default and not option.is_flag else ""
    return f"| {names} | {option.help}{default} |\n"


def pools_page() -> str:
    """The text of ``reference/pools.md``."""
    features = {name: make_pool(name, PoolConfig(app="")).features for name in BUILT_IN}
    rows = [
        f"| | {' | '.join(f'`{name}`' for name in features)} |\n|---|{'---|' * len(features)}\n"
    ]
    for row in behaviours():
        cells = ["yes" if not row.needs or row.needs in has else "–" for has in features.values()]
        rows.append(f"| {row.text} | {' | '.join(cells)} |\n")
    return _POOLS_HEAD + "".join(rows) + _POOLS_TAIL


def settings_page() -> str:
    """The text of ``reference/settings.md``."""
    rows = [
        f"| `{doc.key}` | `{doc.flag}` `{doc.env}` | {doc.type} | `{doc.default}` "
        f"| {doc.description} |\n"
        for doc in setting_docs()
    ]
    own = [
        f"| `{key}` | {setting.values} | {_default(setting.default)} | {setting.description} |\n"
        for key, setting in APP_SETTINGS.items()
    ]
    return _SETTINGS_HEAD + "".join(rows) + _APP_SETTINGS_HEAD + "".join(own)


def _default(value: object) -> str:
    return "–" if value is None else f'`"{value}"`'


def errors_page() -> str:
    """The text of ``reference/errors.md``."""
    rows = []
    for cls in error_classes():
        bases = ", ".join(f"`{base.__name__}`" for base in cls.__bases__)
        rows.append(f"| `{cls.__name__}` | {bases} | {_summary(cls)} |\n")
    return _ERRORS_HEAD + "".join(rows)


def error_classes() -> list[type[errors.ZmqTasksError]]:
    """All classes of ``errors.py`` in the order of that file."""
    return [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.ZmqTasksError)
    ]


def _summary(cls: type) -> str:
    text = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    return text.replace("``", "`")


#: {file name: its text}
PAGES = {"settings.md": settings_page, "errors.md": errors_page, "pools.md": pools_page,
         "cli.md": cli_page}  # fmt: skip


def main() -> None:
    """Write all pages."""
    REFERENCE.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
