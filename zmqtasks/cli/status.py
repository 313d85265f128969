"""``zmqtasks status``: who is in the mesh, what they do, and what waits."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from zmqtasks.app.story import reason_text
from zmqtasks.cli.errors import EXIT_FAILED
from zmqtasks.cli.options import CLIENT_KEYS, setting_options
from zmqtasks.cli.session import FIND_S, empty_mesh, left_here, peers_text, session
from zmqtasks.cli.showing import as_json
from zmqtasks.node.survey import SeenNode
from zmqtasks.words import counted, told_apart

#: A handoff takes milliseconds, and a restart of a node seconds.
_STANDING_MS = 60_000
_ITS_HOST = (
    "it is not in sight, and it, or the next node of this mesh on its host, can tell: start one "
    "there (zmqtasks journal list there shows them)"
)
#: {what stands: (in words, with the node that is waited for; what to do while that is away)}.
_STANDING = {
    "incoming": ("offered by {}, which has not said whose they are", _ITS_HOST),
    "given": ("given to {}, which has not confirmed that", _ITS_HOST),
    "offered": (
        "offered to {}, which has not answered",
        "they stay here if its link is given up",
    ),
}
#: Seconds that a linked node has to answer.
_ANSWER_S = 2.0
_QUEUES_MAX = 4


@click.command()
@click.option(
    "--wait", type=click.FloatRange(min=0), default=FIND_S, show_default=True, metavar="S",
    help="Look for nodes of other hosts for S seconds at most.",
)  # fmt: skip
@click.option("--json", "with_json", is_flag=True, help="Print all that is known as JSON.")
@setting_options(CLIENT_KEYS)
def status(*, wait: float, with_json: bool, **flags: Any) -> None:
    """Show the nodes of the mesh, their load, and tasks that wait and why.

    Exit code 1: there are no nodes.
    """
    with session(flags) as client:
        client.survey.settle(wait)
        seen = sorted(client.survey.ask(_ANSWER_S), key=lambda node: (node.name, node.node))
        mesh, fingerprint = client.settings.mesh, client.runtime.fingerprint
        looked_at = client.survey.looked_at()
        silent_peers = client.survey.silent_peers()
        nobody = "" if seen else empty_mesh(client.settings, client)
        # A node of this host sees to them.
        is_here = any(node.transport == "ipc" and node.report is not None for node in seen)
        left_count, left = (0, "") if is_here else left_here(client.settings)
    if with_json:
        click.echo(as_json({
            "mesh": mesh,
            "key": fingerprint or None,
            "nodes": [node_data(node) for node in seen if node.report is not None],
            "unanswered": [unanswered_data(node) for node in seen if node.report is None],
            "unanswered_peers": silent_peers,
            "seen_by_others": hearsay_data(seen),
            "waiting": waiting_data(seen),
            "left_here": left_count,
            "looked_at": looked_at,
        }))  # fmt: skip
    elif nobody:
        click.echo(nobody)
    else:
        show(
            with_ids(seen),
            f"mesh '{mesh}'" + (f", key {fingerprint}" if fingerprint else ", no key"),
        )
        if silent_peers:
            click.echo(f"\nno answer at {peers_text(silent_peers)}")
        if left:
            click.echo(f"\n{left}")
    sys.exit(0 if seen else EXIT_FAILED)


# --- for programs -----------------------------------------------------------------------


def node_data(node: SeenNode) -> dict[str, Any]:
    """A node's description of itself, and how this command came to it."""
    return {
        **(node.report or {}),
        "found_by": node.found_by,
        "transport": node.transport,
        "address": node.address,
    }


def unanswered_data(node: SeenNode) -> dict[str, Any]:
    """A node that said nothing."""
    return {
        "node": node.node, "name": node.name, "roles": list(node.roles),
        "found_by": node.found_by, "transport": node.transport, "address": node.address,
        "trouble": node.trouble,
    }  # fmt: skip


def hearsay_data(seen: Sequence[SeenNode]) -> list[dict[str, Any]]:
    """Nodes that others are linked to and this command is not: they cannot be dialled from here,
    such as workers with ``--dial``."""
    here = {node.node for node in seen if node.report is not None}
    found: dict[str, dict[str, Any]] = {}
    for node in seen:
        for peer in (node.report or {}).get("peers") or ():
            if peer["node"] not in here and set(peer["roles"]) != {"producer"}:
                facts = {key: peer[key] for key in ("node", "name", "roles", "state")}
                found.setdefault(peer["node"], {**facts, "by": []})["by"].append(node.name)
    return list(found.values())


def waiting_data(seen: Sequence[SeenNode]) -> list[dict[str, Any]]:
    """Tasks that no worker has yet, by producer and kind."""
    return [
        {"producer": node.name, **kind}
        for node in seen
        for kind in ((node.report or {}).get("producer") or {}).get("waiting", ())
    ]


# --- for people -------------------------------------------------------------------------


