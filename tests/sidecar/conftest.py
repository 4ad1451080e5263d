"""Buckets of each test's own in the bed's store."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.sidecar.pods import Shop, opened_shop
from tests.testbed.minio import Minio


@pytest.fixture
async def shop(minio: Minio, request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    number = abs(hash(request.node.nodeid)) % 10**10
    async with opened_shop(minio, f"pod-{number}") as made:
        yield made
