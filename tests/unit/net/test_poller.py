"""Waiting for file descriptors (sockets: see test_transport)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from zmqtasks.net.poller import Poller


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            continue


def test_readable_and_writable_are_told_apart(pipe: tuple[int, int]) -> None:
    read, write = pipe
    poller = Poller()
    poller.register(read)
    poller.register(write, read=False, write=True)
    assert poller.poll(0) == [(write, False, True)]
    os.write(write, b"x")
    assert poller.poll(-1) == [(read, True, False), (write, False, True)]


def test_what_is_not_drained_is_reported_again(pipe: tuple[int, int]) -> None:
    poller = Poller()
    poller.register(pipe[0])
    os.write(pipe[1], b"x")
    assert poller.poll(0) == poller.poll(0) == [(pipe[0], True, False)]


def test_an_ended_pipe_is_readable(pipe: tuple[int, int]) -> None:
    poller = Poller()
    poller.register(pipe[0])
    os.close(pipe[1])
    assert [(obj, readable) for obj, readable, _ in poller.poll(-1)] == [(pipe[0], True)]


def test_watching_for_nothing_and_leaving_twice_are_no_harm(pipe: tuple[int, int]) -> None:
    poller = Poller()
    poller.register(pipe[1], read=False, write=True)
    poller.modify(pipe[1], read=False, write=False)
    assert poller.poll(0) == []
    poller.unregister(pipe[1])
    poller.unregister(pipe[1])
