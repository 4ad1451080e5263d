"""MinIO for tests that open stores without fixtures: the contract suite, and benchmarks.

One server, started when first asked for and ended with the process. Each folder that a store is opened on stands for a
fresh set of buckets: the first opening empties the server, a second one on the same folder finds what the first left.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.s3 import Credentials, S3Config, S3Store
from penstock.adapters.s3.client import Ask
from penstock.adapters.s3.trouble import Target, Wish
from penstock.model import ObjectInfo
from penstock.ports import ObjectStore
from tests.testbed import Bed
from tests.testbed.errors import MissingPart
from tests.testbed.minio import Minio

_OPENED = "opened"


@cache
def shared_minio() -> Minio:
    bed = Bed()
    # Executors have ended by then, so the bed's own close, which uses them, comes too late.
    atexit.register(bed._release)
    try:
        bed.run(bed.start("minio"))
    except MissingPart as missing:
        pytest.skip(str(missing))
    return bed.minio


def config_of(minio: Minio, *, direct: bool = False, **settings: Any) -> S3Config:
    """`direct` spares the wire that faults act on."""
    url = f"http://{minio.direct}" if direct else minio.url
    return S3Config(endpoint=url, credentials=Credentials(minio.user, minio.password), **settings)


@contextlib.asynccontextmanager
async def opened(minio: Minio, *, direct: bool = False, **settings: Any) -> AsyncIterator[S3Store]:
    store = S3Store(config_of(minio, direct=direct, **settings))
    try:
        yield store
    finally:
        await store.close()


async def empty(store: S3Store) -> None:
    """Delete all buckets with all that is in them, by MinIO's own header for that."""
    for bucket in await store.buckets():
        target = Target(Wish.DELETED, bucket)
        await store.client.call(Ask("DELETE", target, headers={"x-minio-force-delete": "true"}))


@contextlib.asynccontextmanager
async def minio_store(folder: Path) -> AsyncIterator[ObjectStore]:
    """A factory for the contract suite."""
    minio = await asyncio.to_thread(shared_minio)
    async with opened(minio, direct=True) as store:
        if not await asyncio.to_thread((folder / _OPENED).exists):
            await empty(store)
            await asyncio.to_thread((folder / _OPENED).mkdir, parents=True)
        yield store


async def every(pages: AsyncIterator[list[ObjectInfo]]) -> list[ObjectInfo]:
    return [info async for page in pages for info in page]


async def content(store: S3Store, bucket: str, key: str, version_id: str | None = None) -> bytes:
    return b"".join([chunk async for chunk in store.read(bucket, key, version_id=version_id)])


async def pieces(data: bytes, size: int = 300_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def uploads_left(store: S3Store, bucket: str, key: str) -> int:
    """Unfinished multipart uploads of a key."""
    query = (("uploads", ""), ("prefix", key))
    answer = await store.client.call(Ask("GET", Target(Wish.LISTED, bucket), query=query))
    return answer.body.count(b"<UploadId>")
