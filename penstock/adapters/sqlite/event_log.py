"""The embedded event log: one table per topic in one SQLite file, synced to disk before an append is acknowledged.

A laptop has one disk and one process, so one partition per topic and group commit are enough: everything appended while
a sync is under way shares the next one. Rows carry `id` = offset + 1, given by AUTOINCREMENT, so an offset is never
used twice, whatever was trimmed. Deleting happens in slices between which appends get their turn.
"""

from __future__ import annotations

import asyncio
import sqlite3
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from penstock.adapters.sqlite.database import Database
from penstock.adapters.sqlite.statements import insert_rows, marks
from penstock.clock import now_ms
from penstock.errors import Closed, InvalidInput
from penstock.ports import LogEntry, Positions, StoredEntry

#: The only partition there is.
_PARTITION = 0
#: Far above any event or record; larger bodies are objects in the store.
MAX_VALUE_BYTES = 64 * 1024 * 1024
#: Rows deleted per transaction: some milliseconds of the writer's time, for which an append may have to wait.
_SLICE = 250
#: Superseded offsets found per pass over a topic: bounds the memory of a compaction (8 MB) whatever the topic's size.
_PASS = 1_000_000

_MIGRATIONS = (
    """
    CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE positions (
        "group" TEXT NOT NULL, topic TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY ("group", topic)
    ) WITHOUT ROWID
    """,
)

_Row = tuple[bytes, int, bytes]


class _Append:
    """One call of `append` that waits for its turn."""

    __slots__ = ("done", "rows", "table")

    def __init__(self, table: str, rows: list[_Row], done: asyncio.Future[int]) -> None:
        self.table = table
        self.rows = rows
        self.done = done  # the id of its last row


class _Flush:
    """Writes every append that waits when its turn comes. May run again, so what it took it keeps."""

    def __init__(self, waiting: deque[_Append], begun: Callable[[], None]) -> None:
        self._waiting = waiting
        self._begun = begun
        self.taken: list[_Append] = []

    def __call__(self, connection: sqlite3.Connection) -> list[int]:
        """Insert, one multi-row statement per topic; returns the last id of each append taken."""
        self._begun()  # an append from now on queues a flush of its own, so none is left behind
        while self._waiting:
            self.taken.append(self._waiting.popleft())
        by_table: dict[str, list[_Append]] = {}
        for append in self.taken:
            by_table.setdefault(append.table, []).append(append)
        lasts: dict[int, int] = {}
        for table, appends in by_table.items():
            rows = [row for append in appends for row in append.rows]
            # Ids of one transaction are consecutive: the writer is alone.
            last = insert_rows(connection, f"INSERT INTO {table} (key, time_ms, value)", 3, rows)
            for append in reversed(appends):
                lasts[id(append)] = last
                last -= len(append.rows)
        return [lasts[id(append)] for append in self.taken]


