"""What most tests of the process runner stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.process_runner.support import Bench, process_bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with process_bench(tmp_path) as made:
        yield made
