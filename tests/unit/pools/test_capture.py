from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zmqtasks.limits import LOG_LINE_CHARS_MAX
from zmqtasks.pools.capture import Capture, TaskStream
from zmqtasks.pools.protocol import LogRecord, RunTask
from zmqtasks.pools.running import running_task, set_running

TASK = RunTask(b"i" * 16, 1, "shop", "shop.add", "default", b"o" * 8, b"", None)


@pytest.fixture
def records() -> list[LogRecord]:
    return []


@pytest.fixture
def stream(records: list[LogRecord]) -> TaskStream:
    return TaskStream("stdout", 1, records.append)


@contextlib.contextmanager
def fresh_root() -> Iterator[logging.Logger]:
    """The root logger as in a fresh process; no fixture, since pytest adds its handlers
    after the set-up of a test."""
    root = logging.getLogger()
    saved, level = root.handlers[:], root.level
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    try:
        yield root
    finally:
        root.handlers[:] = saved
        root.setLevel(level)


def texts(records: list[LogRecord]) -> list[str]:
    return [record.text for record in records]


class TestStreams:
    def test_only_whole_lines_are_sent(self, stream: TaskStream, records: list[LogRecord]) -> None:
        stream.write("one\ntw")
        assert texts(records) == ["one"]
        stream.write("o\r\n\nthree")
        assert texts(records) == ["one", "two", ""]
        stream.end_line()
        assert texts(records) == ["one", "two", "", "three"]
        stream.end_line()
        assert len(records) == 4

    def test_line_carries_the_running_task(
        self, stream: TaskStream, records: list[LogRecord]
    ) -> None:
        set_running(TASK)
        try:
            stream.write("x\n")
            assert running_task() is TASK
        finally:
            set_running(None)
        stream.write("y\n")
        assert [(r.id, r.name) for r in records] == [(b"i" * 16, "shop.add"), (b"", "")]

    def test_long_lines_are_cut_and_lose_nothing(
        self, stream: TaskStream, records: list[LogRecord]
    ) -> None:
        text = "ab" * LOG_LINE_CHARS_MAX
        stream.write(text)
        stream.write(text + "\n")
        assert max(len(t) for t in texts(records)) == LOG_LINE_CHARS_MAX
        assert "".join(texts(records)) == text * 2

    def test_every_text_can_be_sent(self, stream: TaskStream, records: list[LogRecord]) -> None:
        stream.write("\udcff\n")
        assert texts(records) == ["\\udcff"]

    def test_bytes_are_text_too(self, stream: TaskStream, records: list[LogRecord]) -> None:
        snowman = "☃".encode()
        assert stream.buffer.write(snowman[:2]) == 2
        stream.buffer.write(snowman[2:] + b"\xff\n")
        assert texts(records) == ["☃\\xff"]

    def test_stream_answers_what_libraries_ask(self, stream: TaskStream) -> None:
        assert (stream.isatty(), stream.writable(), stream.fileno()) == (False, True, 1)
        assert (stream.encoding, stream.name) == ("utf-8", "<stdout>")
        with pytest.raises(TypeError):
            stream.write(b"bytes")  # type: ignore[arg-type]

    def test_forked_process_writes_to_the_descriptor(self, records: list[LogRecord]) -> None:
        read, write = os.pipe()
        stream = TaskStream("stdout", write, records.append)
        stream.write("parent")
        stream.detach_sink()
        stream.write("child\n")
        assert os.read(read, 100) == b"child\n"
        assert records == []
        os.close(read)
        os.close(write)


class TestLogging:
    def test_records_are_sent_with_traceback_and_logger(self, records: list[LogRecord]) -> None:
        with fresh_root() as root:
            capture = Capture(records.append)
            capture.start_logging("INFO")
            try:
                1 / 0  # noqa: B018
            except ZeroDivisionError:
                logging.getLogger("shop").exception("could not %s", "divide")
            logging.getLogger("shop").debug("not wanted")
            capture.restore()
            assert (root.handlers, root.level) == ([], logging.WARNING)
        (record,) = records
        assert (record.stream, record.level, record.logger) == ("logging", 40, "shop")
        assert record.text.startswith("could not divide\nTraceback")
        assert "ZeroDivisionError" in record.text

    def test_level_that_the_application_set_is_kept(self, records: list[LogRecord]) -> None:
        with fresh_root() as root:
            logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
            terminal = root.handlers[0]
            capture = Capture(records.append)
            capture.start_streams()
            capture.start_logging("INFO")
            assert terminal not in root.handlers
            logging.getLogger("shop").warning("not wanted")
            logging.getLogger("shop").error("wanted")
            capture.restore()
            assert root.handlers == [terminal]
        assert texts(records) == ["wanted"]

    def test_handlers_for_files_stay(self, records: list[LogRecord], tmp_path: Path) -> None:
        with fresh_root() as root:
            own = logging.FileHandler(tmp_path / "shop.log")
            root.addHandler(own)
            capture = Capture(records.append)
            capture.start_logging("INFO")
            assert own in root.handlers
            capture.restore()
            own.close()

    def test_bad_record_does_not_raise(
        self, records: list[LogRecord], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with fresh_root():
            capture = Capture(records.append)
            capture.start_logging("INFO")
            logging.getLogger("shop").warning("%d", "no number")
            capture.restore()
        assert records == []
        assert "Logging error" in capsys.readouterr().err

    def test_long_message_is_shortened(self, records: list[LogRecord]) -> None:
        with fresh_root() as root:
            capture = Capture(records.append)
            capture.start_logging("INFO")
            root.warning("x" * (LOG_LINE_CHARS_MAX + 1))
            capture.restore()
        assert records[0].text.endswith(f"({LOG_LINE_CHARS_MAX + 1} characters)")
