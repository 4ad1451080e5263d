"""Housekeeping over real adapters: what has served its time goes, what may be needed stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dispatcher.expiry import Expiry
from dispatcher.intake import GROUP
from dispatcher.metrics import DispatcherMetrics
from dispatcher.recorder import Recorder
from gateway.housekeeping import DAY_MS, Housekeeping
from penstock.clock import now_ms
from penstock.codec import encode
from penstock.model import SYSTEM_BUCKET, TOPIC_EVENTS, TOPIC_RECORDS, Phase, Record, Submission
from penstock.model.objects import answer_key, log_key, payload_key
from penstock.observability import Metrics
from penstock.ports import LogEntry
from penstock.settings import HistorySettings
from penstock.wiring import EmbeddedParts, embedded_parts
from tests.factories import make_event

#: A day in the far future, so that what is written now is old.
LATER = now_ms() + 1000 * DAY_MS


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[EmbeddedParts]:
    (tmp_path / "db").mkdir()
    async with embedded_parts(buckets=tmp_path / "buckets", databases=tmp_path / "db", settle_s=0) as parts:
        yield parts


def keeper(parts: EmbeddedParts, metrics: Metrics | None = None) -> Housekeeping:
    settings = HistorySettings()
    recorder = Recorder(parts.log, parts.ledger, DispatcherMetrics(CollectorRegistry()))

    async def forget(records: Sequence[Record]) -> list[str]:
        """As the dispatcher does it, whose loop is this task here."""
        gone = recorder.forget(records)
        task = asyncio.create_task(recorder.run())
        try:
            return await gone
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return Housekeeping(
        event_log=parts.log,
        ledger=parts.ledger,
        settings=settings,
        metrics=metrics or Metrics(),
        expiry=Expiry(event_log=parts.log, ledger=parts.ledger, store=parts.store, forget=forget, settings=settings),
    )


def record(name: str, phase: Phase, **changes: Any) -> Record:
    now = now_ms()
    fields: dict[str, Any] = {
        "trigger": make_event(),
        "queued_ms": now,
        "finished_ms": now if phase.final else 0,
    }
    return Record(id=name * 40, function="f", function_uid="u", generation=1, phase=phase, **(fields | changes))


async def keep(parts: EmbeddedParts, *records: Record) -> None:
    placed = await parts.log.append(TOPIC_RECORDS, [LogEntry(one.id, encode(one)) for one in records])
    await parts.ledger.apply(records, {0: placed[-1][1] + 1})


async def logged(parts: EmbeddedParts) -> list[str]:
    return [entry.key[0] for entry in await parts.log.read(TOPIC_RECORDS, {})]


async def keys(parts: EmbeddedParts) -> list[str]:
    return [info.key async for page in parts.store.list(SYSTEM_BUCKET) for info in page]


async def test_events_go_when_they_are_old_and_queued(parts: EmbeddedParts) -> None:
    await parts.log.append(TOPIC_EVENTS, [LogEntry("k", b"1"), LogEntry("k", b"2"), LogEntry("k", b"3")])
    await parts.log.commit(GROUP, TOPIC_EVENTS, {0: 2})
    assert (await keeper(parts).turn(now_ms()))["events"] == 0, "too young"
    assert (await keeper(parts).turn(LATER))["events"] == 2
    assert [entry.value for entry in await parts.log.read(TOPIC_EVENTS, {})] == [b"3"], "not yet queued: stays"


async def test_superseded_records_are_compacted(parts: EmbeddedParts) -> None:
    await keep(parts, record("a", Phase.QUEUED), record("a", Phase.RUNNING), record("a", Phase.SUCCEEDED))
    assert (await keeper(parts).turn(now_ms()))["superseded_records"] == 2
    assert await logged(parts) == ["a"]
    assert (await parts.ledger.get("a" * 40)) is not None


async def test_history_expires_with_its_objects(parts: EmbeddedParts) -> None:
    body = Submission(function="f", function_uid="u", id="s", time_ms=1, body_key=payload_key("u", "s"))
    old = record("a", Phase.SUCCEEDED, attempt=2, trigger=body)
    await keep(parts, old)
    other = payload_key("u", "other")
    mine = [log_key("u", old.id, 1), log_key("u", old.id, 2), answer_key("u", old.id, 2), payload_key("u", "s")]
    for key in (*mine, other):
        await parts.store.write(SYSTEM_BUCKET, key, b"x")
    assert (await keeper(parts).turn(now_ms() + 89 * DAY_MS))["invocations"] == 0
    done = await keeper(parts).turn(now_ms() + 91 * DAY_MS)
    assert (done["invocations"], done["records"]) == (1, 2), "the record, and the entry that ended its life"
    assert await parts.ledger.get(old.id) is None
    assert await keys(parts) == [other]
    assert await logged(parts) == []


async def test_what_is_not_final_never_expires_and_keeps_its_entries(parts: EmbeddedParts) -> None:
    await keep(parts, record("a", Phase.QUEUED), record("b", Phase.RUNNING), record("c", Phase.FAILED))
    done = await keeper(parts).turn(LATER)
    assert (done["invocations"], done["records"]) == (1, 0)
    # The log keeps more than the view, never less: a rebuild finds what waits.
    assert {"a", "b"} <= set(await logged(parts))
    assert await parts.ledger.get("a" * 40) is not None
    assert await parts.ledger.get("b" * 40) is not None


async def test_answers_that_nobody_fetched_go_after_a_day(parts: EmbeddedParts) -> None:
    await parts.store.write(SYSTEM_BUCKET, answer_key("u", "a" * 40, 1), b"x")
    assert (await keeper(parts).turn(now_ms()))["answers"] == 0
    assert (await keeper(parts).turn(now_ms() + 2 * DAY_MS))["answers"] == 1
    assert await keys(parts) == []


async def test_a_round_counts_what_it_did(parts: EmbeddedParts) -> None:
    metrics = Metrics()
    await keep(parts, record("a", Phase.SUCCEEDED))
    await keeper(parts, metrics).turn(LATER)
    assert b'penstock_housekeeping_deleted_total{kind="invocations"} 1.0' in metrics.text()


async def test_a_round_that_fails_is_said_and_the_next_one_goes_on(parts: EmbeddedParts) -> None:
    folder = parts.store.root / SYSTEM_BUCKET
    folder.rmdir()
    await parts.log.append(TOPIC_EVENTS, [LogEntry("k", b"1")])
    await parts.log.commit(GROUP, TOPIC_EVENTS, {0: 1})
    done = await keeper(parts).turn(LATER)
    assert (done["events"], "answers" in done) == (1, False)
    folder.mkdir()
    assert "answers" in await keeper(parts).turn(LATER)
