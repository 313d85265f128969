"""What only some worlds have, beside faults: see ``FEATURES``."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.simulation.tasks import QUICK, SLOW, Spec, once
from zmqtasks.ids import keyed_task_id

if TYPE_CHECKING:
    from tests.simulation.process import Plan
    from tests.simulation.world import World

#: Virtual time with faults.
SAFETY_MS = 5_000


class Features:
    """Those of one world. Each has draws of its own."""

    def __init__(self, world: World) -> None:
        self.world = world

    def has_callers(self, plan: Plan) -> bool:
        """This process has a Client, so that its calls come in as in production."""
        features = self.world.faults.features
        return plan.role[0] == "p" and not features.keys().isdisjoint(("keys", "limits"))

    def limits_of(self, plan: Plan) -> tuple[int, int]:
        """How many open tasks a process may have, and bytes of their arguments."""
        rng = self.world.faults.features.get("limits")
        if rng is None:
            return 10_000, 1 << 30
        if plan.role[0] == "p":
            return rng.choice(((2, 1 << 30), (5, 200), (20, 1 << 30)))
        return rng.choice((10, 30, 100)), 1 << 30

    def patience_ms(self) -> int:
        """How long a caller waits for room."""
        rng = self.world.faults.features.get("limits")
        return rng.choice((0, 300, 3_000)) if rng is not None else 0

    def plan(self) -> None:
        """What happens when."""
        features = self.world.faults.features
        rng = features.get("keys")
        if rng is not None:
            for number in range(rng.randint(1, 4)):
                self._plan_key(rng, f"key {number}")
        rng = features.get("drain")
        if rng is not None:
            for _ in range(rng.randint(1, 3)):
                self.world.at(rng.randint(500, SAFETY_MS), self._drain, rng)
        rng = features.get("clocks")
        if rng is not None:
            for _ in range(rng.randint(1, 6)):
                self.world.at(rng.randint(200, SAFETY_MS), self._set_clock, rng)

    def _plan_key(self, rng: random.Random, key: str) -> None:
        """Calls of one task with one key; now and then one with other arguments."""
        kind = rng.choice((QUICK, QUICK, SLOW))
        task_id = keyed_task_id(kind.app, kind.name, key)
        run_ms = rng.randint(0, 400)
        deed = rng.choice(("plain", "raise"))
        spec = Spec(task_id, kind, b"argument of " + task_id, run_ms, deed)
        if self.world.faults.has("once") and rng.random() < 0.3:
            spec = once(spec, is_known=True)
        at_ms = rng.randint(150, SAFETY_MS - 2_000)
        spec = self.world.extras.called_at(spec, at_ms)
        self.world.ledger.specs[task_id] = spec
        for _ in range(rng.randint(2, 4)):
            this = spec if rng.random() < 0.8 else spec._replace(body=b"another " + spec.body)
            how = rng.choice(("memory", "disk"))
            self.world.at(at_ms, self._call_keyed, rng.random(), this, how)
            at_ms += rng.choice((0, 1, rng.randint(1, 1_000)))

    def _call_keyed(self, draw: float, spec: Spec, how: str) -> None:
        script = self.world.script(draw)
        if script is not None and script.caller is not None:
            script.deliver(script.caller.call_keyed, spec, how, self.patience_ms())

    def _drain(self, rng: random.Random) -> None:
        """Rather a broker, which has most to hand over."""
        nodes = [p for p in self.world.alive() if p.plan.role[0] in "bws" and p.draining is None]
        brokers = [p for p in nodes if p.plan.role[0] == "b"]
        if brokers and rng.random() < 0.7:
            nodes = brokers
        if nodes:
            self.world.faults.count("drain")
            node = rng.choice(nodes)
            node.deliver(node.drain, rng.choice((0, 500, 2_000, 4_000)))
            if rng.random() < 0.2:
                self.world.after(rng.randint(0, 500), node.deliver, node.drain, 0)

    def _set_clock(self, rng: random.Random) -> None:
        alive = self.world.alive()
        if alive:
            self.world.faults.count("clocks")
            rng.choice(alive).clock.jump()
