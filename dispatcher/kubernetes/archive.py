"""Output of items whose pod is gone: what `output` archived in the platform's bucket, one object per attempt."""

from __future__ import annotations

from collections.abc import AsyncIterator

from penstock.model import SYSTEM_BUCKET
from penstock.ports import ObjectStore


async def archived_log(store: ObjectStore, key: str, *, offset: int = 0) -> AsyncIterator[bytes]:
    """The archived output of an attempt from a byte offset; `key` is its `log_key`. Raises NotFound, Unavailable."""
    if offset and (await store.head(SYSTEM_BUCKET, key)).size <= offset:
        return
    async for chunk in store.read(SYSTEM_BUCKET, key, start=offset):
        yield chunk
