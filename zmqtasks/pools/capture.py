"""What tasks print and log, as log records with the task's name and id.

``sys.stdout`` and ``sys.stderr`` are replaced and the root logger gets a handler, so a
task that writes nothing costs nothing. Output below Python (C code, subprocesses) goes
to the file descriptors; the pool gives these a pipe and reads it at the node's end.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from zmqtasks.limits import LOG_LINE_CHARS_MAX
from zmqtasks.pools.protocol import LogRecord
from zmqtasks.pools.running import running_task

Sink = Callable[[LogRecord], None]

#: Levels under which lines of the two streams are logged.
STREAM_LEVELS: Final = {"stdout": logging.INFO, "stderr": logging.WARNING}


def line_record(stream: str, text: str) -> LogRecord:
    """A line of a stream, written by the attempt that runs here."""
    task = running_task()
    return LogRecord(
        id=task.id if task else b"",
        name=task.name if task else "",
        stream=stream,
        level=STREAM_LEVELS[stream],
        logger="",
        text=text,
    )


def _writer() -> tuple[bytes, int] | None:
    task = running_task()
    return (task.id, task.attempt) if task else None


class TaskStream(io.TextIOBase):
    """Stands for ``sys.stdout`` or ``sys.stderr``: whole lines go to the sink."""

    def __init__(self, name: str, fd: int, sink: Sink) -> None:
        super().__init__()
        self._name = name
        self._fd = fd
        self._sink: Sink | None = sink
        #: {attempt, or None: the beginning of its line that waits for its end}.
        self.partial: dict[tuple[bytes, int] | None, str] = {}
        # A signal handler may print while its own thread is printing.
        self._lock = threading.RLock()
        self.buffer = _BytesFace(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What ``print`` and libraries that ask may assume."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Nothing a task prints may raise for its characters."""
        return "backslashreplace"

    @property
    def name(self) -> str:
        """As the streams of an interpreter are named."""
        return f"<{self._name}>"

    def fileno(self) -> int:
        """For subprocesses that are given this stream."""
        return self._fd

    def isatty(self) -> bool:
        """Never: colours and progress bars do not belong into a log."""
        return False

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, text: str, /) -> int:
        """Take text; each line that is complete goes to the sink."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            if self._sink is None:
                os.write(self._fd, text.encode("utf-8", "backslashreplace"))
                return len(text)
            writer = _writer()
            *lines, rest = (self.partial.pop(writer, "") + text).split("\n")
            for line in lines:
                self._emit(line)
            while len(rest) > LOG_LINE_CHARS_MAX:
                self._emit(rest[:LOG_LINE_CHARS_MAX])
                rest = rest[LOG_LINE_CHARS_MAX:]
            if rest:
                self.partial[writer] = rest
        return len(text)

    def end_line(self) -> None:
        """Give out an unfinished line: its task ends."""
        with self._lock:
            rest = self.partial.pop(_writer(), "")
            if rest:
                self._emit(rest)

    def detach_sink(self) -> None:
        """Write to the descriptor from now on (in a process that a task forked)."""
        self._sink = None
        self.partial = {}
        self._lock = threading.RLock()

    def _emit(self, line: str) -> None:
        sink = self._sink
        if sink is None:
            return
        # Lone surrogates would not pass the encoder.
        line = line.rstrip("\r").encode("utf-8", "backslashreplace").decode("utf-8")
        for at in range(0, len(line), LOG_LINE_CHARS_MAX) or (0,):
            sink(line_record(self._name, line[at : at + LOG_LINE_CHARS_MAX]))


class _BytesFace(io.BufferedIOBase):
    """``sys.stdout.buffer`` for code that writes bytes."""

    def __init__(self, stream: TaskStream) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        self._stream.write(self._decoder.decode(bytes(view)))
        return view.nbytes


class TaskLogHandler(logging.Handler):
    """Sends the root logger's records to the sink."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink
        self.setFormatter(logging.Formatter("%(message)s"))

    def handle(self, record: logging.LogRecord) -> Any:
        """Filter and send, without a lock, which a task that is interrupted could leave locked."""
        found: Any = self.filter(record)  # since 3.12 it may give another record
        if found:
            self.emit(found if isinstance(found, logging.LogRecord) else record)
        return found

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; the formatter has appended its traceback."""
        try:
            text = self.format(record)
            if len(text) > LOG_LINE_CHARS_MAX:
                text = f"{text[:LOG_LINE_CHARS_MAX]}… ({len(text)} characters)"
            task = running_task()
            self._sink(
                LogRecord(
                    id=task.id if task else b"",
                    name=task.name if task else "",
                    stream="logging",
                    level=record.levelno,
                    logger=record.name,
                    text=text.encode("utf-8", "backslashreplace").decode("utf-8"),
                )
            )
        except Exception:  # noqa: BLE001 (logging's own rule: a bad record must not raise)
            self.handleError(record)


class Capture:
    """The replaced streams and the log handler of this process, until ``restore``."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.stdout = TaskStream("stdout", 1, sink)
        self.stderr = TaskStream("stderr", 2, sink)
        self._handler = TaskLogHandler(sink)
        self._saved: tuple[Any, Any] | None = None
        self._removed: list[logging.Handler] = []
        self._level_saved: int | None = None

    def start_streams(self) -> None:
        """Replace ``sys.stdout`` and ``sys.stderr``."""
        self._saved = (sys.stdout, sys.stderr)
        sys.stdout = self.stdout
        sys.stderr = self.stderr

    def start_logging(self, level: str) -> None:
        """Add the handler to the root logger.

        Called after the application is loaded: handlers that it put there for the
        terminal are taken away (each line would come twice), its others stay, and so
        does its level when it configured logging at all.
        """
        root = logging.getLogger()
        configured = bool(root.handlers)
        terminals = {id(s) for s in (self.stdout, self.stderr, sys.__stdout__, sys.__stderr__)}
        terminals |= {id(s) for s in self._saved or ()}
        for handler in list(root.handlers):
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in terminals:
                root.removeHandler(handler)
                self._removed.append(handler)
        root.addHandler(self._handler)
        if not configured:
            self._level_saved = root.level
            root.setLevel(level)

    def end_task(self) -> None:
        """Give out what the ending task left unfinished on a line."""
        self.stdout.end_line()
        self.stderr.end_line()

    def detach(self) -> None:
        """In a process that a task forked: nothing may reach the sink any more."""
        self.stdout.detach_sink()
        self.stderr.detach_sink()
        logging.getLogger().removeHandler(self._handler)

    def restore(self) -> None:
        """Put everything back."""
        if self._saved is not None:
            sys.stdout, sys.stderr = self._saved
            self._saved = None
        root = logging.getLogger()
        root.removeHandler(self._handler)
        for handler in self._removed:
            root.addHandler(handler)
        self._removed.clear()
        if self._level_saved is not None:
            root.setLevel(self._level_saved)
            self._level_saved = None
