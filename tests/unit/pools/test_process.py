from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from zmqtasks.errors import AppLoadError, PayloadTooLarge
from zmqtasks.pools import nursery
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.process import ProcessPool
from zmqtasks.testing.pool_features import PAYLOAD_BYTES_MAX
from zmqtasks.testing.pool_host import RecordingHost, Rig, ended, started, wait_until_ended
from zmqtasks.wire.payload import decode_value

CONFIG = PoolConfig(
    app="tests.unit.pools.pool_tasks",
    node_name="worker-1",
    payload_bytes_max=PAYLOAD_BYTES_MAX,
)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with started(ProcessPool(CONFIG, 1)) as rig:
        yield rig


class TestChildren:
    """One process each, warm, and on its own."""

    @pytest.fixture(autouse=True)
    def _fresh_notes(self, rig: Rig) -> None:
        rig.host.forget()

    def test_child_leads_its_own_session(self, rig: Rig) -> None:
        facts = rig.value("process_facts")
        assert facts["pid"] == facts["group"] == facts["session"]
        assert facts["pid"] != os.getpid()
        assert facts["parent"] != os.getpid()

    def test_child_has_not_loaded_what_it_does_not_need(self, rig: Rig) -> None:
        names = ["zmq", "zeroconf", "click", "rich", "zmqtasks.node.client", "pytest"]
        assert rig.value("loaded", names) == []

    def test_ctrl_c_and_sigterm_do_not_end_a_task(self, rig: Rig) -> None:
        assert rig.value("survive_signals") == "alive"

    def test_output_below_python_comes_with_the_running_task(self, rig: Rig) -> None:
        task = rig.task("talk_below_python", "from far below")
        rig.pool.run(0, [task])
        rig.host.until(lambda: rig.host.logs)
        record = rig.host.logs[0]
        assert (record.stream, record.text) == ("stdout", "from far below")
        rig.host.until(lambda: rig.host.outcomes)

    def test_process_of_a_task_can_be_terminated_and_stays_out_of_the_protocol(
        self, rig: Rig
    ) -> None:
        assert rig.value("terminate_own_process") == -signal.SIGTERM
        assert rig.value("add", 1, 2) == 3

    def test_task_that_forks_and_returns_twice_has_one_outcome(self, rig: Rig) -> None:
        outcomes = rig.run(rig.task("fork_and_return", 5), rig.task("add", 1, 2))
        assert [decode_value(outcome.body) for outcome in outcomes] == [5, 3]
        assert rig.value("add", 3, 4) == 7
        assert len(rig.host.outcomes) == 3


class TestDeaths:
    """Each death is noticed, explained and made good."""

    @pytest.fixture(autouse=True)
    def _fresh_notes(self, rig: Rig) -> None:
        rig.host.forget()

    def die(self, rig: Rig, name: str, *args: object) -> str:
        """Run a task that ends its child; the reason reported."""
        rig.pool.run(0, [rig.task(name, *args)])
        rig.host.until(lambda: rig.host.ready)
        ((slot, reason),) = rig.host.died
        assert slot == 0
        assert rig.host.outcomes == []
        assert rig.value("add", 1, 2) == 3
        return reason

    @pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
    def test_signal_is_named(self, rig: Rig, signum: signal.Signals) -> None:
        reason = self.die(rig, "die_by", int(signum))
        assert f"killed by signal {int(signum)} ({signum.name}" in reason
        assert "request" not in reason

    def test_exit_code_is_named(self, rig: Rig) -> None:
        assert "exited with code 7" in self.die(rig, "exit_with", 7)

    def test_reason_names_the_process(self, rig: Rig) -> None:
        pid = rig.value("process_facts")["pid"]
        rig.host.forget()
        assert f"process {pid} " in self.die(rig, "exit_with", 0)

    def test_batch_before_the_suspect_is_answered_whole(self, rig: Rig) -> None:
        tasks = [rig.task("add", n, n) for n in range(20)]
        rig.pool.run(0, tasks)
        rig.pool.run(0, [rig.task("exit_with", 1, attempt=2)])
        rig.host.until(lambda: rig.host.ready)
        assert [outcome.id for outcome in rig.host.outcomes] == [task.id for task in tasks]
        assert len(rig.host.died) == 1

    def test_what_the_task_had_started_ends_too(self, rig: Rig) -> None:
        self.die(rig, "start_sleeper_and_die")
        wait_until_ended(int(rig.host.logs[0].text))

    def test_fork_that_holds_the_socket_does_not_hide_the_death(self, rig: Rig) -> None:
        assert "exited with code 7" in self.die(rig, "fork_and_die")

    def test_child_that_closed_its_socket_is_ended(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nursery, "CHILD_EXIT_MS", 10)
        assert "closed its connection" in self.die(rig, "close_sockets_and_sleep")

    def test_child_that_writes_into_its_socket_is_ended(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nursery, "CHILD_EXIT_MS", 10)
        assert "wrote into its connection" in self.die(rig, "write_into_sockets")

    def test_work_for_a_slot_that_just_died_vanishes_until_told(self, rig: Rig) -> None:
        rig.pool.run(0, [rig.task("exit_with", 1)])
        rig.host.until(lambda: rig.host.died)
        rig.pool.run(0, [rig.task("add", 1, 2)])
        rig.pool.kill(0)
        rig.host.until(lambda: rig.host.ready)
        rig.host.forget()
        assert rig.value("add", 1, 2) == 3


