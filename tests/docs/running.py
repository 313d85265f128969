"""Runs the examples of a documentation page, block after block, as a reader would.

A fenced block is run when its info string says so:

* ```` ```python file=NAME ````: the reader saves it under this name.
* ```` ```console run ````: ``$ `` begins a command, what follows is its output (``...``
  stands for anything). A command that ends with ``&`` is a node: it runs until the end
  of the page, and must then stop with exit code 0.
* ```` ```pycon run ````: a Python session, checked as doctest does.

All blocks of a page share a directory, in which nothing else is.
"""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Nothing here takes long; a busy machine may.
DEADLINE_S = 60.0

_BLOCK = re.compile(r"^```(\S+)[ ]([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_SESSION = """
import doctest, sys
flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
failed, tried = doctest.testfile(sys.argv[1], module_relative=False, optionflags=flags)
sys.exit(failed > 0 or not tried)
"""


class Block(NamedTuple):
    """One example: what it is, and its text."""

    language: str
    info: str
    text: str
    line: int


class Command(NamedTuple):
    """One command of a console block and what it shall print."""

    text: str
    expected: str

    @property
    def is_node(self) -> bool:
        """Whether it goes on in the background."""
        return self.text.endswith("&")


def blocks_of(page: str) -> list[Block]:
    """The marked blocks of a page, in order."""
    return [
        Block(match[1], match[2].strip(), match[3], page.count("\n", 0, match.start()) + 1)
        for match in _BLOCK.finditer(page)
    ]


def commands_of(text: str) -> Iterator[Command]:
    """The commands of a console block."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, expected = part.partition("\n")
        while line.endswith("\\"):
            more, _, expected = expected.partition("\n")
            line = line[:-1] + more
        yield Command(line.strip(), expected)


class Reader:
    """Somebody who does what a page says.

    Args:
        folder: where the page is worked through; empty.
        root: the repository, whose package the commands run.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._nodes: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        programs = folder / ".programs"
        programs.mkdir()
        for name, arguments in (("zmqtasks", "-m zmqtasks"), ("python", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
            program.chmod(0o755)
        self._env = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(root),
            "COLUMNS": "200",
            # As the installed package has it, whatever is installed here.
            "PYTEST_PLUGINS": "zmqtasks.testing.pytest_plugin",
        }

    def follow(self, page: str) -> int:
        """Work through all blocks; returns how many there were."""
        blocks = blocks_of(page)
        for block in blocks:
            if block.info.startswith("file="):
                path = self._folder / block.info.removeprefix("file=")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            elif block.language == "console" and block.info == "run":
                for command in commands_of(block.text):
                    self._type(command)
            elif block.language == "pycon" and block.info == "run":
                self._python(block)
            else:
                raise AssertionError(f"line {block.line}: what is '{block.info}'?")
        return len(blocks)

    def _type(self, command: Command) -> None:
        if command.is_node:
            self._start(command.text.removesuffix("&").strip())
            return
        done = self._run(["bash", "-c", command.text])
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"$ {command.text}\n{output}"
        if command.expected.strip():
            same = doctest.OutputChecker().check_output(command.expected, output, _FLAGS)
            assert same, f"$ {command.text}\n{output}\ninstead of\n{command.expected}"

    def _python(self, block: Block) -> None:
        session = self._folder / ".session"
        session.write_text(textwrap.dedent(block.text))
        done = self._run([sys.executable, "-c", _SESSION, str(session)])
        assert done.returncode == 0, f"line {block.line}:\n{done.stdout}\n{done.stderr}"

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self._folder, env=self._env, capture_output=True, text=True,
            timeout=DEADLINE_S, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def _start(self, command: str) -> None:
        log = self._folder / f".node-{len(self._nodes)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self._folder, env=self._env,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        self._nodes.append((command, process, log))
        give_up = time.monotonic() + DEADLINE_S
        while b" is up: " not in log.read_bytes():
            assert process.poll() is None, f"$ {command}\n{log.read_text()}"
            assert time.monotonic() < give_up, f"$ {command}\n{log.read_text()}"
            time.sleep(0.02)

    def leave(self) -> None:
        """Stop the nodes as Ctrl-C does."""
        for _, process, _ in self._nodes:
            process.send_signal(signal.SIGINT)
        try:
            for command, process, log in self._nodes:
                code = process.wait(DEADLINE_S)
                assert code == 0, f"$ {command}: exit code {code}\n{log.read_text()}"
        finally:
            for _, process, _ in self._nodes:
                process.kill()
                process.wait()
