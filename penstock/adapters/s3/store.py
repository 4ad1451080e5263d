"""The `ObjectStore` port over S3: every method of the contract, each a few lines over the modules beside it.

What S3 does not tell is looked up so that the contract holds: the modification time of what was just written comes from
a listing of its key, since no answer to a write has it. `put` is for callers that need no identity and saves that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec

from penstock.adapters.s3 import downloads, names, sources, trouble, wire
from penstock.adapters.s3.body import of_bytes
from penstock.adapters.s3.client import Ask, Client
from penstock.adapters.s3.config import S3Config
from penstock.adapters.s3.downloads import Part
from penstock.adapters.s3.folders import Folders
from penstock.adapters.s3.listings import Listings, agree
from penstock.adapters.s3.trouble import Target, Wish, code_of
from penstock.adapters.s3.uploads import Uploads, Write, Written
from penstock.errors import Conflict, InvalidInput, NotFound, PenstockError
from penstock.model import ObjectInfo
from penstock.model.buckets import check_bucket, legal_bucket
from penstock.ports import StoreCapabilities

#: Reading less than this in place is cheaper than a hop to a thread.
_SMALL = 256 * 1024
_ENABLE = (
    b'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status>'
    b"</VersioningConfiguration>"
)


class S3Store:
    """An `ObjectStore` over one S3 endpoint. Made anywhere; belongs to the event loop of its first call."""

    def __init__(self, config: S3Config) -> None:
        """Raises InvalidInput for an endpoint or a file of authorities that cannot be used."""
        self.client = Client(config)
        self.capabilities = StoreCapabilities(
            versions=config.versioned,
            any_key=config.any_key,
            max_key_bytes=names.MAX_KEY_BYTES,
            max_part_bytes=names.MAX_KEY_BYTES if config.any_key else names.MAX_PART_BYTES,
            metadata=True,
            moves=False,
            text_keys_only=True,
            folder_markers=True,
        )
        self._config = config
        self._listings = Listings(self.client)
        self._uploads = Uploads(self.client, self._listings)
        self._folders = Folders(self._listings) if not config.any_key else None

    # Buckets

    async def create_bucket(self, bucket: str) -> bool:
        check_bucket(bucket)
        # AWS answers 200 for a bucket that is there, others 409: looked at first, so that the answer is the same.
        made = not await self._listings.exists(bucket) and await self._create(bucket)
        if self._config.versioned:
            await self.enable_versioning(bucket)
        return made

    async def _create(self, bucket: str) -> bool:
        region = self._config.region
        text = (
            ""
            if region == "us-east-1"
            else '<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><LocationConstraint>'
            f"{region}</LocationConstraint></CreateBucketConfiguration>"
        )
        body = await of_bytes(text.encode(), secure=self.client.endpoint.secure)
        try:
            await self.client.call(Ask("PUT", Target(Wish.WRITTEN, bucket), body=body))
        except Conflict as error:
            if code_of(error) == "BucketAlreadyOwnedByYou":
                return False
            raise
        return True

    async def enable_versioning(self, bucket: str) -> None:
        """From now on old versions are kept. Raises NotFound, Unsupported."""
        body = await of_bytes(_ENABLE, secure=self.client.endpoint.secure)
        query = (("versioning", ""),)
        await self.client.call(Ask("PUT", Target(Wish.CHANGED, bucket), query=query, body=body))

    async def versioned(self, bucket: str) -> bool:
        """Whether the bucket keeps, or once kept, old versions. Raises NotFound."""
        return await self._listings.versioned(bucket)

    async def buckets(self) -> list[str]:
        found: list[str] = []
        query: tuple[tuple[str, str], ...] = ()
        while True:
            answer = await self.client.call(Ask("GET", Target(Wish.LISTED, ""), query=query))
            some, token = wire.bucket_names(answer.body)
            found += some
            if token is None:
                return sorted(found)
            query = (("continuation-token", token),)

    async def delete_bucket(self, bucket: str) -> None:
        self._check_bucket(bucket)
        await self.client.call(Ask("DELETE", Target(Wish.DELETED, bucket)))

    # Looking

    async def head(self, bucket: str, key: str, *, version_id: str | None = None) -> ObjectInfo:
        self._check(Target(Wish.READ, bucket, key, version_id))
        return await self._listings.head(bucket, key, version_id)

    async def list_versions(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncIterator[list[ObjectInfo]]:
        """Pages of every version, old ones too, the newest of each key first; else as `list`."""
        self._check_bucket(bucket)
        async for page in self._listings.versions(bucket, prefix, after):
            yield page

    async def list(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncIterator[list[ObjectInfo]]:
        self._check_bucket(bucket)
        async for page in self._listings.current(bucket, prefix, after):
            yield page

    # Reading

    async def read(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        start: int = 0,
        length: int | None = None,
    ) -> AsyncIterator[bytes]:
        if start < 0 or (length is not None and length < 0):
            raise InvalidInput(f"start {start} and length {length} must not be negative")
        self._check(Target(Wish.READ, bucket, key, version_id))
        if length == 0:
            await self._listings.seen(bucket, key, version_id)
            return
        part = Part(bucket, key, version_id, start, None if length is None else start + length)
        async with contextlib.aclosing(downloads.read(self.client, part)) as found:
            async for data in found:
                yield data

    async def fetch(self, info: ObjectInfo, target: Path) -> None:
        self._check(Target(Wish.READ, info.bucket, info.key, info.version_id))
        await downloads.fetch(self.client, self._listings, info, target)

    # Writing

    async def write(
        self,
        bucket: str,
        key: str,
        data: AsyncIterator[bytes] | bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        write = Write.of(bucket, key, metadata, if_absent=if_absent)
        await self._check_folders(write)
        size, written = await self._send(write, data)
        return await self._info(write, written, size, metadata)

    async def put(
        self,
        bucket: str,
        key: str,
        data: AsyncIterator[bytes] | bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> Written:
        """As `write` for a third of the requests: only etag and version are known afterwards, and whether the key is a
        folder of others is not looked at, so it is for keys whose form the platform itself decides.
        """
        write = Write.of(bucket, key, metadata, if_absent=if_absent)
        self._check(write.target)
        return (await self._send(write, data))[1]

    async def _send(self, write: Write, data: AsyncIterator[bytes] | bytes) -> tuple[int, Written]:
        secure, least = self.client.endpoint.secure, self._config.part_bytes
        if isinstance(data, bytes):
            if len(data) <= least:
                return len(data), await self._uploads.put(write, await of_bytes(data, secure=secure))
            parts = sources.of_bytes(data, least, secure=secure)
            return len(data), await self._uploads.multipart(write, parts)
        stream = sources.Stream(data)
        first = await stream.take(least)
        if not await stream.more():
            return len(first), await self._uploads.put(write, await of_bytes(first, secure=secure))
        written = await self._uploads.multipart(write, sources.of_stream(first, stream, least, secure=secure))
        return stream.taken, written

    async def publish(
        self,
        source: Path,
        bucket: str,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        consume: bool = False,
    ) -> ObjectInfo:
        """A file that changes meanwhile raises Conflict."""
        write = Write.of(bucket, key, metadata)
        await self._check_folders(write)
        size, written = await self._send_file(write, source)
        info = await self._info(write, written, size, metadata)
        if consume:
            with contextlib.suppress(OSError):  # published already; the caller removes what it made
                source.unlink()  # noqa: ASYNC240 - one system call, quicker than a hop to a thread
        return info

    async def _send_file(self, write: Write, source: Path) -> tuple[int, Written]:
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return await self._send_open_file(write, source, descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise NotFound(f"the file {source} cannot be read: {error.strerror}") from error

    async def _send_open_file(self, write: Write, source: Path, descriptor: int) -> tuple[int, Written]:
        secure, least = self.client.endpoint.secure, self._config.part_bytes
        before = os.fstat(descriptor)

        def check() -> None:
            sources.check_same(before, os.fstat(descriptor), source)

        try:
            if before.st_size <= least:
                # One byte more than announced, so that growth shows as a difference instead of being cut off.
                data = await _pread(descriptor, before.st_size + 1)
                check()
                return len(data), await self._uploads.put(write, await of_bytes(data, secure=secure))
            parts = sources.of_file(descriptor, before.st_size, least, secure=secure)
            return before.st_size, await self._uploads.multipart(write, parts, check)
        except (EOFError, PenstockError):
            check()  # the likelier reason for whatever went wrong
            raise

    async def _info(self, write: Write, written: Written, size: int, metadata: Mapping[str, str] | None) -> ObjectInfo:
        """What was written, as a listing tells it. Where it was replaced already, the time of the answer stands in."""
        listed = await self._listed(write, written)
        if listed is None:
            moment = written.answered_s * 1000
            listed = ObjectInfo(
                bucket=write.bucket, key=write.key, etag=written.etag, size=size, modified_ms=moment, arrived_ms=moment
            )
        return msgspec.structs.replace(listed, version_id=written.version_id, metadata=dict(metadata or {}))

    async def _listed(self, write: Write, written: Written) -> ObjectInfo | None:
        listed = await self._listings.entry(write.bucket, write.key)
        same = listed is not None and listed.etag == written.etag
        if written.version_id is None:
            return listed if same else None
        if same and listed is not None:
            # It was the current version before this listing; if it is still, the listing is of it.
            with contextlib.suppress(NotFound):
                seen = await self._listings.seen(write.bucket, write.key)
                if seen.version_id == written.version_id and agree(seen, listed):
                    return listed
        return await self._listings.version(write.bucket, write.key, written.version_id)

    async def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> None:
        target = Target(Wish.DELETED, bucket, key, version_id)
        self._check_bucket(bucket)
        query = () if version_id is None else (("versionId", version_id),)
        try:
            self._check(target)
            await self.client.call(Ask("DELETE", target, key, query=query))
        except NotFound as error:
            if code_of(error) == "NoSuchBucket":
                raise
            if code_of(error) not in {"NoSuchKey", "NoSuchVersion"}:  # the bucket may not have been looked at
                await self._listings.check_exists(bucket)

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self.client.close()

    # Names

    def _check_bucket(self, bucket: str) -> None:
        if not legal_bucket(bucket):
            raise NotFound(f"there is no bucket {bucket!r}: such a name is impossible")

    async def _check_folders(self, write: Write) -> None:
        """Raises Unsupported."""
        self._check(write.target)
        if self._folders is not None:
            await self._folders.check(write.bucket, write.key)

    def _check(self, target: Target) -> None:
        """Raises NotFound (bucket; when reading also for impossible keys) and Unsupported (key, when writing)."""
        self._check_bucket(target.bucket)
        if why := names.objection(target.key, any_key=self._config.any_key):
            raise trouble.impossible(why, target)


async def _pread(descriptor: int, size: int) -> bytes:
    if size <= _SMALL:
        return os.pread(descriptor, size, 0)
    return await asyncio.to_thread(os.pread, descriptor, size, 0)
