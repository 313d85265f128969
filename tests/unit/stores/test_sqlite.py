"""What only the SQLite store does: its file, other processes, errors, room on the disk."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from zmqtasks.errors import ConfigError, StoreError
from zmqtasks.limits import STORE_EXPIRE_ROWS_MAX
from zmqtasks.stores.registry import make_store
from zmqtasks.stores.sqlite import SqliteStore, sqlite_url
from zmqtasks.stores.sqlite_schema import SCHEMA_VERSION
from zmqtasks.testing.store_rows import NOW_MS, outcome, task_id, verdict
from zmqtasks.wire.messages import Verdict

_T = TypeVar("_T")

#: Reads every result of tasks 0 to 9 in a process of its own, as a command would.
_READER = """
import asyncio, sys
from zmqtasks.stores.registry import make_store
from zmqtasks.testing.store_rows import task_id

async def main():
    store = make_store(sys.argv[1] + "?mode=ro")
    await store.open()
    found = await store.get_batch([task_id(number) for number in range(10)])
    print(len(found), sum(rows[0].verdict for rows in found.values()))
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


def play(store: SqliteStore, scenario: Callable[[SqliteStore], Awaitable[_T]]) -> _T:
    async def scene() -> _T:
        await store.open()
        try:
            return await scenario(store)
        finally:
            await store.close()

    return asyncio.run(scene())


async def do_nothing(_store: SqliteStore) -> None:
    pass


async def count(store: SqliteStore) -> int:
    return len(await store.get_batch([task_id(number) for number in range(2_000)]))


# --- the file ---------------------------------------------------------------------------


@pytest.mark.parametrize("is_replaced", [False, True], ids=["removed", "replaced"])
def test_a_file_that_vanished_fails_the_batch_and_the_next_one_is_in_its_successor(
    path: Path, is_replaced: bool
) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.put_batch([outcome(1)], [])
        for file in path.parent.glob("results.db*"):
            file.unlink()
        if is_replaced:
            other = SqliteStore(path)
            await other.open()
            await other.put_batch([outcome(2)], [])
        with pytest.raises(StoreError, match=r"results\.db was removed or replaced .*stop the"):
            await store.put_batch([outcome(3)], [])
        await store.put_batch([outcome(3)], [])
        assert await count(store) == 1 + is_replaced
        if is_replaced:
            # Its log was not taken for that of the old file.
            await other.put_batch([outcome(4)], [])
            assert await count(store) == 3
            await other.close()

    play(SqliteStore(path), scenario)
    found = subprocess.run(
        [sys.executable, "-c", _READER, sqlite_url(path)], capture_output=True, text=True,
        check=True, timeout=60,
    )  # fmt: skip
    assert found.stdout.split()[0] == str(3 if is_replaced else 1)


def test_what_is_asked_for_after_the_file_vanished_is_looked_for_in_its_successor(
    path: Path,
) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.put_batch([outcome(1)], [])
        os.unlink(path)  # noqa: PTH108 - nothing else runs
        with pytest.raises(StoreError):
            await store.put_batch([outcome(2)], [])
        assert await count(store) == 0
        assert await store.expire(NOW_MS) == 0

    play(SqliteStore(path), scenario)


def test_the_file_is_private_and_so_is_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "state" / "deep" / "results.db"

    async def scenario(store: SqliteStore) -> None:
        await store.put_batch([outcome(1)], [])
        files = sorted(entry.name for entry in path.parent.iterdir())
        assert files == ["results.db", "results.db-shm", "results.db-wal"]
        for entry in path.parent.iterdir():
            assert stat.S_IMODE(entry.stat().st_mode) == 0o600, entry

    play(SqliteStore(path), scenario)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_closing_folds_the_log_into_the_file_and_ends_the_threads(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.put_batch([outcome(1)], [])

    play(SqliteStore(path), scenario)
    assert [entry.name for entry in path.parent.iterdir()] == ["results.db"]
    for thread in threading.enumerate():
        if thread.name.startswith("zmqtasks-sqlite"):
            thread.join(20)
            assert not thread.is_alive()


def test_it_uses_the_write_ahead_log_and_can_shrink(path: Path) -> None:
    play(SqliteStore(path), do_nothing)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()


def test_a_relative_path_a_home_and_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    async def scenario() -> None:
        for url in ("sqlite:///here.db", "sqlite:///~/mine.db", f"sqlite:///{tmp_path}/there.db"):
            store = make_store(url)
            await store.open()
            await store.close()

    asyncio.run(scenario())
    names = {str(entry.relative_to(tmp_path)) for entry in tmp_path.rglob("*.db")}
    assert names == {"here.db", "home/mine.db", "there.db"}


# --- what is refused ----------------------------------------------------------------------


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    play(SqliteStore(path), do_nothing)
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(ConfigError) as caught:
            play(SqliteStore(path, read_only=read_only), do_nothing)
        message = str(caught.value)
        assert f"schema {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION}" in message
        assert str(path) in message
        assert "upgrade zmqtasks" in message
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE mine (x)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another program; name another file"):
        play(SqliteStore(path), do_nothing)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"hello, world\n" * 1000)
    with pytest.raises(ConfigError, match="no SQLite file: move it away"):
        play(SqliteStore(path), do_nothing)
    assert path.read_bytes() == b"hello, world\n" * 1000


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for bad in (tmp_path, tmp_path / "file" / "results.db", Path("/proc/results.db")):
        with pytest.raises(ConfigError, match=r"cannot be opened: .*--store sqlite:///") as caught:
            play(SqliteStore(bad), do_nothing)
        assert str(bad) in str(caught.value)


