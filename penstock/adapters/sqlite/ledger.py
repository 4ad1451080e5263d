"""The embedded ledger: the current record of every invocation, as a view over the log in one SQLite file.

It is written without a sync per commit, since all of it can be read again from the log: after a power cut it is older,
never wrong, because the log's position stands in the same transaction. Memory does not follow the backlog: what a call
returns is all that is held.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from penstock.adapters.sqlite import ledger_reads as reads
from penstock.adapters.sqlite.connection import Tuning
from penstock.adapters.sqlite.database import Database
from penstock.adapters.sqlite.ledger_schema import (
    COLUMNS,
    MIGRATIONS,
    PHASE_NUMBER,
    RANK,
    UPSERT_HEAD,
    UPSERT_TAIL,
    row_of,
)
from penstock.adapters.sqlite.statements import in_slices, insert_rows, marks
from penstock.model import Phase, Record
from penstock.ports import QueueStats, RecordPage, RecordQuery

#: Invocation ids are hashes, so every new record lands on another page of their index: keep much of it at hand, and
#: let many changes of a page gather before it is copied into the file.
_TUNING = Tuning(writer_cache_kib=32 * 1024, checkpoint_pages=16_000)

#: Ids per statement and per transaction.
_SLICE = 500

#: What the file knows of an invocation: seq, function number, phase number, and what decides: (epoch, attempt, rank).
_Known = tuple[int | None, int, int, tuple[int, int, int]]


def damage_mark(path: Path) -> Path:
    """Stands beside a ledger that was found damaged: `open_view` then rebuilds it, be it in the next life."""
    return path.with_name(f"{path.name}.damaged")


class SqliteLedger:
    """Implements `Ledger`."""

    def __init__(self, database: Database, functions: dict[str, int]) -> None:
        self._database = database
        #: Number of each function uid; only what is committed.
        self._functions = functions

    @classmethod
    async def open(cls, path: str | Path) -> SqliteLedger:
        """Open or create. Raises Corrupt, Unsupported (newer version), Unavailable, OutOfSpace."""
        database = await Database.open(
            path, synchronous="NORMAL", migrations=MIGRATIONS, tuning=_TUNING, damage_mark=damage_mark(Path(path))
        )
        return cls(database, await database.read(reads.functions))

    async def apply(self, records: Sequence[Record], positions: Mapping[int, int] | None = None) -> list[Record]:
        if new := {record.function_uid: record.function for record in records if self._is_new(record)}:
            self._functions.update(await self._database.write(lambda db: _add_functions(db, new)))
        return await self._database.write(_Apply(records, dict(positions or {}), self._functions))

    async def positions(self) -> dict[int, int]:
        return await self._database.read(reads.positions)

    async def known(self, ids: Collection[str]) -> set[str]:
        return await self._database.read(lambda db: reads.known(db, ids))

    async def get(self, invocation: str) -> Record | None:
        return (await self.get_many([invocation])).get(invocation)

    async def find(self, id_prefix: str) -> list[Record]:
        return await self._database.read(lambda db: reads.find(db, id_prefix))

    async def get_many(self, ids: Collection[str]) -> dict[str, Record]:
        return await self._database.read(lambda db: reads.get_many(db, ids))

    async def query(self, query: RecordQuery) -> RecordPage:
        """As the port says. Raises InvalidInput for a page that this ledger did not give."""
        position = reads.page_position(query)
        return await self._database.read(lambda db: reads.query(db, query, position))

    async def queue(
        self, function_uid: str, *, after: tuple[int, int] = (-1, -1), limit: int = 500
    ) -> list[tuple[tuple[int, int], Record]]:
        fid = self._functions.get(function_uid)
        if fid is None:
            self._database.check_open()
            return []
        return await self._database.read(lambda db: reads.queue(db, fid, after, limit))

    async def queue_stats(self) -> list[QueueStats]:
        return await self._database.read(reads.queue_stats)

    async def unfinished(self) -> list[Record]:
        return await self._database.read(reads.unfinished)

    async def counts(self, function_uid: str = "") -> dict[str, dict[Phase, int]]:
        return await self._database.read(lambda db: reads.counts(db, function_uid))

    async def outlived(self, before_ms: int, *, limit: int = 1000) -> list[str]:
        return await self._database.read(lambda db: reads.outlived(db, before_ms, limit))

    async def forget(self, ids: Collection[str]) -> None:
        for part in in_slices(list(dict.fromkeys(ids)), _SLICE):
            await self._database.write(lambda db, part=part: _forget(db, part))  # type: ignore[misc]

    async def close(self) -> None:
        await self._database.close()

    def _is_new(self, record: Record) -> bool:
        return record.function_uid not in self._functions


class _Apply:
    """One `apply` in the writer's thread: what the file knows of these invocations, then one upsert for all."""

    def __init__(self, records: Sequence[Record], positions: dict[int, int], functions: Mapping[str, int]) -> None:
        self._records = records
        self._positions = positions
        self._functions = functions

    def __call__(self, db: sqlite3.Connection) -> list[Record]:
        before = _orders(db, {record.id for record in self._records})
        current = dict(before)
        winners: dict[str, Record] = {}
        changed: list[Record] = []
        for record in self._records:
            known = current.get(record.id)
            order = record.order
            if known is not None and known[3] >= order:
                continue  # late or repeated
            fid = self._functions[record.function_uid]
            current[record.id] = (known[0] if known else None, fid, PHASE_NUMBER[record.phase], order)
            # Last in, last out: a new invocation keeps the place of its first record in this batch.
            winners[record.id] = record
            changed.append(record)
        rows = [row_of(record, *current[record.id][:2]) for record in winners.values()]
        insert_rows(db, UPSERT_HEAD, COLUMNS, rows, UPSERT_TAIL)
        _count(db, [before[key][1:3] for key in winners if key in before], [current[key][1:3] for key in winners])
        insert_rows(
            db,
            "INSERT INTO positions",
            2,
            list(self._positions.items()),
            "ON CONFLICT DO UPDATE SET position = excluded.position",
        )
        return changed


