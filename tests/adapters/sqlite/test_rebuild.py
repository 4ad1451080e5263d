"""The ledger is a view: whatever happens to its file, it comes back from the log, and it reads the tail only."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from penstock.adapters.sqlite import SqliteEventLog, SqliteLedger, open_view, rebuild
from penstock.adapters.sqlite.ledger import damage_mark
from penstock.adapters.sqlite.rebuild import OtherLog
from penstock.codec import encode
from penstock.errors import Corrupt
from penstock.model import TOPIC_RECORDS, BucketEvent, Phase, Record
from penstock.ports import LogEntry


@pytest.fixture
async def events(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    log = await SqliteEventLog.open(tmp_path / "log.db")
    yield log
    await log.close()


def record(number: int, phase: Phase = Phase.QUEUED) -> Record:
    return Record(
        id=f"{number:040x}",
        function="f",
        function_uid="u",
        generation=1,
        trigger=BucketEvent(bucket="in", key=f"{number}" * 20, etag="e", size=1, time_ms=1, arrived_ms=1),
        phase=phase,
        queued_ms=number,
    )


async def append(events: SqliteEventLog, records: Sequence[Record]) -> None:
    await events.append(TOPIC_RECORDS, [LogEntry(item.id, encode(item)) for item in records])


@contextlib.asynccontextmanager
async def view(path: Path, events: SqliteEventLog) -> AsyncIterator[SqliteLedger]:
    ledger = await open_view(path, events)
    try:
        yield ledger
    finally:
        await ledger.close()


async def test_a_rebuild_reads_everything_once_and_then_the_tail(events: SqliteEventLog, tmp_path: Path) -> None:
    ledger = await SqliteLedger.open(tmp_path / "ledger.db")
    assert await rebuild(events, ledger) == 0
    await append(events, [record(n) for n in range(1200)])
    assert await rebuild(events, ledger) == 1200
    assert await rebuild(events, ledger) == 0
    await append(events, [record(n, Phase.SUCCEEDED) for n in range(7)])
    assert await rebuild(events, ledger) == 7
    assert await ledger.counts() == {"u": {Phase.QUEUED: 1193, Phase.SUCCEEDED: 7}}
    assert await ledger.positions() == await events.end(TOPIC_RECORDS)
    await ledger.close()


async def test_a_compacted_log_gives_the_same_view(events: SqliteEventLog, tmp_path: Path) -> None:
    for phase in (Phase.QUEUED, Phase.PLANNED, Phase.RUNNING, Phase.SUCCEEDED):
        await append(events, [record(n, phase) for n in range(50)])
    async with view(tmp_path / "one.db", events) as ledger:
        before = await ledger.get_many([record(n).id for n in range(50)])
    assert await events.compact(TOPIC_RECORDS) == 150
    async with view(tmp_path / "two.db", events) as ledger:
        assert await ledger.get_many([record(n).id for n in range(50)]) == before
    await events.trim(TOPIC_RECORDS, before_ms=1 << 50, below=await events.end(TOPIC_RECORDS))
    async with view(tmp_path / "three.db", events) as ledger:
        assert await ledger.counts() == {}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[16_384:] = b"\xa5" * (len(content) - 16_384)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["no database", "pages", "a record"])
async def test_a_damaged_ledger_is_moved_aside_and_rebuilt(events: SqliteEventLog, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ledger.db"
    await append(events, [record(n) for n in range(500)])
    async with view(path, events) as ledger:
        if damage == "a record":
            await ledger._database.write(lambda db: db.execute("UPDATE records SET value = '{' WHERE seq = 7"))
    if damage == "no database":
        path.write_bytes(b"something else " * 1000)
    elif damage == "pages":
        damage_pages(path)
    if damage != "no database":  # damage inside the file is found only when it is met: by somebody in this life ...
        ledger = await SqliteLedger.open(path)
        with pytest.raises(Corrupt):
            await ledger.queue("u")
        await ledger.close()
        assert damage_mark(path).exists()
    with capture_logs() as logs:  # ... and repaired at the start of the next.
        async with view(path, events) as ledger:
            assert await ledger.counts() == {"u": {Phase.QUEUED: 500}}
            assert len(await ledger.queue("u", limit=1000)) == 500
    (entry,) = logs
    assert entry["action"] == "ledger_rebuilt"
    assert entry["log_level"] == "warning"
    assert Path(entry["moved_to"]).name in names_in(tmp_path)
    assert not damage_mark(path).exists()
    with capture_logs() as logs:
        async with view(path, events):
            pass
    assert logs == []


async def test_a_ledger_that_is_ahead_of_the_log_belongs_to_another_one(events: SqliteEventLog, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = await SqliteLedger.open(path)
    await ledger.apply([record(1)], {0: 100})
    await append(events, [record(2)])
    with pytest.raises(OtherLog, match="up to 100 in partition 0, but the log ends at 1"):
        await rebuild(events, ledger)
    await ledger.close()
    with capture_logs() as logs:
        async with view(path, events) as rebuilt:
            assert await rebuilt.known([record(1).id, record(2).id]) == {record(2).id}
    assert [entry["action"] for entry in logs] == ["ledger_rebuilt"]


async def test_a_log_that_cannot_be_read_is_no_reason_to_drop_the_ledger(
    events: SqliteEventLog, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    await append(events, [record(1)])
    async with view(path, events):
        pass
    await events.append(TOPIC_RECORDS, [LogEntry("x", b'{"no": "record"}')])
    with pytest.raises(Corrupt, match=r"entry 1 in partition 0 of penstock\.records is no record"):
        await open_view(path, events)
    ledger = await SqliteLedger.open(path)
    assert await ledger.get(record(1).id) == record(1)
    await ledger.close()
    assert [name for name in names_in(tmp_path) if name.startswith("ledger")] == ["ledger.db"]


async def test_a_view_of_a_later_state_survives_records_of_an_older_one(events: SqliteEventLog, tmp_path: Path) -> None:
    """After a power cut the ledger may be older than the log, never newer; reading a part again changes nothing."""
    steps = [record(n, phase) for phase in (Phase.QUEUED, Phase.PLANNED, Phase.DEAD) for n in range(20)]
    await append(events, steps)
    async with view(tmp_path / "ledger.db", events) as ledger:
        await ledger.apply([], {0: 5})
        assert await rebuild(events, ledger) == 55
        assert await ledger.counts() == {"u": {Phase.DEAD: 20}}
        assert await ledger.get(record(3).id) == msgspec.structs.replace(record(3), phase=Phase.DEAD)
