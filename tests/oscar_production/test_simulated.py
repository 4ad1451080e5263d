"""OSCAR's own Python client, unmodified from its registry, against production with simulated pods, which all succeed:
everything that needs no output of a script.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oscar_production.support import program
from tests.production.platform import installed
from tests.testbed import versions
from tests.testbed.bed import Bed
from tests.testbed.errors import MissingPart

pytestmark = [pytest.mark.components, pytest.mark.slow]

STEPS = ("cluster", "services", "list_of_jobs", "stored", "buckets", "rest", "end")


async def test_every_method_that_needs_no_script(bed: Bed, tmp_path: Path) -> None:
    try:
        await bed.start("minio", "kafka", "kubernetes", "kwok")
    except MissingPart as missing:
        pytest.skip(str(missing))
    async with installed(bed, tmp_path, real=False) as platform:
        nodes = await bed.kwok.add_nodes(1, prefix=platform.mark)
        try:
            gateway = await platform.start("gateway")
            await gateway.ready()
            for version in versions.OSCAR_PYTHON:
                folder = tmp_path / f"program-{version}"
                took = await program(platform, gateway.address, version, folder, steps=STEPS)
                assert tuple(took) == STEPS, version
        finally:
            # Tests of the real node on the same bed want their pods there.
            await bed.kwok.remove_nodes(nodes)