def _orders(db: sqlite3.Connection, ids: Collection[str]) -> dict[str, _Known]:
    found: dict[str, _Known] = {}
    for part in in_slices(list(ids), _SLICE):
        rows = db.execute(
            f"SELECT id, seq, fid, phase, epoch, attempt FROM records WHERE id IN ({marks(len(part))})",  # noqa: S608 - marks only
            part,
        ).fetchall()
        for key, seq, fid, phase, epoch, attempt in rows:
            found[key] = (seq, fid, phase, (epoch, attempt, RANK[phase]))
    return found


def _count(db: sqlite3.Connection, gone: Sequence[tuple[int, int]], come: Sequence[tuple[int, int]]) -> None:
    """Bring the counts per (function, phase) up to date."""
    change: dict[tuple[int, int], int] = {}
    for place in come:
        change[place] = change.get(place, 0) + 1
    for place in gone:
        change[place] = change.get(place, 0) - 1
    rows = [(fid, phase, n) for (fid, phase), n in change.items() if n]
    insert_rows(db, "INSERT INTO counts", 3, rows, "ON CONFLICT DO UPDATE SET n = n + excluded.n")


def _add_functions(db: sqlite3.Connection, new: Mapping[str, str]) -> dict[str, int]:
    insert_rows(db, "INSERT OR IGNORE INTO functions (uid, name)", 2, list(new.items()))
    return reads.functions(db)


def _forget(db: sqlite3.Connection, ids: Sequence[str]) -> None:
    known = _orders(db, ids)
    db.execute(f"DELETE FROM records WHERE id IN ({marks(len(ids))})", ids)  # noqa: S608 - marks only
    _count(db, [(fid, phase) for _, fid, phase, _ in known.values()], [])
