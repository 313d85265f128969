"""The id of a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from zmqtasks.net import hostid


def test_it_is_the_same_each_time() -> None:
    assert hostid.host_id() == hostid.host_id()
    assert len(hostid.host_id()) == hostid.HOST_ID_BYTES


def test_each_part_changes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine, boot, netns = tmp_path / "machine", tmp_path / "boot", tmp_path / "netns"
    monkeypatch.setattr(hostid, "_MACHINE_ID_FILES", (str(tmp_path / "none"), str(machine)))
    monkeypatch.setattr(hostid, "_BOOT_ID_FILES", (str(boot),))
    monkeypatch.setattr(hostid, "_NETNS_LINK", str(netns))
    seen = {hostid.host_id()}
    machine.write_text("m\n")
    seen.add(hostid.host_id())
    boot.write_text("b\n")
    seen.add(hostid.host_id())
    netns.symlink_to("net:[1]")
    seen.add(hostid.host_id())
    assert len(seen) == 4
