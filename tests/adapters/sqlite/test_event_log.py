"""What is particular to the SQLite log: how appends share flushes, and what becomes of them when something fails."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.sqlite import SqliteEventLog
from penstock.adapters.sqlite.event_log import MAX_VALUE_BYTES
from penstock.errors import Closed, InvalidInput, OutOfSpace
from penstock.ports import LogEntry

#: Long enough for a slow machine; reached only when something hangs.
PATIENCE_S = 30.0


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    opened = await SqliteEventLog.open(tmp_path / "log.db")
    yield opened
    await opened.close()


def entry(value: bytes = b"v") -> list[LogEntry]:
    return [LogEntry("key", value)]


async def test_a_writer_faster_than_its_caller_leaves_no_append_behind(
    log: SqliteEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flush has begun and ended in the writer's thread before `submit` returns in the loop's."""
    await log.append("topic", entry())
    real = log._database.submit

    def submit(work: Callable[[sqlite3.Connection], Any]) -> asyncio.Future[Any]:
        ended = threading.Event()

        def noted(db: sqlite3.Connection) -> Any:
            result = work(db)
            ended.set()
            return result

        future = real(noted)
        assert ended.wait(PATIENCE_S)
        return future

    monkeypatch.setattr(log._database, "submit", submit)
    for offset in (1, 2, 3):
        assert await asyncio.wait_for(log.append("topic", entry()), PATIENCE_S) == [(0, offset)]


async def test_appends_that_wait_share_one_transaction(log: SqliteEventLog) -> None:
    await log.append("topic", entry())
    statements: list[str] = []
    await log._database.write(lambda db: db.set_trace_callback(statements.append))
    await asyncio.gather(*(log.append("topic", entry()) for _ in range(200)))
    assert statements.count("COMMIT") <= 3
    assert (await log.end("topic")) == {0: 201}


async def test_a_full_disk_fails_the_appends_and_the_log_recovers(log: SqliteEventLog) -> None:
    await log.append("topic", entry())
    pages = await log._database.read(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await log._database.write(lambda db: db.execute(f"PRAGMA max_page_count={pages + 2}"))
    outcomes = await asyncio.gather(
        *(log.append("topic", entry(b"x" * 100_000)) for _ in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [OutOfSpace] * 3
    assert len(await log.read("topic", {})) == 1
    await log._database.write(lambda db: db.execute("PRAGMA max_page_count=100000"))
    ((_, offset),) = await log.append("topic", entry(b"x" * 100_000))
    assert [found.offset for found in await log.read("topic", {})] == [0, offset]


async def test_a_cancelled_append_does_not_disturb_its_neighbours(log: SqliteEventLog) -> None:
    await log.append("topic", entry())
    calls = [asyncio.create_task(log.append("topic", entry(b"%d" % n))) for n in range(5)]
    await asyncio.sleep(0)  # let them queue
    calls[2].cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(outcome, list) for outcome in outcomes] == [True, True, False, True, True]
    values = [found.value for found in await log.read("topic", {})]
    assert {b"0", b"1", b"3", b"4"} <= set(values)


async def test_a_value_beyond_the_limit_is_refused_with_the_limit(log: SqliteEventLog) -> None:
    with pytest.raises(InvalidInput, match=f"topic: an entry of .* bytes is too large .* at most {MAX_VALUE_BYTES}"):
        await log.append("topic", [LogEntry("k", b"ok"), LogEntry("k", bytes(MAX_VALUE_BYTES + 1))])
    assert await log.read("topic", {}) == []


async def test_a_closed_log_says_so_to_everybody(log: SqliteEventLog) -> None:
    await log.append("topic", entry())
    waiting = [asyncio.create_task(log.read(topic, {0: 1}, wait_s=PATIENCE_S)) for topic in ("topic", "another topic")]
    await log.read("topic", {})  # by now they wait
    await log.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Closed, Closed]
    for _ in range(2):
        with pytest.raises(Closed, match=r"log\.db was closed"):
            await asyncio.wait_for(log.append("topic", entry()), PATIENCE_S)