def with_ids(seen: Sequence[SeenNode]) -> list[SeenNode]:
    """The same nodes; those that share a name have their id in it."""
    names = told_apart([(node.name, node.node) for node in seen])
    return [node._replace(name=name) for node, name in zip(seen, names, strict=True)]


def show(seen: Sequence[SeenNode], title: str) -> None:
    """Print the tables."""
    from rich.console import Console  # half of what this command needs to start
    from rich.markup import escape
    from rich.table import Table

    # Lines in a file or pipe are not cut to the width of a terminal.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    table = Table("node", "roles", "queues", "tasks", "load", "found by", box=None,
                  header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))  # fmt: skip
    answered = [node for node in seen if node.report is not None]
    for node in answered:
        table.add_row(*(escape(text) for text in row_of(node)))
    console.print(f"{title}: {counted(len(answered), 'node')}", markup=False, highlight=False)
    if answered:
        console.print(table)
    lines = (*hearsay_lines(seen), *address_lines(answered), *task_lines(answered))
    lines = (*lines, *journal_lines(answered), *handoff_lines(answered))
    lines = (*lines, *standing_lines(answered))
    lines = (*lines, *result_lines(answered))
    for line in (*lines, *trouble_lines(seen), *waiting_lines(seen)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def row_of(node: SeenNode) -> list[str]:
    """One line of the table of nodes."""
    report = node.report or {}
    queues = report.get("queues") or []
    more = f", +{len(queues) - _QUEUES_MAX}" if len(queues) > _QUEUES_MAX else ""
    via = f"{node.found_by}, {node.transport}" if node.transport else node.found_by
    return [
        node.name,
        ", ".join(node.roles),
        ", ".join(queues[:_QUEUES_MAX]) + more,
        str(len(report.get("tasks") or []) or ""),
        load_of(report),
        via,
    ]


def load_of(report: dict[str, Any]) -> str:
    """What a node has to do, in words."""
    parts = ["draining"] if report.get("draining") else []
    worker = report.get("worker")
    if worker:
        parts.append(
            f"{worker['running']} of {counted(worker['slots'], 'slot')}, "
            f"{worker['queued']:,} queued"
        )
    producer = report.get("producer")
    owns = {"producer", "broker", "beat"} & set(report.get("roles") or ("producer",))
    if producer and (owns or producer["open"] or producer.get("dead")):
        dead = f", {producer['dead']} dead" if producer.get("dead") else ""
        parts.append(f"{counted(producer['open'], 'open task')}{dead}")
    store = report.get("store")
    if store:
        waiting = f", {store['waiting']} waiting" if store.get("waiting") else ""
        parts.append(f"{counted(store['stored'], 'row')} stored{waiting}")
    return "; ".join(parts)


def hearsay_lines(seen: Sequence[SeenNode]) -> list[str]:
    """Who is there, and cannot be asked from here."""
    lines = [
        f"  {node['name']} ({', '.join(node['roles'])}): linked to {', '.join(node['by'])}"
        for node in hearsay_data(seen)
    ]
    title = "out of reach from here (--dial, or another network), so what they do is not seen:"
    return ["", title, *lines] if lines else []


def address_lines(seen: Sequence[SeenNode]) -> list[str]:
    """Where nodes listen for other hosts; the rest is for this one alone."""
    lines = []
    for node in seen:
        report = node.report or {}
        names = ("endpoints", "pub_endpoints", "pull_endpoints")
        found = [[e for e in report.get(name) or () if e.startswith("tcp:")] for name in names]
        if found[0]:
            first = found[0][0].rpartition(":")[0]
            ports = ", ".join(e[0].rpartition(":")[2] for e in found if e)
            more = f" (of {len(found[0])} addresses)" if len(found[0]) > 1 else ""
            lines.append(f"  {node.name}: {first}, ports {ports}{more}")
    return ["", "listening:", *lines] if lines else []


def task_lines(seen: Sequence[SeenNode]) -> list[str]:
    """Which tasks there are, once for all nodes that know the same."""
    knowing: dict[tuple[str, ...], list[str]] = {}
    for node in seen:
        tasks = tuple((node.report or {}).get("tasks") or ())
        if tasks:
            knowing.setdefault(tasks, []).append(node.name)
    lines: list[str] = []
    for tasks, names in knowing.items():
        lines += ["", f"tasks of {', '.join(names)}:", *(f"  {task}" for task in tasks)]
    return lines


def journal_lines(seen: Sequence[SeenNode]) -> list[str]:
    """Where nodes keep the tasks that they own, when they own any, and what is special."""
    lines = []
    for node in seen:
        journal = (node.report or {}).get("journal") or {}
        if journal.get("slot") is None:
            continue
        is_broker = "broker" in node.roles
        if not (is_broker or journal["tasks"] or journal["waiting"] or not journal["lasting"]):
            continue
        facts = [counted(journal["tasks"], "task")]
        if journal["waiting"]:
            facts.append(f"{counted(journal['waiting'], 'change')} on the way to the disk")
        if journal["resumed"]:
            facts.append(f"{journal['resumed']:,} there since its start")
        if journal["adopted"]:
            facts.append(f"{journal['adopted']:,} from ended processes")
        if not journal["lasting"]:
            facts.append("in memory, gone with the power")
        lines.append(f"  {node.name}: {journal['folder']}: {', '.join(facts)}")
    return ["", "journals:", *lines] if lines else []


def handoff_lines(seen: Sequence[SeenNode]) -> list[str]:
    """Tasks on their way from one owner to another."""
    lines = []
    for node in seen:
        handoff = (node.report or {}).get("handoff") or {}
        facts = [
            f"{counted(handoff[key], 'task')} {what}"
            for key, what in (
                ("offered", "offered to other nodes"),
                ("given", "given to other nodes, which have not confirmed that yet"),
                ("incoming", "offered by other nodes, which have not said yet whose they are"),
            )
            if handoff.get(key)
        ]
        if facts:
            lines.append(f"  {node.name}: {', '.join(facts)}")
    return ["", "being handed over:", *lines] if lines else []


def standing_lines(seen: Sequence[SeenNode]) -> list[str]:
    """Tasks that have stood between two nodes for long: who waits for whom, and what to do."""
    names = {node.node: node.name for node in seen if node.report is not None}
    lines = []
    for node in seen:
        standing = ((node.report or {}).get("handoff") or {}).get("standing") or {}
        for key, (what, remedy) in _STANDING.items():
            found = standing.get(key) or {}
            if found.get("ms", 0) < _STANDING_MS:
                continue
            for other, count in found["nodes"].items():
                who = names.get(other) or f"node {other}"
                away = "it is in sight: see its log" if other in names else remedy
                lines.append(
                    f"  {node.name}: {counted(count, 'task')} {what.format(who)}, the oldest for "
                    f"{_minutes(found['ms'])}; {away}"
                )
    return ["", "stuck between two nodes:", *lines] if lines else []


def _minutes(ms: int) -> str:
    minutes = ms // 60_000
    return counted(minutes, "minute") if minutes < 120 else counted(minutes // 60, "hour")


def result_lines(seen: Sequence[SeenNode]) -> list[str]:
    """Nodes whose results wait on the disk for a store, or did not get to one."""
    lines = []
    for node in seen:
        results = (node.report or {}).get("results") or {}
        facts = []
        if results.get("spilled"):
            mib = results["spilled_bytes"] / (1 << 20)
            facts.append(f"{mib:,.1f} MiB of results wait on its disk for a store")
        if results.get("spill_failing"):
            facts.append(f"its disk takes no more: {results['spill_failing']}")
        missed = results.get("missed", 0) + results.get("spill_lost", 0)
        if missed:
            facts.append(f"{counted(missed, 'record')} dropped or lost before a store had them")
        if facts:
            lines.append(f"  {node.name}: {', '.join(facts)}")
    return ["", "results:", *lines] if lines else []


def trouble_lines(seen: Sequence[SeenNode]) -> list[str]:
    """Nodes that did not answer, stores that cannot store, journals that take nothing."""
    lines = [
        f"  {node.name or node.node} ({', '.join(node.roles)}; found by {node.found_by}): "
        f"{node.trouble}"
        for node in seen if node.report is None
    ]  # fmt: skip
    failing = [
        f"  {node.name} ({store['url']}): {store['failing']}"
        for node in seen if (store := (node.report or {}).get("store") or {}).get("failing")
    ]  # fmt: skip
    journals = [
        f"  {node.name}: {journal['failing']}"
        for node in seen
        if (journal := (node.report or {}).get("journal") or {}).get("failing")
    ]
    dropped = [
        f"  {node.name}: {', '.join(facts)}; its log says more"
        for node in seen if (facts := _dropped((node.report or {}).get("garbage") or {}))
    ]  # fmt: skip
    return [
        *(["", "no answer from:", *lines] if lines else []),
        *(["", "stores that fail:", *failing] if failing else []),
        *(["", "journals that fail:", *journals] if journals else []),
        *(["", "what strangers sent:", *dropped] if dropped else []),
    ]


def _dropped(garbage: Mapping[str, int]) -> list[str]:
    words = {
        "undecodable": "{} that could not be read", "oversized": "{} of too many frames",
        "stray": "{} where only subscriptions go", "unauthenticated": "{} without the mesh key",
        "refused": "{} handshakes that failed",
    }  # fmt: skip
    return [
        words.get(key, f"{{}} {key}").format(f"{count:,}")
        for key, count in garbage.items() if count
    ]  # fmt: skip


def waiting_lines(seen: Sequence[SeenNode]) -> list[str]:
    """What waits for a worker, and why."""
    lines = [
        f"  {kind['count']} × {kind['task']} (app '{kind['app']}', queue '{kind['queue']}') of "
        f"{kind['producer']}: {_reason(kind['why'])}"
        for kind in waiting_data(seen)
    ]
    return ["", "waiting:", *lines] if lines else []


def _reason(why: str) -> str:
    """What comes after "task ... waits:"."""
    return reason_text(why) or "every worker that can run it is busy"
