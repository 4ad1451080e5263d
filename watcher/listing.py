"""How the reconciler sees a bucket: what is in it now, or, where old versions are kept, every version.

An event tells of one version. So where the store keeps versions, a listing has to tell of all of them, or a version
that was overwritten before anybody looked would never be found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Protocol, cast

from penstock.adapters.s3 import S3Store
from penstock.errors import NotFound, PenstockError
from penstock.model import ObjectInfo
from penstock.ports import ObjectStore
from watcher.seen import Stale, digest

#: Vanished objects looked at between two turns of the event loop.
_SLICE = 50


class Listing(Protocol):
    def pages(self, bucket: str, prefix: str) -> AsyncIterator[list[ObjectInfo]]:
        """Pages in the order of keys; all versions of one key are on one page. Raises what `ObjectStore.list` does."""
        ...

    async def gone(self, bucket: str, prefix: str, stale: Sequence[Stale], *, after: str) -> list[Stale]:
        """Of remembered versions with keys after `after` that a page did not have, those that are not there now: some
        may have been published after the page was read. One that cannot be looked for counts as there.
        """
        ...


class CurrentObjects:
    """What is there now, by any store. A listing may leave out files being written, so each is looked at."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def pages(self, bucket: str, prefix: str) -> AsyncIterator[list[ObjectInfo]]:
        return self._store.list(bucket, prefix)

    async def gone(self, bucket: str, prefix: str, stale: Sequence[Stale], *, after: str) -> list[Stale]:  # noqa: ARG002 - the protocol's
        found: list[Stale] = []
        for turn, item in enumerate(stale):
            if turn % _SLICE == 0:
                await asyncio.sleep(0)
            try:
                info = await self._store.head(bucket, item.key)
            except NotFound:
                found.append(item)
            except PenstockError:
                continue  # could not look is not gone
            else:
                if digest(info.identity) != item.digest:
                    found.append(item)
        return found


class StoredVersions:
    """Every version of an S3 store, in buckets that keep them."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    async def pages(self, bucket: str, prefix: str, *, after: str = "") -> AsyncIterator[list[ObjectInfo]]:
        versioned = await self._store.versioned(bucket)
        read = self._store.list_versions if versioned else self._store.list
        held: list[ObjectInfo] = []
        async for page in read(bucket, prefix, after=after):
            held += page
            # The versions of the last key may go on on the next page.
            cut = (
                next((index for index, info in enumerate(held) if info.key == held[-1].key), 0)
                if versioned
                else len(held)
            )
            if cut:
                yield held[:cut]
            held = held[cut:]
        if held:
            yield held

    async def gone(self, bucket: str, prefix: str, stale: Sequence[Stale], *, after: str) -> list[Stale]:
        """Lists that part once more: one request for a thousand keys, where looking at each takes two for one."""
        if not stale:
            return []
        last = stale[-1].key.encode("utf-8", "surrogateescape")
        there: set[bytes] = set()
        try:
            pages = cast("AsyncGenerator[list[ObjectInfo], None]", self.pages(bucket, prefix, after=after))
            async with aclosing(pages):
                async for page in pages:
                    there.update(digest(info.identity) for info in page)
                    if page[-1].key.encode() > last:
                        break
        except PenstockError:
            return []
        return [item for item in stale if item.digest not in there]
