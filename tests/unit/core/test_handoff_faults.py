"""Handoffs in storms of faults: one owner at every moment, and in the end every task has run.

Each run is a seeded sequence of deliveries, commits, drops, deaths, power losses, restarts
and takeovers of journals, with checks after each step; then all faults end, and everything
has to settle. A failing seed is replayed by ``Storm(seed).run()``.
"""

from __future__ import annotations

import random

import pytest

from tests.support.machines import task_id
from tests.unit.core.handing import Connection, Network, Node

G, T, U = b"giver-01", b"taker-01", b"taker-02"
NODES = (G, T, U)
#: {what happens: how often}.
WEIGHTS = {
    "deliver": 30, "write": 20, "finish": 4, "submit": 6, "connect": 5, "drop": 2, "notice": 3,
    "kill": 1, "restart": 3, "tick": 3, "leave": 2, "fill": 1, "reroute": 2,
}  # fmt: skip


class Storm:
    """One giver, two takers, and what befalls them.

    Args:
        seed: of everything that is left to chance.
        heirs: journals of ended nodes are taken over.
        power: the power fails, too.
    """

    def __init__(self, seed: int, *, heirs: bool = False, power: bool = True) -> None:
        self.chance = random.Random(seed)
        self.heirs = heirs
        self.power = power
        self.giver = Node(G, "producer", "store", route="broker")
        self.net = Network([self.giver, Node(T, "broker", "worker"), Node(U, "broker", "worker")])
        self.count = 0
        #: Ids of tasks that were accepted for good.
        self.accepted: dict[bytes, None] = {}
        #: {task id: durable}.
        self.ids: dict[bytes, bool] = {}
        #: Tasks in memory that died with their owner, as they may.
        self.lost: dict[bytes, None] = {}
        #: Nodes whose journal is with another one.
        self.buried: dict[bytes, None] = {}
        self.trace: list[str] = []

    def run(self, steps: int = 80) -> None:
        """The storm, then the calm."""
        for one, other in ((G, T), (U, G), (T, U)):
            if self.chance.random() < 0.7:
                self.net.connect(one, other)
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        try:
            for name in self.chance.choices(names, weights, k=steps):
                self.step(name)
                self.check()
            self.heal()
            self.check_all()
        except BaseException:
            print("\n".join(self.trace))
            raise

    def note(self, text: str) -> None:
        self.trace.append(text)

    # --- what happens -----------------------------------------------------------------------

    def step(self, name: str) -> None:
        getattr(self, "do_" + name)()
        for node in self.net.alive():
            self.net.carry(node)

    def do_deliver(self) -> None:
        ends = self.net.open_ends()
        if ends:
            end = self.chance.choice(ends)
            for _ in range(min(len(end.incoming), self.chance.choice((1, 1, 2, 5)))):
                if end.incoming:
                    self.note(f"{end.node.name!r} gets {end.incoming[0]!r} on {end.link}")
                    self.net.deliver(end)

    def do_write(self) -> None:
        nodes = [node for node in self.net.alive() if node.writes]
        if nodes:
            node = self.chance.choice(nodes)
            self.note(f"{node.name!r} writes {node.writes[0]!r}")
            node.write()

    def do_finish(self) -> None:
        nodes = [node for node in self.net.alive() if node.running or node.hosted]
        if nodes:
            node = self.chance.choice(nodes)
            task = self.chance.choice([*node.running, *node.hosted])
            self.note(f"{node.name!r} has an outcome of {task!r}")
            node.finish(task)

    def do_submit(self) -> None:
        if self.giver.is_alive:
            self.count += 1
            durable = self.chance.random() < 0.7
            self.ids[task_id(self.count)] = durable
            self.note(f"submit {self.count} durable={durable}")
            self.giver.submit([self.count], durable=durable)

    def do_connect(self) -> None:
        one, other = self.chance.sample(NODES, 2)
        self.note(f"connect {one!r} {other!r}")
        self.net.connect(one, other)

    def do_drop(self) -> None:
        connection = self.any_connection(whole=True)
        if connection is not None:
            side = self.chance.randrange(2)
            self.note(f"{connection.ends[side].node.name!r} drops {connection.ends[side].link}")
            self.net.drop(connection, side, self.chance.choice(("silent", "reset")))

    def do_notice(self) -> None:
        connection = self.any_connection(whole=False)
        if connection is not None:
            side = self.chance.randrange(2)
            gone = not connection.ends[1 - side].node.is_alive
            reason = self.chance.choice(("gone", "silent")) if gone else "silent"
            self.note(f"{connection.ends[side].node.name!r} notices {reason}")
            self.net.notice(connection, side, reason)

    def any_connection(self, *, whole: bool) -> Connection | None:
        found = [c for c in self.net.connections.values() if c.is_whole == whole]
        return self.chance.choice(found) if found else None

    def do_kill(self) -> None:
        nodes = self.net.alive()
        if nodes:
            node = self.chance.choice(nodes)
            power = self.power and self.chance.random() < 0.5
            self.note(f"{node.name!r} ends, power={power}")
            self.kill(node, power=power)

    def kill(self, node: Node, *, power: bool) -> None:
        self.gather()
        owned = [task for task in node.dispatcher.tasks if not self.ids[task]]
        self.net.kill(node, power=power)
        for task in owned:
            if task not in node.records():
                self.lost[task] = None

    def do_restart(self) -> None:
        dead = [
            node for node in self.net.nodes.values()
            if not node.is_alive and node.name not in self.buried
        ]  # fmt: skip
        if not dead:
            return
        node = self.chance.choice(dead)
        alive = self.net.alive()
        if self.heirs and alive and self.chance.random() < 0.4:
            heir = self.chance.choice(alive)
            self.note(f"{heir.name!r} takes the journal of {node.name!r} over")
            self.bury(node, heir)
        else:
            self.note(f"{node.name!r} starts again")
            self.net.restart(node)

    def bury(self, node: Node, heir: Node) -> None:
        # Journals of the dead are looked for now and then, and read; no write lasts so long.
        while heir.writes:
            heir.write()
        self.buried[node.name] = None
        heir.adopt(node)
        self.net.carry(heir)

    def do_tick(self) -> None:
        self.net.pass_time(self.chance.choice((100, 1_000, 1_500, 61_000)))

    def do_leave(self) -> None:
        nodes = self.net.alive()
        if nodes:
            node = self.chance.choice(nodes)
            if self.chance.random() < 0.8:
                self.note(f"{node.name!r} leaves")
                node.handoff.leave(self.net.now_ms)
            else:
                self.note(f"{node.name!r} ends the handing over")
                node.handoff.end()
            node.turn()

    def do_reroute(self) -> None:
        if self.giver.is_alive:
            self.giver.route = self.chance.choice(("direct", "broker", "broker"))
            self.note(f"the giver's queues are {self.giver.route}")
            self.reroute(self.giver)
            self.giver.turn()

    def reroute(self, node: Node) -> None:
        for lane in node.dispatcher.lanes.values():
            lane.route = node.route
        node.dispatcher.dealer.is_touched = True

    def do_fill(self) -> None:
        # That of the giver stays as it is: what cannot be written is offered all the same,
        # and is only as safe as the process that has it.
        node = self.net.nodes[self.chance.choice((T, U))]
        node.disk.bytes_max = self.chance.choice((None, 0))
        self.note(f"the disk of {node.name!r} holds {node.disk.bytes_max}")

    # --- what must hold ---------------------------------------------------------------------

    def gather(self) -> None:
        for node in self.net.alive():
            for number in node.accepted:
                self.accepted[task_id(number)] = None
            node.accepted.clear()

    def check(self) -> None:
        self.gather()
        nodes = list(self.net.nodes.values())
        for task, durable in self.ids.items():
            owners = self.net.owners(task)
            assert len(owners) <= 1, f"{task!r} has two owners: {[n.name for n in owners]}"
            if durable:
                settled = sum(node.settled.count(task) for node in nodes)
                assert settled <= 1, f"{task!r} settled {settled} times"
        attempts: dict[tuple[bytes, int], int] = {}
        for node in nodes:
            for key, times in node.sent.items():
                attempts[key] = attempts.get(key, 0) + times
        for (task, attempt), times in attempts.items():
            assert times == 1 or not self.ids[task], f"{task!r} attempt {attempt}: {times} times"

    def heal(self) -> None:
        self.note("calm")
        for node in self.net.nodes.values():
            node.disk.bytes_max = None
        for name, node in self.net.nodes.items():
            if not node.is_alive and name not in self.buried:
                self.net.restart(node)
        for connection in self.net.connections.values():
            if not connection.is_whole:
                self.net.notice(connection, 0)
                self.net.notice(connection, 1)
        alive = [node.name for node in self.net.alive()]
        for one in alive:
            for other in alive:
                if one < other:
                    self.net.connect(one, other)
        for node in self.net.alive():
            node.handoff.end()
            node.route = "direct"
            self.reroute(node)
        for _ in range(12):
            self.net.settle_down(work=True)
            self.check()
            self.net.pass_time(1_200)

    def check_all(self) -> None:
        nodes = list(self.net.nodes.values())
        ended = {task for node in nodes for task in node.settled}
        for task in self.accepted:
            assert task in ended or task in self.lost, f"{task!r} is lost"
        for node in self.net.alive():
            machines = (node.handoff.unconfirmed, node.handoff.deciding, node.handoff.dropping)
            assert machines == ({}, {}, {}), f"{node.name!r} waits: {machines}"
            assert not node.taking.tasks, f"{node.name!r} waits for {node.taking.tasks}"
            assert not node.taking.dropping
            assert not node.dispatcher.tasks, f"{node.name!r} has {list(node.dispatcher.tasks)}"
            assert node.records() == {}, f"{node.name!r} keeps {node.records()}"


@pytest.mark.parametrize("first", range(0, 1_000, 250))
def test_a_task_has_one_owner_in_every_storm(first: int) -> None:
    for seed in range(first, first + 250):
        Storm(seed).run()
