"""One installation per test, on servers of this folder's own: hundreds of Jobs want a controller manager that is not
held to 20 requests a second.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.dispatcher_service.support import NODE_LABEL, Stage, staged
from tests.testbed.bed import Bed
from tests.testbed.fixtures import begin


@pytest.fixture(scope="package")
def stage_bed() -> Iterator[Bed]:
    """With simulated nodes whose pods end well by themselves."""
    bed = Bed()
    try:
        bed.kubernetes.options.fast_controllers = True
        for name in ("minio", "kafka", "kwok"):
            begin(bed, name)
        bed.run(bed.kwok.add_nodes(3, prefix="stage", pods=500, cpu="500", memory="2000Gi", labels=NODE_LABEL))
        yield bed
    finally:
        bed.close()


@pytest.fixture
async def stage(stage_bed: Bed, tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(stage_bed, tmp_path) as made:
        yield made
