"""``zmqtasks journal``: what lies in the journals of this host, is it whole, save what can be.

A journal is looked at in its folder, without the mesh and its nodes: that they do not
start is a likely reason to look. Those that a process has in use are left alone.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from zmqtasks.cli.errors import EXIT_FAILED
from zmqtasks.cli.options import setting_options, settings_from
from zmqtasks.cli.showing import as_json
from zmqtasks.errors import JournalError
from zmqtasks.journals.inspection import (
    HANDS,
    JournalReport,
    SlotReport,
    held_error,
    look_into,
    mend,
    slot_folders,
)
from zmqtasks.journals.salvage import Salvaged, remedy
from zmqtasks.journals.slots import is_slot
from zmqtasks.paths import journal_dir
from zmqtasks.settings import NodeSettings
from zmqtasks.words import counted

_Command = TypeVar("_Command", bound=Callable[..., Any])
_KEYS = ("mesh", "state_dir")
#: Whose hands, for people.
_WORDS = dict(
    zip(HANDS, ("open", "offered by a node", "given to a node", "dead", "of a newer version"),
        strict=True)
)  # fmt: skip


@click.group()
def journal() -> None:
    """Look at the journals of this host, save what is left of a damaged one.

    A journal holds the tasks that a process has accepted and that have not ended. Each
    process has one of its own, in a numbered folder; when it dies with tasks in it, the
    next node of the mesh on this host goes on with them.

    SLOT is the number of a journal, as `journal list` shows it, or its folder.
    """


def _with_settings(command: _Command) -> _Command:
    json_flag = click.option("--json", "with_json", is_flag=True, help="Print it as JSON.")
    return json_flag(setting_options(_KEYS)(command))


# --- list -------------------------------------------------------------------------------


@journal.command("list")
@_with_settings
def list_journals(*, with_json: bool, **flags: Any) -> None:
    """Show the journals of this host, in use or left behind, and what is in them."""
    settings = settings_from(flags).settings
    folder = journal_dir(settings)
    reports = [look_into(slot) for slot in _slots(folder)]
    if with_json:
        click.echo(as_json({"mesh": settings.mesh, "folder": str(folder),
                            "slots": [slot_data(report) for report in reports]}))  # fmt: skip
        return
    click.echo(f"mesh '{settings.mesh}': {counted(len(reports), 'journal')} in {folder}")
    if reports:
        rows = [(report.folder.name, _in_short(report)) for report in reports]
        width = max(len("slot"), *(len(name) for name, _ in rows))
        for name, text in (("slot", "state"), *rows):
            click.echo(f"{name:>{width}}  {text}")
    for line in _remarks(reports, settings.mesh):
        click.echo(line)


def _in_short(report: SlotReport) -> str:
    """A slot in one line."""
    if report.is_held:
        return f"in use by {_holder(report)} (its tasks: zmqtasks status)"
    if report.is_damaged:
        return f"damaged: zmqtasks journal check {report.folder.name}"
    if report.trouble:
        return report.trouble
    hands = Counter[str]()
    for found in report.journals:
        hands.update(found.hands)
    return f"free, with {tasks_text(hands)}" if hands else "free"


def _remarks(reports: Sequence[SlotReport], mesh: str) -> list[str]:
    whole = [report for report in reports if not (report.is_damaged or report.trouble)]
    waiting = sum(found.open_count or 0 for report in whole for found in report.journals)
    lines = [adoption(waiting, mesh)] if waiting else []
    kept = [path for report in reports for path in report.kept_aside]
    if kept:
        lines.append("kept from salvaged journals; remove them when you need them no longer:")
        lines += [f"  {path}" for path in kept]
    return ["", *lines] if lines else []


def adoption(count: int, mesh: str) -> str:
    """Where tasks go that are in a free slot."""
    these = "this task" if count == 1 else f"these {count:,} tasks"
    return (
        f"A node of mesh '{mesh}' on this host takes over {these}: now if there is one, "
        "else when it starts (zmqtasks node)."
    )


# --- check ------------------------------------------------------------------------------


@journal.command()
@click.argument("slots", nargs=-1, metavar="[SLOT]...")
@_with_settings
def check(slots: tuple[str, ...], *, with_json: bool, **flags: Any) -> None:
    """Read journals, all or these, and say what is damaged.

    Exit code 1: one is damaged, or cannot be read.
    """
    settings = settings_from(flags).settings
    chosen = [_slot(text, settings) for text in slots]
    reports = [look_into(slot) for slot in chosen or _slots(journal_dir(settings))]
    if chosen:
        for report in reports:
            if report.is_held:
                raise JournalError(held_error(report.folder))
    if with_json:
        click.echo(as_json({"mesh": settings.mesh, "slots": [slot_data(r) for r in reports]}))
    else:
        for report in reports:
            for line in _in_full(report):
                click.echo(line)
        if not reports:
            click.echo(f"mesh '{settings.mesh}' has no journals in {journal_dir(settings)}")
    sys.exit(EXIT_FAILED if any(r.is_damaged or r.trouble for r in reports) else 0)


def _in_full(report: SlotReport) -> list[str]:
    """A slot in as many lines as it takes."""
    name = report.folder.name
    if report.is_held:
        return [f"{name}: in use by {_holder(report)}, not looked at"]
    if not report.journals:
        return [f"{name}: whole, no tasks"]
    lines = []
    for found in report.journals:
        if found.trouble:
            lines.append(f"{name}: {found.trouble}")
        elif not found.damages:
            lines.append(f"{name}: whole, {tasks_text(found.hands)}")
        else:
            lines.append(f"{name}: damaged ({found.folder})")
            lines += [f"   {damage}" for damage in found.damages]
            lines.append(f"   {savable_text(found)}: {remedy(found.folder)}")
    return lines


def tasks_text(hands: Mapping[str, int]) -> str:
    """How many tasks, and in whose hands."""
    parts = [f"{hands[hand]} {_WORDS[hand]}" for hand in HANDS if hand in hands]
    count = counted(sum(hands.values()), "task")
    # That they are open is what they are in a journal for.
    return count if set(hands) <= {"owned"} else f"{count} ({', '.join(parts)})"


def savable_text(found: JournalReport) -> str:
    """How much of a damaged journal can be saved."""
    saved = found.open_count or 0
    lost = lostcounted(found)
    if lost is None:
        return f"{tasks_text(found.hands)} can be saved; it cannot be told how many there were"
    return f"{tasks_text(found.hands)} of {saved + lost} can be saved"


def lostcounted(found: JournalReport) -> int | None:
    """Tasks that cannot be read; None: nobody knows how many there were."""
    if found.expected_count is None or found.open_count is None:
        return None
    return max(0, found.expected_count - found.open_count)


# --- salvage ----------------------------------------------------------------------------


@journal.command()
@click.argument("slot", metavar="SLOT")
@_with_settings
def salvage(slot: str, *, with_json: bool, **flags: Any) -> None:
    """Save what is left of a damaged journal, for the next node to go on with.

    The damaged one is kept beside it. A journal that is whole stays as it is.
    """
    settings = settings_from(flags).settings
    folder = _slot(slot, settings)
    done = mend(folder)
    if with_json:
        click.echo(as_json({
            "slot": folder.name, "folder": str(folder),
            "salvaged": [salvaged_data(found, saved) for found, saved in done],
        }))  # fmt: skip
        return
    if not done:
        click.echo(f"{folder} is not damaged; nothing was changed")
        return
    for found, saved in done:
        for line in salvaged_lines(found, saved):
            click.echo(line)
    count = sum(saved.task_count for _, saved in done)
    if count:
        # <state>/<mesh>/journal/<slot>: a folder that was named may be of another mesh.
        click.echo(adoption(count, folder.parent.parent.name))
        click.echo("Some may run again though they had ended: that note may be what was damaged.")


def salvaged_lines(found: JournalReport, saved: Salvaged) -> list[str]:
    """What became of a damaged journal."""
    lost = lostcounted(found)
    return [
        f"{saved.kept_at.parent / found.folder.name}:",
        *(f"   {damage}" for damage in saved.damages),
        f"   saved: {tasks_text(found.hands)}",
        f"   lost: {'nobody can tell how many' if lost is None else counted(lost, 'task')}",
        f"   the damaged journal is kept as {saved.kept_at}",
    ]


def salvaged_data(found: JournalReport, saved: Salvaged) -> dict[str, Any]:
    """The same for programs."""
    return {
        "folder": str(found.folder), "saved": saved.task_count, "hands": found.hands,
        "lost": lostcounted(found), "damages": list(saved.damages), "kept_at": str(saved.kept_at),
    }  # fmt: skip


# --- slots ------------------------------------------------------------------------------


def slot_data(report: SlotReport) -> dict[str, Any]:
    """All that is known of a slot, for programs."""
    damaged = "damaged" if report.is_damaged else "unreadable" if report.trouble else "free"
    counts = [found.open_count for found in report.journals]
    return {
        "slot": report.folder.name, "folder": str(report.folder),
        "state": "in use" if report.is_held else damaged,
        "pid": report.pid or None, "node": report.node or None,
        "tasks": None if report.is_held or None in counts else sum(n or 0 for n in counts),
        "journals": [
            {
                "folder": str(found.folder), "tasks": found.open_count, "hands": found.hands,
                "expected": found.expected_count, "damages": list(found.damages),
                "trouble": found.trouble,
            }
            for found in report.journals
        ],
        "kept": [str(path) for path in report.kept_aside],
    }  # fmt: skip


def _slots(folder: Path) -> list[Path]:
    return [slot for slot in slot_folders(folder) if is_slot(slot)]


def _slot(text: str, settings: NodeSettings) -> Path:
    """The slot that is meant by a number or a folder, which may be that of its journal."""
    if text.isascii() and text.isdecimal():
        return journal_dir(settings) / str(int(text))
    path = Path(text).expanduser().absolute()
    return path.parent if not is_slot(path) and is_slot(path.parent) else path


def _holder(report: SlotReport) -> str:
    return f"process {report.pid}" if report.pid else "a process"