def test_reading_a_file_that_is_not_there_makes_none(path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; no store node has written it yet"):
        play(SqliteStore(path, read_only=True), do_nothing)
    assert not path.exists()


def test_a_store_that_only_reads_refuses_to_write(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        for call in (
            store.put_batch([outcome(1)], []),
            store.delete([task_id(1)]),
            store.expire(1),
        ):
            with pytest.raises(StoreError, match="mode=ro"):
                await call

    play(SqliteStore(path), do_nothing)
    play(SqliteStore(path, read_only=True), scenario)


def test_a_store_that_is_not_open_says_so(path: Path) -> None:
    with pytest.raises(StoreError, match=r"await open\(\) first"):
        asyncio.run(SqliteStore(path).put_batch([outcome(1)], []))


def test_opening_may_be_tried_again_after_it_failed(path: Path) -> None:
    path.mkdir()
    store = SqliteStore(path)

    async def scenario() -> None:
        with pytest.raises(ConfigError):
            await store.open()
        os.rmdir(path)  # noqa: PTH106 - pathlib's is refused in coroutines
        await store.open()
        await store.put_batch([outcome(1)], [])
        assert await count(store) == 1
        await store.close()

    asyncio.run(scenario())


# --- others at the same file --------------------------------------------------------------


def test_another_process_reads_while_the_store_writes(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.put_batch([outcome(number) for number in range(10)], [])
        await store.put_batch([], [verdict(number) for number in range(7)])
        reader = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", _READER, sqlite_url(path)),
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        # The store goes on writing while the other process starts and reads.
        number = 10
        while reader.returncode is None:
            await store.put_batch([outcome(number)], [verdict(number)])
            number += 1
            await asyncio.sleep(0)
        answer, _ = await reader.communicate()
        assert answer.split() == [b"10", b"7"]

    play(SqliteStore(path), scenario)


def test_a_long_reader_does_not_stop_the_writer(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.put_batch([outcome(0)], [])
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM outcomes").fetchone() == (1,)
        for number in range(1, 50):
            await store.put_batch([outcome(number)], [])
        assert await count(store) == 50
        # The reader has its view, whatever is written meanwhile.
        assert db.execute("SELECT count(*) FROM outcomes").fetchone() == (1,)
        db.close()

    play(SqliteStore(path), scenario)


def test_a_write_lock_held_elsewhere_is_an_error_that_passes(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.put_batch([outcome(0)], [])
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"locked .*write lock; it is tried again") as caught:
            await store.put_batch([outcome(1)], [])
        assert str(path) in str(caught.value)
        assert await count(store) == 1
        db.execute("COMMIT")
        db.close()
        await store.put_batch([outcome(1)], [])
        assert await count(store) == 2

    play(SqliteStore(path, busy_ms=1), scenario)


def test_many_stores_may_make_the_file_at_the_same_time(path: Path) -> None:
    async def scenario() -> None:
        stores = [SqliteStore(path) for _ in range(6)]
        await asyncio.gather(*(store.open() for store in stores))
        for number, store in enumerate(stores):
            await store.put_batch([outcome(number)], [])
        assert await count(stores[0]) == len(stores)
        await asyncio.gather(*(store.close() for store in stores))

    asyncio.run(scenario())


# --- trouble ------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_that_passes(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.put_batch([outcome(1)], [])
        lane = store._writer
        assert lane is not None
        await lane.do(lambda db: db.execute("PRAGMA max_page_count = 20").fetchall())
        with pytest.raises(StoreError, match=r"full .*free space"):
            await store.put_batch([outcome(2), outcome(3, body=b"x" * 1_000_000)], [verdict(1)])
        # Nothing of it was stored, and the store still works.
        assert await count(store) == 1
        assert (await store.get_batch([task_id(1)]))[task_id(1)][0].verdict == Verdict.NONE
        await lane.do(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchall())
        await store.put_batch([outcome(2), outcome(3, body=b"x" * 1_000_000)], [verdict(1)])
        assert await count(store) == 3

    play(SqliteStore(path), scenario)


def test_numbers_beyond_its_integers_do_not_stop_a_batch(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.put_batch([outcome(1), outcome(2, position=(1 << 64) - 1)], [])
        found = await store.get_batch([task_id(1), task_id(2)])
        assert found[task_id(1)] == [outcome(1)]
        assert found[task_id(2)][0].position == (1 << 63) - 1

    play(SqliteStore(path), scenario)


def test_what_is_under_way_when_it_closes_is_stored(path: Path) -> None:
    async def scenario() -> None:
        store = SqliteStore(path)
        await store.open()
        puts = [asyncio.create_task(store.put_batch([outcome(n)], [])) for n in range(20)]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*puts)

    asyncio.run(scenario())
    assert play(SqliteStore(path, read_only=True), count) == 20


# --- room on the disk ---------------------------------------------------------------------


def test_expiry_works_in_pieces_bounded_in_rows_and_bytes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zmqtasks.stores.sqlite.STORE_EXPIRE_ROWS_MAX", 4)
    monkeypatch.setattr("zmqtasks.stores.sqlite.STORE_EXPIRE_BYTES_MAX", 2_500)
    pieces: list[int] = []
    from zmqtasks.stores import sqlite

    drop = sqlite._expire_piece

    def noted(db: sqlite3.Connection, before_ms: int) -> int:
        pieces.append(drop(db, before_ms))
        return pieces[-1]

    monkeypatch.setattr(sqlite, "_expire_piece", noted)

    async def scenario(store: SqliteStore) -> None:
        rows = [outcome(n, stored_ms=NOW_MS + n, body=b"") for n in range(6)]
        rows += [outcome(n, stored_ms=NOW_MS + n, body=b"x" * 1_000) for n in range(6, 10)]
        rows += [outcome(10, stored_ms=NOW_MS + 10, body=b"x" * 9_000)]
        await store.put_batch(rows, [])
        assert await store.expire(NOW_MS + 100) == 11

    play(SqliteStore(path), scenario)
    # Four rows; two small and two of 1,000 bytes; two more; a large one is never stuck.
    assert pieces == [4, 4, 2, 1, 0]


def test_expiry_gives_room_back_to_the_disk(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        rows = [outcome(number, body=b"x" * 4_000) for number in range(1_000)]
        await store.put_batch(rows, [])
        assert await store.expire(NOW_MS + 1) == 1_000

    play(SqliteStore(path), scenario)
    assert path.stat().st_size < 200_000


def test_a_settled_row_is_changed_in_place(path: Path) -> None:
    """Verdicts come to every row, so they must not rewrite large bodies."""

    async def scenario(store: SqliteStore) -> None:
        await store.put_batch([outcome(1, body=b"x" * 1_000_000)], [])
        lane = store._writer
        assert lane is not None
        await lane.do(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        await store.put_batch([], [verdict(1)])
        log = path.with_name("results.db-wal")
        assert log.stat().st_size < 50_000

    play(SqliteStore(path), scenario)


def test_a_piece_of_shrinking_frees_many_pages_at_once(path: Path) -> None:
    from zmqtasks.stores import sqlite

    play(SqliteStore(path), do_nothing)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE filling (data BLOB)")
        db.executemany("INSERT INTO filling VALUES (?)", [(bytes(3_000),)] * 1_000)
        db.execute("DELETE FROM filling")
        (before,) = db.execute("PRAGMA freelist_count").fetchone()
        assert sqlite._shrink_piece(db)
        (after,) = db.execute("PRAGMA freelist_count").fetchone()
    assert before - after >= min(before, STORE_EXPIRE_ROWS_MAX) // 2
