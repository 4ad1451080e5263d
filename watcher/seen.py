"""Remembers which object versions were published, so that a listing yields only news and a restart repeats nothing.

One row per (bucket, key, identity) for as long as listings return the version. History in the ledger may expire
earlier: an old input must not run again because of that. Losing the newest rows means publishing these versions once
more, which the ledger drops by identity; so `synchronous=NORMAL` is enough.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from penstock.errors import Closed, Corrupt, OutOfSpace, Unavailable

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS bucket (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS seen (
    bucket INTEGER NOT NULL,
    key BLOB NOT NULL,  -- UTF-8, so that SQLite's order is that of listings
    identity BLOB NOT NULL,
    PRIMARY KEY (bucket, key, identity)
) WITHOUT ROWID;
"""


class Sighting(Protocol):
    """What events and listed objects have in common."""

    @property
    def bucket(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def identity(self) -> str: ...


#: One version: bucket, key in bytes, digest of its identity.
Version = tuple[str, bytes, bytes]


class Stale(msgspec.Struct, frozen=True):
    """A remembered version that a listing did not return: gone, unless it appeared while the listing ran."""

    key: str
    digest: bytes


def digest(identity: str) -> bytes:
    """16 of the identity's 32 bytes: enough for billions of objects, half the size."""
    return bytes.fromhex(identity[:32])


def versions_of(sightings: Iterable[Sighting]) -> list[Version]:
    return [(item.bucket, os.fsencode(item.key), digest(item.identity)) for item in sightings]


class SeenStore:
    """All calls run in one thread, one transaction each. Raises OutOfSpace, Unavailable, Corrupt, Closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seen")
        self._closed = False
        self._buckets: dict[str, int] = {}
        self._connection: sqlite3.Connection | None = None

    async def unseen(self, versions: Sequence[Version]) -> list[int]:
        """Indexes of those not published yet; of several equal ones the first alone."""
        return await self._run(lambda db: self._unseen(db, versions))

    async def add(self, versions: Sequence[Version]) -> None:
        """Call when the events are durable in the log."""
        await self._run(lambda db: self._add(db, versions))

    async def merge(
        self, bucket: str, page: Sequence[Sighting], *, after: str, prefix: str = "", last: bool
    ) -> tuple[list[int], list[Stale]]:
        """Compare one page of a listing of `prefix` with what is remembered between `after` (the last key of the page
        before, "" at first) and the page's last key; with `last`, the end of the prefix.

        Returns indexes of unseen objects and remembered versions that the listing did not return. Nothing is changed:
        the caller makes sure and calls `forget`.
        """
        listed = [(os.fsencode(item.key), digest(item.identity)) for item in page]
        start = os.fsencode(after), os.fsencode(prefix)
        return await self._run(lambda db: self._merge(db, bucket, listed, start, last=last))

    async def forget(self, bucket: str, stale: Iterable[Stale]) -> None:
        rows = [(os.fsencode(item.key), item.digest) for item in stale]

        def work(db: sqlite3.Connection) -> None:
            number = self._bucket(db, bucket)
            db.executemany(
                "DELETE FROM seen WHERE bucket = ? AND key = ? AND identity = ?", [(number, *row) for row in rows]
            )

        await self._run(work)

    async def count(self, bucket: str) -> int:
        def work(db: sqlite3.Connection) -> int:
            row = db.execute("SELECT count(*) FROM seen WHERE bucket = ?", (self._bucket(db, bucket),)).fetchone()
            return int(row[0])

        return await self._run(work)

    async def close(self) -> None:
        """Idempotent."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise Closed("the store of published identities is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    # In the thread

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = self._connect()
            with self._connection:
                return work(self._connection)
        except sqlite3.Error as error:
            self._buckets.clear()  # a rolled back transaction may have made one
            if "full" in str(error):
                raise OutOfSpace(
                    f"published identities cannot be saved in {self._path.name}: the disk is full"
                ) from error
            if isinstance(error, sqlite3.OperationalError):
                raise Unavailable(
                    f"published identities cannot be read or saved in {self._path.name}: {error}"
                ) from error
            raise Corrupt(
                f"the file of published identities {self._path.name} cannot be used: {error}; when it is deleted, all "
                "objects are published once more and known ones dropped as such"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _bucket(self, db: sqlite3.Connection, name: str) -> int:
        number = self._buckets.get(name)
        if number is None:
            db.execute("INSERT OR IGNORE INTO bucket (name) VALUES (?)", (name,))
            number = int(db.execute("SELECT id FROM bucket WHERE name = ?", (name,)).fetchone()[0])
            self._buckets[name] = number
        return number

    def _unseen(self, db: sqlite3.Connection, rows: Sequence[Version]) -> list[int]:
        found: list[int] = []
        known: set[Version] = set()
        for index, row in enumerate(rows):
            if row in known:
                continue
            known.add(row)
            sql = "SELECT 1 FROM seen WHERE bucket = ? AND key = ? AND identity = ?"
            if db.execute(sql, (self._bucket(db, row[0]), row[1], row[2])).fetchone() is None:
                found.append(index)
        return found

    def _add(self, db: sqlite3.Connection, rows: Sequence[Version]) -> None:
        db.executemany(
            "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)",
            [(self._bucket(db, bucket), key, identity) for bucket, key, identity in rows],
        )

    def _merge(
        self,
        db: sqlite3.Connection,
        bucket: str,
        listed: list[tuple[bytes, bytes]],
        start: tuple[bytes, bytes],
        *,
        last: bool,
    ) -> tuple[list[int], list[Stale]]:
        after, prefix = start
        upper, inclusive = (_end_of(prefix), False) if last else (listed[-1][0] if listed else after, True)
        sql = f"SELECT key, identity FROM seen WHERE bucket = ? AND key {'>' if after else '>='} ?"  # noqa: S608 - no input
        arguments: list[int | bytes] = [self._bucket(db, bucket), after or prefix]
        if upper is not None:
            sql += f" AND key {'<=' if inclusive else '<'} ?"
            arguments.append(upper)
        wanted = set(listed)
        stale: list[Stale] = []
        known: set[tuple[bytes, bytes]] = set()
        for row in db.execute(sql, arguments):
            if row in wanted:
                known.add(row)
            else:
                stale.append(Stale(os.fsdecode(row[0]), row[1]))
        return [index for index, item in enumerate(listed) if item not in known], stale


def _end_of(prefix: bytes) -> bytes | None:
    """The first key after all that begin with the prefix; None = there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