def test_slots_run_side_by_side() -> None:
    with started(ProcessPool(CONFIG, 3), slots=3) as rig:
        assert sorted(rig.host.ready) == [0, 1, 2]
        assert isinstance(rig.pool, ProcessPool)
        pids = rig.pool.pids()
        assert len(set(pids)) == 3
        rig.pool.run(0, [rig.task("spin")])
        rig.host.until(lambda: rig.host.logs)
        for slot in (1, 2):
            rig.pool.run(slot, [rig.task("add", slot, 1)])
        rig.host.until(lambda: len(rig.host.outcomes) == 2)
    wait_until_ended(*pids)


def test_stop_ends_idle_and_busy_children_and_is_idempotent() -> None:
    with started(ProcessPool(CONFIG, 2), slots=2) as rig:
        assert isinstance(rig.pool, ProcessPool)
        pids = rig.pool.pids()
        rig.pool.run(0, [rig.task("spin")])
        rig.host.until(lambda: rig.host.logs)
        rig.pool.stop()
        assert all(ended(pid) for pid in pids)
        rig.pool.stop()


def test_pool_outlives_its_fork_server() -> None:
    with started(ProcessPool(CONFIG, 2), slots=2) as rig:
        assert isinstance(rig.pool, ProcessPool)
        pids = rig.pool.pids()
        server = rig.value("process_facts")["parent"]
        rig.host.forget()
        os.kill(server, signal.SIGKILL)
        rig.host.until(lambda: sorted(rig.host.ready) == [0, 1])
        assert sorted(slot for slot, _ in rig.host.died) == [0, 1]
        assert "fork server" in rig.host.died[0][1]
        assert rig.value("add", 1, 2) == 3
        wait_until_ended(*pids)


NODE = """
import json, sys
from zmqtasks.testing.pool_host import started
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.process import ProcessPool

with started(ProcessPool(PoolConfig(app="tests.unit.pools.pool_tasks"), 2), 2) as rig:
    facts = rig.value("process_facts")
    rig.pool.run(0, [rig.task("spin")])
    print(json.dumps([facts["parent"], *rig.pool.pids()]), flush=True)
    rig.host.until(lambda: False)
"""


