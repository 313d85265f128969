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
#: The first calls of ``python -c``, which children are, ``python -m``, and a thread.
_FIRST_CALL: Final = re.compile(
    r' File ("<string>", .* in <module>|.* in _run_module_as_main|.*threading\.py.* in _bootstrap)'
)


class StackLines:
    """Lines that a process writes, with each stack of ``faulthandler`` among them as one text."""

    __slots__ = ("_frames", "_head", "_is_after")

    def __init__(self) -> None:
        #: Which thread it is, None outside of a stack; and its frames, the most recent one first.
        self._head: re.Match[str] | None = None
        self._frames: list[tuple[str, str]] = []
        #: A stack was the last that was told: an empty line behind it is part of it.
        self._is_after = False

    def feed(self, lines: Iterable[str]) -> Iterator[str]:
        """The same lines; those of a stack once it is complete."""
        for line in lines:
            frame = _FRAME.fullmatch(line) if self._head is not None else None
            if frame is not None:
                self._frames.append((frame[1], frame[2]))
                if _FIRST_CALL.fullmatch(line, 1):
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
        is_main = bool(frames) and frames[-1][1] in ("<module>", "_run_module_as_main")
        name = head[2] or ("MainThread" if is_main else head[1])
        shown = [f"  File {where}, in {function}" for where, function in reversed(frames)]
        yield "\n".join(
            [f"thread {name}, most recent call last:", *([_MORE] if is_cut else []), *shown]
        )
