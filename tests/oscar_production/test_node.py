"""OSCAR's own Python client, unmodified from its registry, against production on a real node: the whole program that
embedded mode runs, with scripts in pods, files that go to the store directly, and synchronous runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.oscar_production.support import program
from tests.production.node import on_the_node
from tests.production.platform import Platform
from tests.testbed import versions
from tests.testbed.bed import Bed
from tests.testbed.images import BUSYBOX

pytestmark = [pytest.mark.components, pytest.mark.slow, pytest.mark.endurance, pytest.mark.asyncio(loop_scope="module")]


class Place(NamedTuple):
    platform: Platform
    gateway: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with on_the_node(bed, tmp_path_factory.mktemp("oscar-node")) as platform:
        gateway = await platform.start("gateway")
        await gateway.ready()
        yield Place(platform, gateway.address)


@pytest.mark.parametrize("version", versions.OSCAR_PYTHON)
async def test_every_method_that_its_documentation_shows(place: Place, tmp_path: Path, version: str) -> None:
    took = await program(place.platform, place.gateway, version, tmp_path / "program", image=BUSYBOX)
    assert took[-1] == "end"
    assert {"runs", "jobs", "files"} <= set(took)
