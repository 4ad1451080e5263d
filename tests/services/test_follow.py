"""A follower beside the writer, over the real file log."""

from __future__ import annotations

import asyncio
from pathlib import Path

from penstock.adapters.sqlite import SqliteEventLog, SqliteLedger
from penstock.codec import encode
from penstock.follow import RecordFollower
from penstock.model import TOPIC_RECORDS, Phase, Record, Submission
from penstock.ports import LogEntry


def _record(number: int, phase: Phase = Phase.QUEUED) -> Record:
    return Record(
        id=f"{number:064x}",
        function="f",
        function_uid="u",
        generation=1,
        trigger=Submission(id=str(number), function="f", function_uid="u", time_ms=number),
        phase=phase,
        queued_ms=number,
    )


def _entry(record: Record) -> LogEntry:
    return LogEntry(record.id, encode(record))


async def test_what_is_written_later_is_followed_and_told_once(tmp_path: Path) -> None:
    log = await SqliteEventLog.open(tmp_path / "log.sqlite")
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite")
    told: list[str] = []
    five = asyncio.Event()

    def hear(record: Record) -> None:
        told.append(record.id)
        if len(told) == 5:
            five.set()

    follower = RecordFollower(log, ledger, on_change=hear)
    try:
        await log.append(TOPIC_RECORDS, [_entry(_record(number)) for number in range(3)])
        await follower.catch_up()
        assert len(told) == 3
        task = asyncio.create_task(follower.run(wait_s=0.5))
        # A repeat changes nothing; what is no record and a tombstone are passed by.
        await log.append(TOPIC_RECORDS, [_entry(_record(0)), LogEntry("x", b"rubbish"), LogEntry("y", b"")])
        await log.append(TOPIC_RECORDS, [_entry(_record(number)) for number in (3, 4)])
        async with asyncio.timeout(20):
            await five.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert told == [_record(number).id for number in range(5)]
        assert await ledger.known(set(told)) == set(told)
    finally:
        await ledger.close()
        await log.close()


async def test_a_second_life_goes_on_where_the_first_was(tmp_path: Path) -> None:
    log = await SqliteEventLog.open(tmp_path / "log.sqlite")
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite")
    try:
        await log.append(TOPIC_RECORDS, [_entry(_record(number)) for number in range(3)])
        await RecordFollower(log, ledger).catch_up()
        await log.append(TOPIC_RECORDS, [_entry(_record(3))])
        assert await RecordFollower(log, ledger).turn() == 1
    finally:
        await ledger.close()
        await log.close()
