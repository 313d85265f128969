"""Stacks of children, as people read them."""

from __future__ import annotations

import faulthandler
import threading
from pathlib import Path

from zmqtasks.pools.stacks import StackLines

CHILD = """\
before
Current thread 0x00007f2c8b28ab80 (most recent call first):
  File "/shop/tasks.py", line 9 in nap
  File "/zmqtasks/pools/forkserver.py", line 64 in main
  File "<string>", line 1 in <module>
after
"""


def test_a_stack_is_one_text_with_the_most_recent_call_last() -> None:
    before, stack, after = StackLines().feed(CHILD.splitlines())
    assert (before, after) == ("before", "after")
    assert stack.splitlines() == [
        "thread MainThread, most recent call last:",
        '  File "<string>", line 1, in <module>',
        '  File "/zmqtasks/pools/forkserver.py", line 64, in main',
        '  File "/shop/tasks.py", line 9, in nap',
    ]


def test_a_stack_that_comes_in_pieces_is_not_torn() -> None:
    whole = list(StackLines().feed(CHILD.splitlines()))
    lines = StackLines()
    assert [text for line in CHILD.splitlines() for text in lines.feed([line])] == whole


def test_a_stack_without_its_end_is_told_when_something_else_comes() -> None:
    lines = StackLines()
    head, frame = CHILD.splitlines()[1:3]
    assert list(lines.feed([head, frame])) == []
    (stack,) = lines.rest()
    assert stack.endswith("line 9, in nap")
    assert next(lines.feed([head, frame, "  ..."])).splitlines()[1] == "  ..."


def test_every_thread_of_a_real_dump_is_told(tmp_path: Path) -> None:
    go, there = threading.Event(), threading.Event()

    def wait_here() -> None:
        there.set()
        go.wait()

    thread = threading.Thread(target=wait_here)
    thread.start()
    there.wait()
    path = tmp_path / "dump"
    with path.open("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
    go.set()
    thread.join()
    lines = StackLines()
    told = [*lines.feed(path.read_text().splitlines()), *lines.rest()]
    assert any("in wait_here" in text for text in told)
    assert any("in test_every_thread" in text for text in told)
    assert [text for text in told if not text.startswith("thread ")] == []
