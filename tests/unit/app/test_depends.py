"""``Depends``: what tasks are given beside their arguments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest

from tests.support.inline_gateway import InlineGateway
from tests.unit.app.worker import Worker
from zmqtasks.app.app import App
from zmqtasks.app.depends import Depends
from zmqtasks.errors import AppLoadError, ConfigError
from zmqtasks.wire.messages import Status

LOG: list[str] = []


@pytest.fixture(autouse=True)
def _log() -> None:
    LOG.clear()


def get_number() -> int:
    LOG.append("number")
    return 40


def get_session(number: Annotated[int, Depends(get_number)]) -> Iterator[list[int]]:
    LOG.append("opened")
    try:
        yield [number]
    finally:
        LOG.append("closed")


async def get_async() -> AsyncIterator[str]:
    LOG.append("async opened")
    try:
        yield "async"
    finally:
        LOG.append("async closed")


async def get_awaited(first: str = Depends(get_async)) -> str:
    await asyncio.sleep(0)
    return first.upper()


Session = Annotated[list[int], Depends(get_session)]


def test_callers_give_the_rest_only(app: App, gateway: InlineGateway) -> None:
    @app.task(name="add", bind=True)
    def add(
        self: Any, session: Session, x: int, number: int = Depends(get_number), y: int = 0
    ) -> list[int]:
        return [session[0], x, number, y]

    assert add.signature_text == "(x: 'int', y: 'int' = 0) -> 'list[int]'"
    with pytest.raises(TypeError):
        add.delay(1, 2, 3)  # type: ignore[arg-type]
    with Worker(app) as worker:
        assert worker.value("add", 1, 2) == [40, 1, 40, 2]
        assert worker.value("add", x=1) == [40, 1, 40, 0]


def test_each_is_made_once_for_an_attempt_and_ended_after_it(app: App) -> None:
    @app.task(name="use")
    def use(session: Session, number: int = Depends(get_number)) -> int:
        LOG.append("runs")
        return number

    with Worker(app) as worker:
        for _ in range(2):
            LOG.clear()
            assert worker.value("use") == 40
            assert LOG == ["number", "opened", "runs", "closed"]


def test_what_the_task_raises_is_raised_where_the_generator_waits(app: App) -> None:
    def transaction() -> Iterator[None]:
        try:
            yield
        except ValueError:
            LOG.append("rolled back")
            raise

    @app.task(name="fail")
    def fail(_: None = Depends(transaction)) -> None:
        raise ValueError("no")

    with Worker(app) as worker:
        outcome = worker.run("fail")
    assert (outcome.status, outcome.error) == (Status.FAILURE, "ValueError: no")
    assert LOG == ["rolled back"]


def test_async_tasks_may_depend_on_async_and_plain_ones(app: App) -> None:
    @app.task(name="use")
    async def use(
        x: int, session: Session, text: Annotated[str, Depends(get_awaited)]
    ) -> list[Any]:
        LOG.append("runs")
        return [x, session[0], text]

    with Worker(app) as worker:
        assert worker.value("use", 1) == [1, 40, "ASYNC"]
    assert LOG == ["number", "opened", "async opened", "runs", "async closed", "closed"]


def test_generator_tasks_have_theirs_until_the_last_item(app: App) -> None:
    @app.task(name="plain")
    def plain(session: Session) -> Iterator[int]:
        yield session[0]
        LOG.append("runs")

    @app.task(name="later")
    async def later(text: Annotated[str, Depends(get_awaited)]) -> AsyncIterator[str]:
        yield text
        LOG.append("runs")

    with Worker(app) as worker:
        assert worker.value("plain") is None
        assert LOG == ["number", "opened", "runs", "closed"]
        LOG.clear()
        assert worker.value("later") is None
        assert LOG == ["async opened", "runs", "async closed"]
        assert [item for _, _, item in worker.updates] == [40, "ASYNC"]


def test_process_scope_is_made_once_and_ended_with_the_process(app: App) -> None:
    def engine() -> Iterator[str]:
        LOG.append("engine")
        yield "engine"
        LOG.append("disposed")

    async def pool() -> AsyncIterator[str]:
        LOG.append("pool")
        yield "pool"
        LOG.append("drained")

    @app.task(name="plain")
    def plain(found: str = Depends(engine, scope="process")) -> str:
        return found

    @app.task(name="later")
    async def later(
        found: str = Depends(pool, scope="process"), engine: str = Depends(engine, scope="process")
    ) -> str:
        return f"{found} {engine}"

    with Worker(app) as worker:
        assert [worker.value("plain"), worker.value("plain")] == ["engine"] * 2
        assert [worker.value("later"), worker.value("later")] == ["pool engine"] * 2
        assert LOG == ["engine", "pool"]
        worker.program.end_process()
        assert LOG == ["engine", "pool", "drained", "disposed"]


def test_async_ones_for_the_process_are_made_once_by_tasks_side_by_side(app: App) -> None:
    async def slow() -> str:
        LOG.append("made")
        await asyncio.sleep(0)
        return "slow"

    @app.task(name="later")
    async def later(found: str = Depends(slow, scope="process")) -> str:
        return found

    async def both() -> list[str]:
        return list(await asyncio.gather(later(), later()))

    assert asyncio.run(both()) == ["slow", "slow"]
    assert LOG == ["made"]


def test_one_that_fails_is_made_again_the_next_time(app: App) -> None:
    async def shaky() -> str:
        LOG.append("tried")
        if len(LOG) < 2:
            raise ConnectionError("down")
        return "up"

    @app.task(name="later")
    async def later(found: str = Depends(shaky, scope="process")) -> str:
        return found

    with Worker(app) as worker:
        assert worker.run("later").error == "ConnectionError: down"
        assert worker.value("later") == "up"


def test_plain_call_is_given_them_too_unless_it_names_its_own(app: App) -> None:
    @app.task(name="use")
    def use(x: int, session: Session, y: int = 0) -> list[int]:
        return [x, *session, y]

    assert use(1, 2) == [1, 40, 2]  # type: ignore[arg-type]
    LOG.clear()
    assert use(1, session=[7], y=2) == [1, 7, 2]
    assert use(1, 2, session=[7]) == [1, 7, 2]  # type: ignore[misc, arg-type]
    assert not LOG


def _plain_on_async(x: str = Depends(get_awaited)) -> None: ...


def _asks(x: int, y: int) -> int:
    return x + y


def _unmade(x: int = Depends(_asks)) -> None: ...


def _kept(number: Annotated[int, Depends(get_number)]) -> int:
    return number


def _mixed(x: int = Depends(_kept, scope="process")) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_plain_on_async, r"get_a\w+\(\) is async, and a plain function cannot wait"),
        (_unmade, "has a parameter 'x' that nobody gives"),
        (_mixed, "is kept for the process, and needs get_number"),
    ],
)
def test_what_cannot_be_made_stops_the_worker(app: App, function: Any, message: str) -> None:
    app.task(name="it")(function)
    with pytest.raises(AppLoadError, match=message):
        Worker(app).__enter__()


def test_circles_are_found(app: App) -> None:
    def chicken(egg: int) -> int:
        return egg

    def egg(chicken: int = Depends(chicken)) -> int:
        return chicken

    chicken.__defaults__ = (Depends(egg),)
    app.task(name="it")(egg)
    with pytest.raises(AppLoadError, match="needs itself"):
        Worker(app).__enter__()


def test_bad_marks_are_refused(app: App) -> None:
    with pytest.raises(ConfigError, match="must be a function"):
        Depends("get_session")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="scope must be attempt or process"):
        Depends(get_number, scope="request")  # type: ignore[arg-type]

    @app.task(name="it")
    def it(number: int = Depends(get_number), /) -> None: ...

    with pytest.raises(ConfigError, match="cannot be positional-only"):
        it.delay()
