"""Group commit, isolation of failures, error translation and the file itself, all on real databases."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from penstock.adapters.sqlite.database import Database
from penstock.errors import Closed, Corrupt, OutOfSpace, Unavailable, Unsupported

#: Long enough for a slow machine; reached only when something hangs.
PATIENCE_S = 30.0
TABLE = ("CREATE TABLE items (name TEXT PRIMARY KEY, size INTEGER)",)


@contextlib.asynccontextmanager
async def opened(path: Path, migrations: tuple[str, ...] = TABLE) -> AsyncIterator[Database]:
    database = await Database.open(path, synchronous="FULL", migrations=migrations)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(tmp_path / "test.db") as made:
        yield made


def insert(db: sqlite3.Connection, name: str, size: int = 1) -> None:
    db.execute("INSERT INTO items VALUES (?, ?)", (name, size))


def names(db: sqlite3.Connection) -> list[str]:
    return [name for (name,) in db.execute("SELECT name FROM items ORDER BY name").fetchall()]


class Held:
    """Keeps the writer busy from `begin` to `release`, so that what is submitted meanwhile becomes one group."""

    def __init__(self, database: Database) -> None:
        self._begun = threading.Event()
        self._gate = threading.Event()
        self._done = database.submit(self._wait)

    @classmethod
    async def begin(cls, database: Database) -> Held:
        held = cls(database)
        assert await asyncio.to_thread(held._begun.wait, PATIENCE_S)
        return held

    def _wait(self, _db: sqlite3.Connection) -> None:
        self._begun.set()
        self._gate.wait(PATIENCE_S)

    async def release(self) -> None:
        self._gate.set()
        await self._done


# Groups


async def test_what_waits_shares_a_transaction_and_one_wake_up_of_the_loop(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    wake_ups: list[object] = []
    real = loop.call_soon_threadsafe
    held = await Held.begin(database)

    def counted(callback: Callable[[], None]) -> object:
        wake_ups.append(callback)
        return real(callback)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    statements: list[str] = []
    futures = [database.submit(lambda db: db.set_trace_callback(statements.append))]
    futures += [database.submit(lambda db, n=n: insert(db, f"n{n:03}")) for n in range(100)]  # type: ignore[misc]
    await held.release()
    await asyncio.gather(*futures)
    assert len(wake_ups) <= 2  # one for the held job, one for the group
    assert statements.count("COMMIT") == 1
    assert len(await database.read(names)) == 100


async def test_a_failure_is_undone_alone_and_its_caller_told(database: Database) -> None:
    def half(db: sqlite3.Connection) -> None:
        insert(db, "half")
        raise LookupError("second thoughts")

    held = await Held.begin(database)
    futures = [
        database.submit(lambda db: insert(db, "a")),
        database.submit(half),
        database.submit(lambda db: insert(db, "a")),
        database.submit(lambda db: insert(db, "b")),
    ]
    await held.release()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), LookupError, sqlite3.IntegrityError, type(None)]
    assert await database.read(names) == ["a", "b"]


async def test_a_failure_alone_in_its_group_leaves_nothing(database: Database) -> None:
    def half(db: sqlite3.Connection) -> None:
        insert(db, "half")
        raise LookupError("second thoughts")

    with pytest.raises(LookupError, match="second thoughts"):
        await database.write(half)
    assert await database.read(names) == []
    await database.write(lambda db: insert(db, "next"))
    assert await database.read(names) == ["next"]


async def test_a_caller_that_left_before_its_turn_writes_nothing(database: Database) -> None:
    held = await Held.begin(database)
    leaving = database.submit(lambda db: insert(db, "left"))
    staying = database.submit(lambda db: insert(db, "stays"))
    leaving.cancel()
    await held.release()
    await staying
    assert await database.read(names) == ["stays"]


async def test_a_transaction_lost_in_the_middle_fails_everyone_in_it(database: Database) -> None:
    """SQLite may roll back on its own; who seemed to have succeeded before must not be told so."""

    def lose(db: sqlite3.Connection) -> None:
        db.execute("ROLLBACK")
        raise sqlite3.OperationalError("given up")

    held = await Held.begin(database)
    futures = [
        database.submit(lambda db: insert(db, "a")), database.submit(lose), database.submit(lambda db: insert(db, "b"))
    ]  # fmt: skip
    await held.release()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(outcome, sqlite3.OperationalError) for outcome in outcomes)
    assert await database.read(names) == []


async def test_a_read_sees_every_acknowledged_write_and_goes_on_beside_a_writer(database: Database) -> None:
    await database.write(lambda db: insert(db, "before"))
    held = await Held.begin(database)
    waiting = database.submit(lambda db: insert(db, "after"))
    assert await asyncio.gather(*(database.read(names) for _ in range(10))) == [["before"]] * 10
    await held.release()
    await waiting
    assert await database.read(names) == ["after", "before"]


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(Unavailable, match="cannot be opened for writing"):
        await database.read(lambda db: insert(db, "x"))


# Errors


async def test_a_full_database_is_out_of_space_and_recovers(database: Database, tmp_path: Path) -> None:
    pages = await database.read(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await database.write(lambda db: db.execute(f"PRAGMA max_page_count={pages + 4}"))
    with pytest.raises(OutOfSpace, match=f"no space left to write {tmp_path}/test.db") as raised:
        await database.write(lambda db: insert(db, "large" * 100_000))
    assert isinstance(raised.value.__cause__, sqlite3.Error)
    await database.write(lambda db: insert(db, "small"))
    await database.write(lambda db: db.execute("PRAGMA max_page_count=100000"))
    await database.write(lambda db: insert(db, "large" * 100_000))
    assert len(await database.read(names)) == 2


async def test_a_database_locked_by_another_is_unavailable(database: Database, tmp_path: Path) -> None:
    await database.write(lambda db: db.execute("PRAGMA busy_timeout=1"))
    with contextlib.closing(sqlite3.connect(tmp_path / "test.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked by another process"):
            await database.write(lambda db: insert(db, "x"))
        other.execute("ROLLBACK")
    await database.write(lambda db: insert(db, "x"))
    assert await database.read(names) == ["x"]


async def test_a_file_that_is_no_database_is_corrupt_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    path.write_bytes(b"no database at all\n" * 100)
    with pytest.raises(Corrupt, match=rf"{path} is damaged or no database .* move it aside"):
        await Database.open(path, synchronous="FULL", migrations=TABLE)
    assert path.read_bytes() == b"no database at all\n" * 100


async def test_damage_found_while_in_use_is_corrupt_and_leaves_a_mark(tmp_path: Path) -> None:
    path, mark = tmp_path / "test.db", tmp_path / "mark"
    async with opened(path) as database:
        for n in range(200):
            await database.write(lambda db, n=n: insert(db, f"{n}" * 100))  # type: ignore[misc]
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)
    database = await Database.open(path, synchronous="FULL", migrations=TABLE, damage_mark=mark)
    assert not mark.exists()
    with pytest.raises(Corrupt, match="is damaged"):
        await database.read(names)
    assert mark.exists()
    await database.close()


async def test_after_close_everything_is_refused_and_closing_again_is_fine(tmp_path: Path) -> None:
    async with opened(tmp_path / "test.db") as database:
        last = database.submit(lambda db: insert(db, "last"))
        await asyncio.gather(database.close(), database.close())
        assert last.done()
        await last
        for call in (database.write, database.read):
            with pytest.raises(Closed, match=r"test\.db was closed"):
                await call(names)
    async with opened(tmp_path / "test.db") as database:
        assert await database.read(names) == ["last"]


async def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be opened"):
        await Database.open(tmp_path / "no" / "test.db", synchronous="FULL")


# The file


async def test_only_the_owner_can_read_the_files(database: Database, tmp_path: Path) -> None:
    await database.write(lambda db: insert(db, "x"))
    files = sorted(tmp_path.iterdir())  # noqa: ASYNC240 - a test's own small folder
    assert [path.name for path in files] == ["test.db", "test.db-shm", "test.db-wal"]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600] * 3


async def test_an_older_file_is_migrated_and_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    async with opened(path) as database:
        await database.write(lambda db: insert(db, "old"))
    async with opened(path, (*TABLE, "ALTER TABLE items ADD COLUMN color TEXT; UPDATE items SET size = 5")) as database:
        await database.write(lambda db: db.execute("INSERT INTO items VALUES ('new', 1, 'red')"))
        assert await database.read(lambda db: db.execute("SELECT * FROM items ORDER BY name").fetchall()) == [
            ("new", 1, "red"),
            ("old", 5, None),
        ]


async def test_a_newer_file_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    async with opened(path, (*TABLE, "CREATE TABLE later (x)")):
        pass
    content = path.read_bytes()
    with pytest.raises(Unsupported, match="schema version 2, this Penstock knows versions up to 1"):
        await Database.open(path, synchronous="FULL", migrations=TABLE)
    assert path.read_bytes() == content


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    async with opened(path) as database:
        await database.write(lambda db: insert(db, "old"))
    with pytest.raises(sqlite3.OperationalError):
        await Database.open(path, synchronous="FULL", migrations=(*TABLE, "DELETE FROM items; DELETE FROM nowhere"))
    async with opened(path) as database:
        assert await database.read(names) == ["old"]