class SqliteEventLog:
    """Implements `EventLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tables: dict[str, str] = {}
        self._waiting: deque[_Append] = deque()
        self._flush_queued = False
        self._arrivals: dict[str, set[asyncio.Future[None]]] = {}

    @classmethod
    async def open(cls, path: str | Path) -> SqliteEventLog:
        """Open or create. Raises Corrupt, Unsupported (newer version), Unavailable, OutOfSpace."""
        database = await Database.open(path, synchronous="FULL", migrations=_MIGRATIONS)
        log = cls(database)
        log._tables.update(await database.read(_read_topics))
        return log

    async def append(self, topic: str, entries: Sequence[LogEntry]) -> list[tuple[int, int]]:
        rows = _rows_of(topic, entries)
        if not rows:
            return []
        table = self._tables.get(topic) or await self._create(topic)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Append(table, rows, done))
        if not self._flush_queued:
            self._queue_flush()
        last = await done
        self._announce(topic)
        first = last - len(rows)  # offset = id - 1
        return [(_PARTITION, offset) for offset in range(first, last)]

    async def read(
        self, topic: str, positions: Positions, *, limit: int = 1000, wait_s: float = 0.0
    ) -> list[StoredEntry]:
        position = positions.get(_PARTITION, 0)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            # Registered before reading, so that an append in between is not missed.
            arrival = loop.create_future()
            waiters = self._arrivals.setdefault(topic, set())
            waiters.add(arrival)
            try:
                entries = await self._read_once(topic, position, limit)
                if entries or loop.time() >= deadline:
                    return entries
                await asyncio.wait({arrival}, timeout=deadline - loop.time())
                if not arrival.done():
                    return []
            finally:
                waiters.discard(arrival)

    async def end(self, topic: str) -> dict[int, int]:
        table = self._tables.get(topic)
        return {_PARTITION: await self._database.read(lambda db: _last_id(db, table)) if table else 0}

    async def committed(self, group: str, topic: str) -> dict[int, int]:
        def select(db: sqlite3.Connection) -> dict[int, int]:
            row = db.execute(
                'SELECT position FROM positions WHERE "group" = ? AND topic = ?', (group, topic)
            ).fetchone()
            return {_PARTITION: row[0]} if row else {}

        return await self._database.read(select)

    async def commit(self, group: str, topic: str, positions: Positions, *, seek: bool = False) -> None:
        if _PARTITION not in positions:
            return
        keep = "excluded.position" if seek else "max(position, excluded.position)"
        values = (group, topic, positions[_PARTITION])
        await self._database.write(
            lambda db: db.execute(
                f"INSERT INTO positions VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET position = {keep}",  # noqa: S608 - one of two constants
                values,
            )
        )

    async def trim(self, topic: str, *, before_ms: int, below: Positions) -> int:
        """As the port says; stops at the first slice that holds nothing old enough, so after the clock was set back
        entries may stay until the ones before them are old.
        """
        table = self._tables.get(topic)
        if table is None:
            return 0
        deleted = 0
        cursor = 0
        while True:
            ids = await self._database.read(_slice_of(table, cursor, below.get(_PARTITION, 0)))
            old = [number for number, time_ms in ids if time_ms < before_ms]
            if not old:
                return deleted
            deleted += await self._delete(table, old)
            cursor = ids[-1][0]

    async def compact(self, topic: str) -> int:
        table = self._tables.get(topic)
        if table is None:
            return 0
        deleted = 0
        while True:
            superseded = await self._database.read(_superseded_in(table))
            for start in range(0, len(superseded), _SLICE):
                deleted += await self._delete(table, superseded[start : start + _SLICE])
            if len(superseded) < _PASS:
                return deleted

    async def close(self) -> None:
        await self._database.close()
        for waiters in self._arrivals.values():
            _wake(waiters)

    async def _create(self, topic: str) -> str:
        """Make the topic's table in a transaction of its own, so that the name is remembered only once it stands."""
        self._tables[topic] = await self._database.write(lambda db: _create_topic(db, topic))
        return self._tables[topic]

    def _queue_flush(self) -> None:
        flush = _Flush(self._waiting, self._flush_begun)
        # Before submitting: the writer's thread may begin, and clear it, before `submit` returns.
        self._flush_queued = True
        try:
            submitted = self._database.submit(flush)
        except Closed:
            self._flush_queued = False
            self._waiting.clear()
            raise
        submitted.add_done_callback(lambda done: self._flushed(flush, done))

    def _flush_begun(self) -> None:
        self._flush_queued = False

    def _flushed(self, flush: _Flush, done: asyncio.Future[list[int]]) -> None:
        error = done.exception()
        if error is not None and not flush.taken:
            self._flush_begun()  # the transaction could not even begin
            while self._waiting:
                flush.taken.append(self._waiting.popleft())
        for index, append in enumerate(flush.taken):
            if append.done.done():
                continue  # its caller was cancelled
            if error is None:
                append.done.set_result(done.result()[index])
            else:
                append.done.set_exception(error)

    def _announce(self, topic: str) -> None:
        if waiters := self._arrivals.get(topic):
            _wake(waiters)

    async def _read_once(self, topic: str, position: int, limit: int) -> list[StoredEntry]:
        self._database.check_open()
        table = self._tables.get(topic)
        if table is None:
            return []

        def select(db: sqlite3.Connection) -> list[StoredEntry]:
            rows = db.execute(
                f"SELECT id, key, time_ms, value FROM {table} WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608 - our own table name
                (position, limit),
            ).fetchall()
            return [
                StoredEntry(topic, _PARTITION, number - 1, key.decode("utf-8", "surrogatepass"), value, time_ms)
                for number, key, time_ms, value in rows
            ]

        return await self._database.read(select)

    async def _delete(self, table: str, ids: Sequence[int]) -> int:
        return await self._database.write(
            lambda db: db.execute(f"DELETE FROM {table} WHERE id IN ({marks(len(ids))})", ids).rowcount  # noqa: S608 - our own table name
        )


def _wake(waiters: set[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


def _rows_of(topic: str, entries: Sequence[LogEntry]) -> list[_Row]:
    """Check and encode. Keys are bytes in the table, because an object's key need not be valid text."""
    now = now_ms()
    rows: list[_Row] = []
    for entry in entries:
        if len(entry.value) > MAX_VALUE_BYTES:
            raise InvalidInput(
                f"an entry of {len(entry.value)} bytes is too large for the log: at most {MAX_VALUE_BYTES}", where=topic
            )
        rows.append((entry.key.encode("utf-8", "surrogatepass"), now, entry.value))
    return rows


def _read_topics(db: sqlite3.Connection) -> dict[str, str]:
    return {name: _table(number) for number, name in db.execute("SELECT id, name FROM topics").fetchall()}


def _table(number: int) -> str:
    return f"topic_{number}"


def _create_topic(db: sqlite3.Connection, topic: str) -> str:
    db.execute("INSERT OR IGNORE INTO topics (name) VALUES (?)", (topic,))
    table = _table(db.execute("SELECT id FROM topics WHERE name = ?", (topic,)).fetchone()[0])
    db.execute(
        f"CREATE TABLE IF NOT EXISTS {table} ("
        "id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL, time_ms INTEGER NOT NULL, value BLOB NOT NULL)"
    )
    return table


def _last_id(db: sqlite3.Connection, table: str) -> int:
    """The highest id ever given, which AUTOINCREMENT keeps even when its row is gone."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    return row[0] if row else 0


def _slice_of(table: str, after: int, upto: int) -> Callable[[sqlite3.Connection], list[tuple[int, int]]]:
    text = f"SELECT id, time_ms FROM {table} WHERE id > ? AND id <= ? ORDER BY id LIMIT {_SLICE}"  # noqa: S608 - our own table name
    return lambda db: db.execute(text, (after, upto)).fetchall()


def _superseded_in(table: str) -> Callable[[sqlite3.Connection], array[int]]:
    """Find ids that a later row with the same key supersedes, by sorting (key, id) in SQLite's bounded sorter: an index
    on the key would make every append pay for what happens rarely.
    """
    text = (
        f"SELECT id FROM (SELECT id, lead(id) OVER (PARTITION BY key ORDER BY id) AS later FROM {table})"  # noqa: S608 - our own table name
        f" WHERE later IS NOT NULL LIMIT {_PASS}"
    )
    return lambda db: array("q", (number for (number,) in db.execute(text)))