def test_nothing_outlives_a_killed_node() -> None:
    with subprocess.Popen([sys.executable, "-c", NODE], stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        pids = json.loads(node.stdout.readline())
        node.kill()
    wait_until_ended(*pids)


class TestLoading:
    """What an application does while it is imported."""

    def write(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> PoolConfig:
        (tmp_path / "loading_app.py").write_text(
            f"from zmqtasks import App\napp = App('loading')\n{text}\n"
        )
        monkeypatch.chdir(tmp_path)
        return PoolConfig(app="loading_app")

    def start(self, config: PoolConfig) -> AppLoadError:
        host = RecordingHost()
        pool = ProcessPool(config, 2)
        with pytest.raises(AppLoadError) as caught:
            pool.start(host)
        assert pool.pids() == []
        assert host.watched == set()
        host.close()
        return caught.value

    def test_exception_comes_with_its_traceback(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = self.write(tmp_path, monkeypatch, "def f(): 1 / 0\nf()")
        error = self.start(config)
        assert "'loading_app' failed: ZeroDivisionError" in str(error)
        assert "in f" in error.traceback
        assert "importlib" not in error.traceback

    def test_missing_module_is_named(self) -> None:
        assert "'no_such_module'" in str(self.start(PoolConfig(app="no_such_module")))

    def test_exit_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.write(tmp_path, monkeypatch, "import sys; sys.exit(4)")
        assert "SystemExit: 4" in str(self.start(config))

    def test_crash_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = self.write(tmp_path, monkeypatch, "import os; os.kill(os.getpid(), 11)")
        assert "SIGSEGV" in str(self.start(config))

    def test_calling_a_task_while_importing_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = self.write(tmp_path, monkeypatch, "@app.task\ndef f(): pass\nf.delay()")
        assert "no task runs here" in str(self.start(config))

    def test_threads_started_by_the_application_live_in_its_children(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = (
            "import threading, time\n"
            "thread = threading.Thread(target=time.sleep, args=(1000,), daemon=True)\n"
            "thread.start()\n"
            "@app.task(name='tests.unit.pools.pool_tasks.alive')\n"
            "def alive(): return thread.is_alive()"
        )
        with started(ProcessPool(self.write(tmp_path, monkeypatch, text), 1)) as rig:
            assert rig.value("alive") is True

    def test_what_it_prints_stays_out_of_the_nodes_output(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with started(ProcessPool(self.write(tmp_path, monkeypatch, "print('loading')"), 1)):
            pass
        # Read once, when nobody writes any more: what comes in between would be cut off unread.
        said = capfd.readouterr()
        assert (said.out, said.err) == ("", "loading\n")

    def test_exit_handlers_run_when_an_idle_child_stops(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = "import atexit\natexit.register(lambda: print('bye'))"
        with started(ProcessPool(self.write(tmp_path, monkeypatch, text), 1)) as rig:
            rig.pool.stop()
            assert [record.text for record in rig.host.logs] == ["bye"]

    def test_its_settings_are_known_before_the_slots_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = (
            "app.conf.update(concurrency=3, queues=['mail'], payload_bytes_max=5000)\n"
            "@app.task(name='tests.unit.pools.pool_tasks.blob')\n"
            "def blob(size): return bytes(size)"
        )
        pool = ProcessPool(self.write(tmp_path, monkeypatch, text))
        conf = pool.load()
        expected = {"concurrency": 3, "queues": ["mail"], "payload_bytes_max": 5000}
        assert expected.items() <= conf.items()
        assert pool.load() is conf
        assert len(pool.pids()) == 1
        pool.slots = 2
        with started(pool, slots=2) as rig:
            assert len(pool.pids()) == 2
            assert len(rig.value("blob", 4000)) == 4000
            error = rig.error("blob", 6000)
            assert isinstance(error, PayloadTooLarge)
            assert "6,00" in str(error)
            assert "payload_bytes_max is 5,000" in str(error)

    def test_flags_stand_above_its_settings(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = (
            "app.conf.payload_bytes_max = 5000\n"
            "@app.task(name='tests.unit.pools.pool_tasks.blob')\n"
            "def blob(size): return bytes(size)"
        )
        config = msgspec.structs.replace(
            self.write(tmp_path, monkeypatch, text), flags={"payload_bytes_max": 20_000}
        )
        with started(ProcessPool(config)) as rig:
            assert len(rig.value("blob", 10_000)) == 10_000

    def test_settings_that_contradict_each_other_are_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        error = self.start(self.write(tmp_path, monkeypatch, "app.conf.heartbeat_ms = 3000"))
        assert "App('loading'): lost_ms = 4000 must be at least 3 times" in str(error)
        assert "heartbeat_ms from app.conf" in str(error)
        assert error.traceback == ""

    def test_setting_that_is_not_its_own_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        error = self.start(self.write(tmp_path, monkeypatch, "app.conf.pool = 'solo'"))
        assert "use --pool, ZMQTASKS_POOL or zmqtasks.toml" in str(error)

    def test_its_settings_do_not_change_any_more(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = (
            "@app.task(name='tests.unit.pools.pool_tasks.change')\n"
            "def change(): app.conf.concurrency = 5"
        )
        with started(ProcessPool(self.write(tmp_path, monkeypatch, text))) as rig:
            assert "the application is in use" in str(rig.error("change"))

    def test_what_it_logs_while_loading_reaches_the_host(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Each child imports an application that starts threads.
        text = (
            "import threading, time\n"
            "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
            "print('in a child')"
        )
        pool = ProcessPool(self.write(tmp_path, monkeypatch, text))
        pool.load()
        with started(pool) as rig:
            assert [record.text for record in rig.host.logs] == ["in a child"]

    def test_pool_that_was_loaded_can_be_stopped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = "import atexit\natexit.register(lambda: open('bye', 'w').close())"
        pool = ProcessPool(self.write(tmp_path, monkeypatch, text), 2)
        pool.load()
        (pid,) = pool.pids()
        pool.stop()
        assert (tmp_path / "bye").exists()
        assert pool.pids() == []
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
