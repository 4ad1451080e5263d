"""What must stay cheap with millions of records is asserted on SQLite's own query plans, and memory on a real process:
a plan does not depend on how busy the machine is.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.adapters.sqlite import SqliteLedger, ledger_reads
from penstock.adapters.sqlite.ledger_schema import after_prefix
from penstock.identity import invocation_id
from penstock.model import BucketEvent, Phase, Record
from penstock.ports import RecordQuery

RECORDS = 120_000
LIMIT_MB = 110


def record(number: int, phase: Phase = Phase.QUEUED) -> Record:
    return Record(
        id=invocation_id("u", str(number)),
        function="f",
        function_uid="u",
        generation=1,
        trigger=BucketEvent(
            bucket="in", key=f"pictures/{number:07}.png", etag="e" * 32, size=1, time_ms=1, arrived_ms=1
        ),
        phase=phase,
        queued_ms=number,
        finished_ms=number if phase.final else 0,
    )


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    opened = await SqliteLedger.open(tmp_path / "ledger.db")
    await opened.apply([record(n, list(Phase)[n % 10]) for n in range(200)], {0: 1})
    yield opened
    await opened.close()


class Plans:
    """Gathers the query plan of every statement that a read runs."""

    def __init__(self) -> None:
        self._statements: list[str] = []

    def run(self, db: sqlite3.Connection, query: RecordQuery) -> list[str]:
        db.set_trace_callback(self._statements.append)
        page = ledger_reads.query(db, query, None)
        ledger_reads.query(db, query, ledger_reads.page_position(RecordQuery(page=page.next)))
        fid = ledger_reads.functions(db)["u"]
        (place, _), *_ = ledger_reads.queue(db, fid, (-1, -1), 5)
        ledger_reads.queue(db, fid, place, 5)
        ledger_reads.queue_stats(db)
        ledger_reads.unfinished(db)
        ledger_reads.outlived(db, 1 << 50, 10)
        ledger_reads.find(db, "ab")
        ledger_reads.known(db, ["x", "y"])
        ledger_reads.get_many(db, ["x", "y"])
        db.set_trace_callback(None)
        lines = []
        for statement in self._statements:
            if statement.startswith("SELECT"):
                lines += [detail for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()]
        return lines


@pytest.mark.parametrize("oldest_first", [False, True])
async def test_no_read_walks_over_the_records_or_sorts_them(ledger: SqliteLedger, oldest_first: bool) -> None:
    query = RecordQuery(limit=5, oldest_first=oldest_first, path_prefix="in/")
    plan = await ledger._database.read(lambda db: Plans().run(db, query))
    on_records = [line for line in plan if "records" in line or " r " in line]
    assert len(on_records) > 10
    assert [line for line in on_records if not line.startswith("SEARCH")] == []
    # `unfinished` alone sorts, and only what it returns.
    assert [line for line in plan if "TEMP B-TREE" in line] == ["USE TEMP B-TREE FOR ORDER BY"]
    # Both parts of a cursor are sought by, in the queue and in listings.
    assert any("waiting (fid=? AND not_before_ms=? AND seq>?)" in line for line in plan)
    assert any(f"queued_ms=? AND seq{'>' if oldest_first else '<'}?" in line for line in plan)


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"a", b"b"), (b"a/", b"a0"), (b"a\xff", b"b"), (b"\xc3\xbf", b"\xc3\xc0"), (b"\xff", None)]
)
def test_the_end_of_a_prefix(prefix: bytes, end: bytes | None) -> None:
    assert after_prefix(prefix) == end


def resident_mb() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096 // 2**20


async def fill(path: str) -> None:
    ledger = await SqliteLedger.open(path)
    for start in range(0, RECORDS, 500):
        await ledger.apply([record(n) for n in range(start, start + 500)], {0: start})
        if start == RECORDS // 2:
            sys.stdout.write(f"{resident_mb()} ")
    window = await ledger.queue("u", after=(0, RECORDS // 2), limit=500)
    assert len(window) == 500
    sys.stdout.write(f"{resident_mb()}\n")
    await ledger.close()


def test_memory_does_not_follow_the_backlog(tmp_path: Path) -> None:
    command = [sys.executable, "-m", __name__, str(tmp_path / "ledger.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    half, whole = (int(word) for word in done.stdout.split())
    assert whole < LIMIT_MB
    assert whole - half < 16


if __name__ == "__main__":
    asyncio.run(fill(sys.argv[1]))
