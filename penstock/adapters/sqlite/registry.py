"""The embedded registry: function definitions in one SQLite file that several processes and instances may share.

A change counter, raised in the transaction of every change, is the revision. Watches compare the stored definitions
with what they last yielded, so they cannot lose the last state of a name, however many changes fell together. The
definitions hold tokens and secrets: the file is readable by its owner alone.
"""

from __future__ import annotations

import asyncio
import builtins
import secrets
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec

from penstock.adapters.sqlite.database import Database
from penstock.clock import now_ms
from penstock.codec import decode_function, encode
from penstock.errors import AlreadyExists, Closed, Conflict, Corrupt, NotFound
from penstock.model import Function
from penstock.ports import ChangeKind, FunctionChange

#: How often a watch looks for changes made by another instance or process. Own changes wake it at once.
WATCH_EVERY_S = 1.0

_MIGRATIONS = (
    """
    CREATE TABLE functions (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE revision (origin TEXT NOT NULL, changes INTEGER NOT NULL);
    INSERT INTO revision VALUES (lower(hex(randomblob(8))), 0)
    """,
)


class SqliteRegistry:
    """Implements `Registry`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wakes: set[asyncio.Event] = set()

    @classmethod
    async def open(cls, path: str | Path) -> SqliteRegistry:
        """Open or create. Raises Corrupt, Unsupported (newer version), Unavailable, OutOfSpace."""
        return cls(await Database.open(path, synchronous="FULL", migrations=_MIGRATIONS))

    async def create(self, function: Function) -> Function:
        now = now_ms()
        new = msgspec.structs.replace(
            function,
            uid=uuid.uuid4().hex,
            token=function.token or secrets.token_hex(32),
            generation=1,
            created_ms=now,
            updated_ms=now,
        )

        def insert(db: sqlite3.Connection) -> Function:
            if _find(db, new.name) is not None:
                raise AlreadyExists(f"a function named {new.name} exists already: replace it or choose another name")
            db.execute("INSERT INTO functions VALUES (?, ?)", (new.name, encode(new)))
            _count_change(db)
            return new

        return self._changed(await self._database.write(insert))

    async def replace(self, function: Function, *, generation: int | None = None) -> Function:
        def update(db: sqlite3.Connection) -> Function:
            old = _require(db, function.name)
            if generation is not None and generation != old.generation:
                raise Conflict(
                    f"function {old.name} is at generation {old.generation}, not {generation}: somebody else changed "
                    "it; read it again and repeat your change"
                )
            new = msgspec.structs.replace(
                function,
                uid=old.uid,
                token=old.token,
                owner=old.owner,
                created_ms=old.created_ms,
                updated_ms=now_ms(),
                generation=old.generation + 1,
            )
            db.execute("UPDATE functions SET value = ? WHERE name = ?", (encode(new), new.name))
            _count_change(db)
            return new

        return self._changed(await self._database.write(update))

    async def get(self, name: str) -> Function:
        return await self._database.read(lambda db: _require(db, name))

    async def list(self) -> builtins.list[Function]:
        return await self._database.read(_all)

    async def revision(self) -> str:
        return await self._database.read(_revision)

    async def delete(self, name: str) -> Function:
        def remove(db: sqlite3.Connection) -> Function:
            old = _require(db, name)
            db.execute("DELETE FROM functions WHERE name = ?", (name,))
            _count_change(db)
            return old

        return self._changed(await self._database.write(remove))

    async def watch(self) -> AsyncIterator[FunctionChange]:
        """As the port says. Ends when the registry is closed."""
        wake = asyncio.Event()
        self._wakes.add(wake)
        try:
            seen: dict[str, Function] = {}
            revision = ""
            while True:
                # The revision first: a change between the two reads is then seen once more instead of never.
                latest = await self._database.read(_revision)
                if latest != revision:
                    current = {function.name: function for function in await self.list()}
                    for change in changes(seen, current):
                        yield change
                    if not revision:
                        yield FunctionChange(ChangeKind.SYNCED)
                    seen, revision = current, latest
                await _wait(wake, WATCH_EVERY_S)
        except Closed:
            return
        finally:
            self._wakes.discard(wake)

    async def close(self) -> None:
        await self._database.close()
        self._wake_all()

    def _changed(self, function: Function) -> Function:
        self._wake_all()
        return function

    def _wake_all(self) -> None:
        for wake in self._wakes:
            wake.set()


def changes(seen: dict[str, Function], current: dict[str, Function]) -> Iterator[FunctionChange]:
    """What happened between two states: deletions first, so that a name made anew is seen to be another function."""
    for name, old in seen.items():
        new = current.get(name)
        if new is None or new.uid != old.uid:
            yield FunctionChange(ChangeKind.DELETED, old)
    for name, function in current.items():
        if seen.get(name) != function:
            yield FunctionChange(ChangeKind.PUT, function)


async def _wait(wake: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        return
    wake.clear()


def _decode(name: str, value: bytes) -> Function:
    try:
        return decode_function(value)
    except msgspec.DecodeError as error:
        raise Corrupt(
            f"the stored definition of function {name} cannot be read ({error}): delete the function and apply it again"
        ) from error


def _find(db: sqlite3.Connection, name: str) -> bytes | None:
    row = db.execute("SELECT value FROM functions WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def _require(db: sqlite3.Connection, name: str) -> Function:
    value = _find(db, name)
    if value is None:
        raise NotFound(f"there is no function named {name}")
    return _decode(name, value)


def _all(db: sqlite3.Connection) -> list[Function]:
    return [_decode(name, value) for name, value in db.execute("SELECT * FROM functions ORDER BY name").fetchall()]


def _revision(db: sqlite3.Connection) -> str:
    return "{}-{}".format(*db.execute("SELECT origin, changes FROM revision").fetchone())


def _count_change(db: sqlite3.Connection) -> None:
    db.execute("UPDATE revision SET changes = changes + 1")
