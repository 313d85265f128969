"""The examples do what their pages say, and leave nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.e2e


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The folder in which an example makes its own; short, since sockets go there."""
    folder = Path(tempfile.mkdtemp(prefix="zx-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def start(temporary: Path, script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)], env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], timeout_s: float = 90.0) -> tuple[str, str]:
    try:
        return process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        # Not SIGKILL: the example is to stop its nodes.
        process.terminate()
        out, err = process.communicate()
        pytest.fail(f"did not end in {timeout_s} s:\n{out}\n{err}")


def processes_with(folder: Path) -> list[str]:
    """Command lines of processes that an example started there and that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(folder) in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # ended, or not ours
    return found


def assert_nothing_is_left(temporary: Path) -> None:
    assert processes_with(temporary) == []
    assert list(temporary.iterdir()) == []


def test_wordcount_counts_a_directory(temporary: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    (texts / "deeper").mkdir(parents=True)
    for number in range(40):
        (texts / f"{number}.txt").write_text("the end of the beginning\n" * (number + 1))
    (texts / "deeper" / "latin-1.txt").write_bytes("Ça va the été".encode("latin-1"))
    (texts / "deeper" / "empty.txt").touch()
    (texts / "picture.png").write_bytes(b"the\x00the")
    # When
    process = start(temporary, "wordcount/run.py", texts)
    out, err = finish(process)
    # Then
    assert process.returncode == 0, err
    assert re.search(r"\bthe +│ +1,641\b", out)
    assert re.search(r"\bbeginning +│ +820\b", out)
    assert "42 files" in out
    assert re.search(r"42 tasks in [\d.]+ s: [\d,]+ tasks/s", out)
    assert "same total as a count in one process; all nodes stopped cleanly" in out
    assert err == ""
    assert_nothing_is_left(temporary)


def test_wordcount_of_nothing_is_one_line(temporary: Path, tmp_path: Path) -> None:
    process = start(temporary, "wordcount/run.py", tmp_path / "nowhere")
    out, err = finish(process)
    assert process.returncode == 1
    assert out == ""
    assert err == f"there are no text files under {tmp_path / 'nowhere'}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_wordcount_leaves_nothing(temporary: Path, number: signal.Signals) -> None:
    process = start(temporary, "wordcount/run.py")
    while process.poll() is None and not list(temporary.glob("zt-*/store.log")):
        time.sleep(0.01)
    process.send_signal(number)
    _, err = finish(process)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert_nothing_is_left(temporary)


def test_crawler_finds_all_pages_while_workers_are_killed(temporary: Path) -> None:
    process = start(temporary, "crawler/run.py", "--pages", "100", "--kill-every", "0.5")
    out, err = finish(process)
    assert process.returncode == 0, err
    assert "104 pages found, all there are" in out
    # Every page takes its time, so this cannot be over before the first kill.
    killed = re.search(r"(\d+) workers were killed", out)
    assert killed is not None
    assert int(killed[1]) >= 1
    assert "all nodes stopped cleanly" in out
    assert_nothing_is_left(temporary)


def test_async_crawl_has_all_pages_open_at_once(temporary: Path) -> None:
    process = start(temporary, "async_crawl/run.py", "--pages", "200", "--seconds", "2")
    out, err = finish(process)
    assert process.returncode == 0, err
    assert "200 pages of 2 s each" in out
    assert "up to 200 were open at the same time" in out
    assert_nothing_is_left(temporary)
