"""No object is missed and none succeeds twice, whatever fails meanwhile: 2,000 uploads on simulated pods."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.production.chaos import JobCounter, all_faults, kinds, storm, upload, verdict
from tests.production.platform import Platform, eventually, installed, resource
from tests.testbed.bed import Bed
from tests.testbed.errors import MissingPart

pytestmark = [pytest.mark.components, pytest.mark.slow]

UPLOADS = 2000
FAULTS = 16


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    """A bed of the test's own, since every component is injured."""
    async with Bed() as bed:
        bed.kubernetes.options.fast_controllers = True
        try:
            await bed.start("minio", "kafka", "kubernetes", "kwok")
        except MissingPart as missing:
            pytest.skip(str(missing))
        async with installed(bed, tmp_path, real=False) as made:
            await bed.kwok.add_nodes(10, prefix=made.mark)
            yield made


async def test_two_thousand_uploads_under_faults(platform: Platform) -> None:
    await platform.start("dispatcher")  # a standby
    bucket = f"in-{platform.mark}"
    spec = {
        "image": "any",
        "script": "true",
        "inputs": [{"bucket": bucket}],
        "batch": {"mode": "list", "max_items": 10, "linger_s": 0.5},
    }
    await platform.apply(resource("storm", spec))

    async def ready() -> bool:
        return bool((await platform.function("storm")).get("status", {}).get("state") == "Ready")

    await eventually("the function is ready", ready)
    keys = [f"{number % 10}/{number:05d}" for number in range(UPLOADS)]
    counter = JobCounter(platform)
    counting = asyncio.create_task(counter.run(), name="job counter")
    seed = random.randrange(2**32)
    try:
        uploading = asyncio.create_task(upload(platform, bucket, keys, pause_s=0.15), name="uploads")
        done = await storm(all_faults(platform), count=FAULTS, seed=seed)
        await uploading
        await platform.ended(bucket, keys, seconds=600)
        count = await verdict(platform, bucket, keys, len(done), counter)
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
    told = f"seed {seed}: {kinds(done)}"
    assert count.lost == [], told
    assert count.double == [], told
    assert count.listed == count.succeeded == count.uploads == UPLOADS, told
    assert count.extra_jobs == 0, told
