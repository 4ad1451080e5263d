"""History whose time is over is forgotten by everybody, unless it runs again at that very moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from dispatcher.dead import letters
from dispatcher.expiry import DAY_MS, Expiry
from dispatcher.metrics import DispatcherMetrics
from dispatcher.recorder import Recorder
from penstock.adapters.sqlite import SqliteLedger, open_view
from penstock.clock import now_ms
from penstock.codec import encode
from penstock.follow import RecordFollower
from penstock.model import (
    SYSTEM_BUCKET,
    TOPIC_DEAD,
    TOPIC_RECORDS,
    CommandKind,
    DeadLetter,
    Phase,
    Record,
    Submission,
)
from penstock.model.objects import log_key
from penstock.ports import LogEntry
from penstock.settings import HistorySettings
from tests.dispatcher.bench import DispatcherBench
from tests.factories import NOW, make_event

LATER = now_ms() + 91 * DAY_MS


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[DispatcherBench]:
    bench = DispatcherBench(tmp_path)
    await bench.open()
    await bench.store.create_bucket(SYSTEM_BUCKET)
    yield bench
    await bench.close()


async def test_what_is_forgotten_is_forgotten_by_every_view(bench: DispatcherBench) -> None:
    await bench.deploy()
    follower_view = await SqliteLedger.open(bench.folder / "follower.db")
    follower = RecordFollower(bench.log, follower_view)
    async with bench.life() as dispatcher:
        await bench.event(make_event("in/1"), make_event("in/2"))
        done = await bench.until_phase(Phase.SUCCEEDED, 2)
        for record in done:
            await bench.store.write(SYSTEM_BUCKET, log_key(record.function_uid, record.id, 1), b"said")
        await follower.catch_up()
        assert len(await follower_view.known([one.id for one in done])) == 2
        expiry = Expiry(
            event_log=bench.log,
            ledger=bench.ledger,
            store=bench.store,
            forget=dispatcher.forget,
            settings=HistorySettings(),
        )
        assert not any((await expiry.turn(now_ms())).values())
        assert (await expiry.turn(LATER))["invocations"] == 2
        assert await bench.records() == []
        assert [info.key async for page in bench.store.list(SYSTEM_BUCKET, "logs/") for info in page] == []
        await follower.catch_up()
        assert await follower_view.known([one.id for one in done]) == set()
    await follower_view.close()
    rebuilt = await open_view(bench.folder / "rebuilt.db", bench.log)
    assert await rebuilt.known([one.id for one in done]) == set()
    assert await rebuilt.positions() == await bench.ledger.positions() == await bench.log.end(TOPIC_RECORDS)
    await rebuilt.close()


async def test_one_that_was_ordered_to_run_again_meanwhile_stays(bench: DispatcherBench) -> None:
    await bench.deploy()
    async with bench.life() as dispatcher:
        await bench.event(make_event("in/1"), make_event("in/2"))
        read = await bench.until_phase(Phase.SUCCEEDED, 2)
        await bench.command(CommandKind.REPLAY, invocation=read[0].id, force=True)

        async def again() -> bool:
            record = await bench.ledger.get(read[0].id)
            return record is not None and (record.phase, record.attempt) == (Phase.SUCCEEDED, 2)

        await bench.until(again)
        assert await dispatcher.forget(read) == [read[1].id]
    assert [one.id for one in await bench.records()] == [read[0].id]


async def test_a_life_after_being_forgotten_counts(bench: DispatcherBench) -> None:
    """The order of the log decides, within one batch too."""
    first = Record(
        id="a" * 64, function="f", function_uid="u", generation=1, trigger=make_event(), phase=Phase.SUCCEEDED, epoch=9
    )
    second = msgspec.structs.replace(first, phase=Phase.QUEUED, epoch=1)
    other = msgspec.structs.replace(first, id="b" * 64)
    await bench.log.append(
        TOPIC_RECORDS,
        [
            LogEntry(first.id, encode(first)),
            LogEntry(other.id, encode(other)),
            LogEntry(first.id, b""),
            LogEntry(first.id, encode(second)),
            LogEntry(other.id, b""),
        ],
    )
    await RecordFollower(bench.log, bench.ledger).catch_up()
    assert [(one.id, one.phase) for one in await bench.records()] == [(first.id, Phase.QUEUED)]
    assert await bench.ledger.positions() == {0: 5}


async def test_writing_and_forgetting_at_once_lose_nothing(bench: DispatcherBench) -> None:
    recorder = Recorder(bench.log, bench.ledger, DispatcherMetrics(CollectorRegistry()))
    task = asyncio.create_task(recorder.run())
    try:
        records = [
            Record(
                id=f"{number:064x}",
                function="f",
                function_uid="u",
                generation=1,
                trigger=Submission(id=str(number), function="f", function_uid="u", time_ms=NOW),
                phase=Phase.SUCCEEDED,
            )
            for number in range(40)
        ]

        async def life(some: Sequence[Record]) -> list[str]:
            await recorder.write(some)
            return await recorder.forget(some)

        gone = await asyncio.gather(*(life(records[start : start + 4]) for start in range(0, 40, 4)))
        assert sorted(name for part in gone for name in part) == [one.id for one in records]
        assert await bench.records() == []
        await recorder.write(records[:1])
        assert len(await bench.records()) == 1
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_old_dead_letters_go_and_young_ones_stay(bench: DispatcherBench) -> None:
    young = now_ms()
    for number, time_ms in enumerate((young - 91 * DAY_MS, young)):
        letter = DeadLetter(id=f"d{number}", original=b"x", error="undecodable", message="?", time_ms=time_ms)
        await bench.log.append(TOPIC_DEAD, [LogEntry(letter.id, encode(letter))])
    async with bench.life() as dispatcher:
        expiry = Expiry(
            event_log=bench.log,
            ledger=bench.ledger,
            store=bench.store,
            forget=dispatcher.forget,
            settings=HistorySettings(),
        )
        assert (await expiry.turn(young))["dead_letters"] == 1
    assert list(await letters(bench.log)) == ["d1"]
