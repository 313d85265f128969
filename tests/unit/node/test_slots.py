"""How much a node runs at once, and where."""

from __future__ import annotations

import os

import pytest

from zmqtasks.errors import ConfigError
from zmqtasks.node.slots import cpus_of
from zmqtasks.settings import NodeSettings


def test_a_cpu_that_the_node_may_not_use_is_refused_before_anything_starts() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    assert cpus_of(NodeSettings(cpus="auto")) == tuple(allowed)
    assert cpus_of(NodeSettings(cpus=str(allowed[0]))) == (allowed[0],)
    with pytest.raises(ConfigError) as caught:
        cpus_of(NodeSettings(cpus=f"{allowed[0]},{allowed[-1] + 1}"))
    assert f"may not use CPU {allowed[-1] + 1}, only {allowed[0]}" in str(caught.value)
