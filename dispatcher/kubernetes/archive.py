"""Output of items whose pod is gone: what `output` archived in the platform's bucket, one object per attempt."""

from __future__ import annotations

from collections.abc import AsyncIterator

from penstock.errors import NotFound
from penstock.model import SYSTEM_BUCKET
from penstock.model.objects import log_key
from penstock.ports import ObjectStore


async def newest_attempt(store: ObjectStore, invocation: str) -> int:
    """The highest attempt with an archived log, 0 = there is none. Raises Unavailable."""
    attempts = [0]
    async for page in store.list(SYSTEM_BUCKET, f"logs/{invocation}/"):
        for info in page:
            word = info.key.rpartition("/")[2].removesuffix(".log")
            attempts += [int(word)] if word.isdigit() else []
    return max(attempts)


async def archived_log(
    store: ObjectStore, invocation: str, attempt: int = 0, *, offset: int = 0
) -> AsyncIterator[bytes]:
    """The archived output of an attempt (0 = the newest) from a byte offset. Raises NotFound, Unavailable."""
    attempt = attempt or await newest_attempt(store, invocation)
    if not attempt:
        raise NotFound(f"there is no output of the item {invocation}: it has not run, or its history has expired")
    key = log_key(invocation, attempt)
    if offset and (await store.head(SYSTEM_BUCKET, key)).size <= offset:
        return
    async for chunk in store.read(SYSTEM_BUCKET, key, start=offset):
        yield chunk
