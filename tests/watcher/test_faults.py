"""The production watcher while its store and its log are killed, cut and lie: nothing that was uploaded is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.adapters.kafka import KafkaEventLog, KafkaSettings
from penstock.errors import PenstockError
from penstock.model import TOPIC_DEAD, TOPIC_EVENTS, Origin
from tests.testbed import Bed
from tests.watcher.stage import Stage, function, opened_stage

pytestmark = [pytest.mark.components, pytest.mark.slow]

#: One after the other, each until it is told.
UPLOADS = 40


@pytest.fixture
async def stage(fault_bed: Bed, tmp_path: Path) -> AsyncIterator[Stage]:
    fault_bed.minio.options.queue_events = True
    await fault_bed.minio.start()
    async with opened_stage(fault_bed.minio, tmp_path) as opened:
        await opened.registry.create(function("first", opened.bucket))
        yield opened


async def upload(stage: Stage, keys: list[str]) -> None:
    """Each until the store takes it, as a patient client does."""
    for key in keys:
        while True:
            with contextlib.suppress(PenstockError):
                await stage.store.put(stage.bucket, key, b"x")
                break


async def test_what_is_uploaded_while_the_store_is_killed_again_and_again_is_told(stage: Stage) -> None:
    keys = [f"in/{number}" for number in range(200)]
    async with stage.running():
        uploading = asyncio.create_task(upload(stage, keys))
        for part in (40, 90, 140):
            await stage.until(lambda events, part=part: len(events) >= part)  # type: ignore[misc]
            await stage.minio.kill()
            await stage.minio.start()
        await uploading
        await stage.told(*keys)
    identities = Counter(event.identity for event in await stage.events())
    listed = [info.identity async for page in stage.store.list(stage.bucket) for info in page]
    # A PUT whose answer was lost was made twice, so a key may have had two versions; no version is told twice.
    assert set(identities.values()) == {1}
    assert set(listed) <= set(identities)


async def test_events_that_vanish_without_a_sign_are_found_and_counted(stage: Stage) -> None:
    await stage.minio.bed.kafka.store_link()
    async with stage.running(hint=False, canary_s=0.0, listing_min_s=1.0) as running:
        await stage.put("in/first")
        await stage.told("in/first")
        await stage.minio.lose_events()
        for number in range(20):
            await stage.put(f"in/lost-{number}")
        events = await stage.told(*(f"in/lost-{number}" for number in range(20)))
        await stage.minio.deliver_events()
        assert running.waiting_for() == []
    assert {event.origin for event in events if event.key.startswith("in/lost")} == {Origin.LISTING}
    assert stage.metric("reconciler_found_total") >= 20
    assert stage.metric("worst_case_detection_seconds") >= 1.0
    assert Counter(event.key for event in await stage.events()).most_common(1)[0][1] == 1


@pytest.mark.parametrize(("queued", "paused"), [(False, False), (True, False), (True, True)])
async def test_nothing_is_lost_while_the_log_is_away(
    fault_bed: Bed, tmp_path: Path, *, queued: bool, paused: bool
) -> None:
    """Without a queue the store drops what is refused: then the refusals are the sign, and a listing finds it."""
    fault_bed.minio.options.queue_events = queued
    await fault_bed.minio.start()
    await fault_bed.kafka.start()
    log = KafkaEventLog(KafkaSettings(servers=str(fault_bed.kafka.address), partitions=3, deadline_s=3.0))
    await log.ensure_topics([TOPIC_EVENTS, TOPIC_DEAD])
    keys = [f"in/{number}" for number in range(120)]
    try:
        async with opened_stage(fault_bed.minio, tmp_path, log=log) as stage:
            await stage.registry.create(function("first", stage.bucket))
            async with stage.running(hint=False, answer_s=1.0):
                await upload(stage, keys[:40])
                await (fault_bed.kafka.stop() if paused else fault_bed.kafka.kill())
                await upload(stage, keys[40:80])
                await stage.metric_is("webhook_requests_total", lambda count: count > 0, status="503")
                await (fault_bed.kafka.resume() if paused else fault_bed.kafka.start())
                await upload(stage, keys[80:])
                await stage.told(*keys)
            identities = Counter(event.identity for event in await stage.events())
            listed = {info.identity async for page in stage.store.list(stage.bucket) for info in page}
            assert set(identities) == listed
    finally:
        await log.close()


# The second target, which has no queue


async def delays(stage: Stage) -> list[float]:
    """Seconds from each upload's answer to its event in the log, in order of their size."""
    found: list[float] = []
    for number in range(UPLOADS):
        await stage.put(f"in/{number}")
        begin = time.perf_counter()
        await stage.told(f"in/{number}")
        found.append(time.perf_counter() - begin)
    return sorted(found)


async def test_a_second_target_tells_at_once_what_a_queue_tells_late(stage: Stage) -> None:
    async with stage.running(hint=False, quick_arn=stage.minio.QUICK_ARN):
        quick = await delays(stage)
        # The queue tells all of them too: nothing depends on the quick way.
        await stage.metric_is("repeats_total", lambda count: count >= UPLOADS)
    assert len(await stage.events()) == UPLOADS
    print(f"upload to log by the quick target: p50 {1000 * quick[UPLOADS // 2]:.0f} ms, most {1000 * quick[-1]:.0f} ms")  # noqa: T201
    assert quick[UPLOADS // 2] < 0.5, "a queue is looked at every few seconds; this way waits for nothing"


async def test_what_nobody_listened_to_comes_by_the_queue(stage: Stage) -> None:
    async with stage.running(hint=False, quick_arn=stage.minio.QUICK_ARN):
        await stage.put("in/before")
        await stage.told("in/before")
        await stage.minio.webhook.cut()
        await stage.put("in/unheard")
        await stage.minio.webhook.mend()
        await stage.told("in/unheard")
    assert [event.key for event in await stage.events()] == ["in/before", "in/unheard"]
