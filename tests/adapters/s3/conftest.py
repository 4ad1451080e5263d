"""A MinIO with a bucket of the test's own, and a store on it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from penstock.adapters.s3 import S3Store
from tests.adapters.s3.support import opened, shared_minio
from tests.testbed.minio import Minio

_numbers = itertools.count()


@pytest.fixture(scope="session")
def minio() -> Minio:
    return shared_minio()


@pytest.fixture
async def store(minio: Minio) -> AsyncIterator[S3Store]:
    async with opened(minio, direct=True) as made:
        yield made


@pytest.fixture
async def bucket(store: S3Store) -> str:
    """A new bucket; the server ends with the run, so nobody empties it."""
    name = f"bucket-{next(_numbers)}"
    assert await store.create_bucket(name)
    return name
