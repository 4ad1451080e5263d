"""What a deployment is about to make, written down first, so that one broken off at any step leaves nothing behind.

Buckets are made before the definition that needs them. An intent names those that this deployment makes itself; it is
removed when the definition is stored. One that stays behind was cut off: buckets that a stored definition uses are
kept, the others are removed if they are still empty.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import msgspec
import structlog

from gateway.bucket_book import BucketBook
from gateway.permits import buckets_of
from penstock.clock import now_ms
from penstock.errors import Conflict, NotFound, PenstockError
from penstock.model import SYSTEM_BUCKET
from penstock.ports import ObjectStore, Registry

log = structlog.get_logger("gateway.intents")

PREFIX = "gateway/intents/"
#: A deployment takes seconds; one whose intent is this old was cut off.
ABANDONED_S = 900.0


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    buckets: tuple[str, ...]
    #: Zero-byte objects that show the folders, (bucket, key).
    markers: tuple[tuple[str, str], ...] = ()
    made_ms: int


class Intents:
    def __init__(self, *, store: ObjectStore, registry: Registry, book: BucketBook) -> None:
        self._store = store
        self._registry = registry
        self._book = book

    @asynccontextmanager
    async def making(self, buckets: Iterable[str], markers: Iterable[tuple[str, str]] = ()) -> AsyncIterator[None]:
        """The block makes these buckets and then whatever needs them; if it fails, they are undone at once."""
        intent = Intent(buckets=tuple(buckets), markers=tuple(markers), made_ms=now_ms())
        if not intent.buckets and not intent.markers:
            yield
            return
        key = f"{PREFIX}{secrets.token_hex(16)}"
        await self._store.create_bucket(SYSTEM_BUCKET)
        await self._store.write(SYSTEM_BUCKET, key, msgspec.json.encode(intent))
        try:
            yield
        except PenstockError:
            await self._settle(key, intent)
            raise
        await self._store.delete(SYSTEM_BUCKET, key)

    async def recover(self, now: int, *, older_s: float = ABANDONED_S) -> int:
        """Complete or undo what was cut off; returns how many. Raises Unavailable."""
        settled = 0
        async for page in self._store.list(SYSTEM_BUCKET, PREFIX):
            for info in page:
                intent = await self._read(info.key)
                if intent is not None and intent.made_ms <= now - older_s * 1000:
                    await self._settle(info.key, intent)
                    settled += 1
        return settled

    async def _read(self, key: str) -> Intent | None:
        try:
            data = b"".join([part async for part in self._store.read(SYSTEM_BUCKET, key)])
            return msgspec.json.decode(data, type=Intent)
        except NotFound:
            return None
        except msgspec.DecodeError as error:
            log.error("an intent cannot be read and is left", action="bad_intent", key=key, error=str(error))
            return None

    async def _settle(self, key: str, intent: Intent) -> None:
        functions = await self._registry.list()
        used = {bucket for function in functions for bucket in buckets_of(function)}
        needed = {(entry.bucket, entry.key_prefix) for one in functions for entry in (*one.inputs, *one.outputs)}
        for bucket, marker in intent.markers:
            if (bucket, marker) not in needed:
                await self._drop_marker(bucket, marker)
        for bucket in intent.buckets:
            if bucket not in used:
                await self._undo(bucket)
        await self._store.delete(SYSTEM_BUCKET, key)

    async def _drop_marker(self, bucket: str, marker: str) -> None:
        try:
            if (await self._store.head(bucket, marker)).size == 0:
                await self._store.delete(bucket, marker)
        except NotFound:
            return

    async def _undo(self, bucket: str) -> None:
        try:
            await self._store.delete_bucket(bucket)
        except Conflict:
            return  # somebody put something into it: it is wanted
        except NotFound:
            pass  # it was never made, or somebody removed it
        await self._book.drop(bucket)
        log.info("a bucket of a deployment that failed was removed", action="undone", bucket=bucket)
