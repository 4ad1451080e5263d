"""Whose each bucket is, and who else may use it: one small object per bucket in the platform's own bucket.

The object store itself knows only accounts. These entries are what every route asks, on every verb; a bucket without
one (made by hand, or by the platform's operator) is the administrator's own.
"""

from __future__ import annotations

import msgspec
import structlog

from gateway.access import ADMIN, Caller
from penstock.errors import AlreadyExists, Corrupt, Forbidden, NotFound
from penstock.model import SYSTEM_BUCKET
from penstock.model.buckets import legal_bucket
from penstock.ports import ObjectStore

log = structlog.get_logger("gateway.buckets")

PREFIX = "gateway/buckets/"


class BucketEntry(msgspec.Struct, frozen=True, kw_only=True):
    owner: str = ADMIN
    owner_name: str = "oscar"
    visibility: str = "private"
    allowed_users: tuple[str, ...] = ()
    #: The function that it was made for, "" = made by itself.
    from_service: str = ""
    created_ms: int = 0


_UNKNOWN = BucketEntry()


def may_manage(caller: Caller, entry: BucketEntry) -> bool:
    return caller.admin or (bool(caller.uid) and caller.uid == entry.owner)


def may_read(caller: Caller, entry: BucketEntry) -> bool:
    """List, get, put."""
    if may_manage(caller, entry) or not caller.uid:
        return may_manage(caller, entry)
    return entry.visibility == "public" or may_delete(caller, entry)


def may_delete(caller: Caller, entry: BucketEntry) -> bool:
    """Objects, not the bucket. In a public bucket nobody deletes what others put there."""
    listed = entry.visibility == "restricted" and bool(caller.uid) and caller.uid in entry.allowed_users
    return may_manage(caller, entry) or listed


class BucketBook:
    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._known: dict[str, tuple[str, BucketEntry]] = {}

    async def get(self, bucket: str) -> BucketEntry:
        """The entry, or the administrator's default. Raises NotFound for what can be no bucket, Corrupt."""
        if not legal_bucket(bucket):
            raise NotFound(f"there is no bucket {bucket[:80]!r}: such a name is impossible")
        try:
            info = await self._store.head(SYSTEM_BUCKET, f"{PREFIX}{bucket}")
        except NotFound:
            self._known.pop(bucket, None)
            return _UNKNOWN
        return await self._read(bucket, f"{info.etag} {info.modified_ms}")

    async def all(self) -> dict[str, BucketEntry]:
        """Every entry, by bucket."""
        found: dict[str, BucketEntry] = {}
        async for page in self._store.list(SYSTEM_BUCKET, PREFIX):
            for info in page:
                bucket = info.key[len(PREFIX) :]
                found[bucket] = await self._read(bucket, f"{info.etag} {info.modified_ms}")
        return found

    async def _read(self, bucket: str, version: str) -> BucketEntry:
        known = self._known.get(bucket)
        if known is not None and known[0] == version:
            return known[1]
        try:
            data = b"".join([part async for part in self._store.read(SYSTEM_BUCKET, f"{PREFIX}{bucket}")])
            entry = msgspec.json.decode(data, type=BucketEntry)
        except NotFound:
            return _UNKNOWN
        except msgspec.DecodeError as error:
            raise Corrupt(f"the entry of the bucket {bucket} cannot be read: {error}") from error
        self._known[bucket] = (version, entry)
        return entry

    async def put(self, bucket: str, entry: BucketEntry) -> None:
        await self._store.create_bucket(SYSTEM_BUCKET)
        await self._store.write(SYSTEM_BUCKET, f"{PREFIX}{bucket}", msgspec.json.encode(entry))
        self._known.pop(bucket, None)

    async def claim(self, bucket: str, entry: BucketEntry) -> None:
        """Enter a bucket that is about to be made. Raises AlreadyExists: somebody else claimed it first."""
        await self._store.create_bucket(SYSTEM_BUCKET)
        try:
            await self._store.write(SYSTEM_BUCKET, f"{PREFIX}{bucket}", msgspec.json.encode(entry), if_absent=True)
        except AlreadyExists as error:
            if (await self.get(bucket)).owner != entry.owner:
                raise AlreadyExists(f"the bucket {bucket} belongs to somebody else; choose another name") from error

    async def drop(self, bucket: str) -> None:
        await self._store.delete(SYSTEM_BUCKET, f"{PREFIX}{bucket}")
        self._known.pop(bucket, None)

    # ---- for handlers

    async def readable(self, caller: Caller, bucket: str) -> BucketEntry:
        """Raises Forbidden."""
        return _permitted(caller, bucket, entry := await self.get(bucket), may_read(caller, entry))

    async def deletable(self, caller: Caller, bucket: str) -> BucketEntry:
        """Raises Forbidden."""
        return _permitted(caller, bucket, entry := await self.get(bucket), may_delete(caller, entry))

    async def managed(self, caller: Caller, bucket: str) -> BucketEntry:
        """Raises Forbidden."""
        return _permitted(caller, bucket, entry := await self.get(bucket), may_manage(caller, entry))


def _permitted(caller: Caller, bucket: str, entry: BucketEntry, allowed: bool) -> BucketEntry:
    if bucket == SYSTEM_BUCKET:
        raise Forbidden(f"the bucket {SYSTEM_BUCKET} is the platform's own and is not served")
    if not allowed:
        raise Forbidden(f"the bucket {bucket} is not yours: ask its owner to share it with you ({caller.user})")
    return entry
