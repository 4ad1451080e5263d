"""What the second webhook target is for, on a real MinIO whose first one has a queue on disk: events at once by it, and
by the queue when nobody listens.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.testbed import Bed
from tests.watcher.stage import Stage, function, opened_stage

pytestmark = [pytest.mark.components, pytest.mark.slow]

UPLOADS = 40


@pytest.fixture
async def stage(fault_bed: Bed, tmp_path: Path) -> AsyncIterator[Stage]:
    """On a store of the test's own, since a queue is chosen before its first start."""
    fault_bed.minio.options.queue_events = True
    await fault_bed.minio.start()
    async with opened_stage(fault_bed.minio, tmp_path) as opened:
        await opened.registry.create(function("first", opened.bucket))
        yield opened


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
