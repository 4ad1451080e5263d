"""The thin path: a function given with kubectl, files uploaded by a stock client, a Job for each, one success each."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.model import Phase
from tests.production.platform import eventually, installed, resource
from tests.testbed.bed import Bed

pytestmark = [pytest.mark.components, pytest.mark.slow]


async def test_uploads_become_jobs_and_each_succeeds_once(bed: Bed, tmp_path: Path) -> None:
    async with installed(bed, tmp_path, real=False) as platform:
        await bed.kwok.add_nodes(2, prefix=platform.mark)
        bucket = f"in-{platform.mark}"
        await platform.apply(resource("first", {"image": "any", "script": "true", "inputs": [{"bucket": bucket}]}))
        # The bucket is made by the platform, since nobody else has made it.
        await platform.ready("first")
        keys = [f"a/{number}" for number in range(20)]
        for key in keys:
            await platform.put(bucket, key)
        records = await platform.ended(bucket, keys)
        assert {record.phase for record in records.values()} == {Phase.SUCCEEDED}
        assert set(platform.history.successes().values()) == {1}

        async def shown() -> bool:
            return bool((await platform.function("first")).get("status", {}).get("succeeded") == len(keys))

        await eventually("kubectl get functions shows it", shown)
