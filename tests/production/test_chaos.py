"""No object is missed and none succeeds twice, whatever fails meanwhile: 2,000 uploads on simulated pods."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.production.chaos import trial
from tests.production.platform import Platform, installed
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
    done = await trial(platform, uploads=UPLOADS, faults=FAULTS, per_job=10, pause_s=0.15, patience_s=600)
    count, told = done.counted, done.told
    assert count.lost == [], told
    assert count.double == [], told
    assert count.listed == count.succeeded == count.uploads == UPLOADS, told
    assert count.extra_jobs == 0, told
