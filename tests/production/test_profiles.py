"""A namespace that enforces the restricted Pod Security profile: an image that is not root works, a root one is refused
with that reason. All other tests on the node run under the baseline profile with a root image.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.model import ErrorClass, Phase
from tests.production.node import COPY, Bench, on_the_node
from tests.testbed.bed import Bed
from tests.testbed.images import PROJECT

pytestmark = [pytest.mark.components, pytest.mark.slow]

RESTRICTED = {"PENSTOCK_JOBS_RESTRICTED": "true"}


async def test_the_restricted_profile(bed: Bed, tmp_path: Path) -> None:
    async with on_the_node(bed, tmp_path, RESTRICTED, level="restricted") as platform:
        bench = Bench(platform, "plain")
        # Our own image as a user's: it runs as a number that is not root's.
        await bench.deploy(f"{COPY}; id -u >$TMP_OUTPUT_DIR/user", image=PROJECT)
        record = await bench.end()
        assert record.phase is Phase.SUCCEEDED, record.reason
        assert (await platform.get(bench.target, "user")).strip() == b"65532"
        root = Bench(platform, "root")
        await root.deploy()
        record = await root.end()
        assert (record.phase, record.error) == (Phase.DEAD, ErrorClass.UNSTARTABLE)
        assert "root" in record.reason


async def test_a_namespace_stricter_than_the_settings(bed: Bed, tmp_path: Path) -> None:
    """The cluster refuses such pods, and its words reach the user."""
    async with on_the_node(bed, tmp_path, level="restricted") as platform:
        bench = Bench(platform, "strict")
        name = await bench.deploy(image=PROJECT)
        await bench.put("a.txt")
        await bench.named("a.txt", "restricted")
        assert "restricted" in (await platform.function(name))["status"]["message"]
