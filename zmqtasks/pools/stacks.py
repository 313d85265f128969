"""Stacks of threads, as people read them.

A child writes its stacks by ``faulthandler``: from C code, so also while it is stuck in an
extension; but the most recent call first, a write a piece, and nobody knows where the last
stack ends. Here its lines become one text a thread, in the order of Python's own tracebacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

_HEAD: Final = re.compile(
    r"(?:Current thread|Thread) (0x[0-9a-f]+)(?: \[(.+)\])? \(most recent call first\):"
)
_FRAME: Final = re.compile(r'  File (".*", line \S+) in (.*)')
#: What ends a stack of more frames than are written.
_MORE: Final = "  ..."
#: The first call of a thread, and what the first one of a child has called: that one itself is
#: "<module>", as in every module that a task imports.
_FIRST_CALL: Final = re.compile(r'".*threading\.py", line \S+ in _bootstrap')
_PROGRAM: Final = re.compile(r'".*forkserver\.py", line \S+ in main')


class StackLines:
    """Lines that a process writes, with each stack of ``faulthandler`` among them as one text."""

    __slots__ = ("_frames", "_head", "_is_after")

    def __init__(self) -> None:
        #: Which thread it is, None outside of a stack; and its frames, the most recent one first.
        self._head: re.Match[str] | None = None
        self._frames: list[str] = []
        #: A stack was the last that was told: an empty line behind it is part of it.
        self._is_after = False

    def feed(self, lines: Iterable[str]) -> Iterator[str]:
        """The same lines; those of a stack once it is complete."""
        for line in lines:
            frame = _FRAME.fullmatch(line) if self._head is not None else None
            if frame is not None:
                behind = self._frames[-1] if self._frames else ""
                self._frames.append(line.removeprefix("  File "))
                if _FIRST_CALL.fullmatch(self._frames[-1]) or _PROGRAM.fullmatch(behind):
                    yield from self.rest()
                continue
            is_more = line == _MORE and self._head is not None
            yield from self.rest(is_cut=is_more)
            is_end = is_more or (not line and self._is_after)
            self._is_after = is_more
            self._head = _HEAD.fullmatch(line)
            if self._head is None and not is_end:
                yield line

    def rest(self, *, is_cut: bool = False) -> Iterator[str]:
        """A stack whose end was not seen."""
        head, frames = self._head, self._frames
        self._head, self._frames = None, []
        if head is None:
            return
        self._is_after = True
        is_main = bool(frames) and not _FIRST_CALL.fullmatch(frames[-1])
        name = head[2] or ("MainThread" if is_main else head[1])
        shown = ["  File {}, in {}".format(*frame.rsplit(" in ", 1)) for frame in reversed(frames)]
        yield "\n".join(
            [f"thread {name}, most recent call last:", *([_MORE] if is_cut else []), *shown]
        )
