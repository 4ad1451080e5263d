"""A platform with single sign-on for every test of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.live import own_state_folder, until
from tests.oscar.world import World, world_of

__all__ = ["own_state_folder", "until", "world"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path / "data") as world:
        yield world
