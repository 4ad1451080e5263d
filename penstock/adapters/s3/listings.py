"""Listings and single looks: the two places where a store tells about objects, brought to one value.

A listing has modification times in milliseconds, a HEAD only in seconds, and the identity of an unversioned object
needs the former. So a look at one object is a HEAD and a listing of exactly that key, taken so that both speak of one
version. The listing is cheap: MinIO does not walk the folder for a prefix that is a key when one entry is wanted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from penstock.adapters.s3 import etags, metadata, wire
from penstock.adapters.s3.client import Answer, Ask, Client
from penstock.adapters.s3.names import byte_order, listing_start
from penstock.adapters.s3.trouble import BAD_NAME_CODES, Target, Wish, code_of
from penstock.adapters.s3.wire import Seen
from penstock.errors import Conflict, InvalidInput, NotFound, Unsupported
from penstock.model import ObjectInfo

PAGE = 1000
#: An object that is replaced this often while it is looked at has no version worth naming.
_LOOKS = 10

Query = tuple[tuple[str, str], ...]


class Listings:
    """Reads names, times and versions. All methods raise what `trouble.translate` says."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def versioned(self, bucket: str) -> bool:
        """Whether the bucket keeps or once kept versions, so that objects may have version ids."""
        ask = Ask("GET", Target(Wish.LISTED, bucket), query=(("versioning", ""),))
        try:
            answer = await self._client.call(ask)
        except Unsupported:
            return False
        return wire.texts(wire.parse(answer.body)).get("Status", "") in {"Enabled", "Suspended"}

    async def exists(self, bucket: str) -> bool:
        try:
            await self._client.call(Ask("HEAD", Target(Wish.LISTED, bucket)))
        except NotFound:
            return False
        return True

    async def check_exists(self, bucket: str) -> None:
        """Raises NotFound."""
        await self._client.call(Ask("HEAD", Target(Wish.LISTED, bucket)))

    async def current(self, bucket: str, prefix: str, after: str) -> AsyncIterator[list[ObjectInfo]]:
        """Pages of the current objects, with version ids where there are any."""
        if await self.versioned(bucket):
            pages = self.versions(bucket, prefix, after, latest=True)
        else:
            pages = self._pages(bucket, prefix, after, (("list-type", "2"),), "start-after")
        async for page in pages:
            yield page

    async def versions(
        self, bucket: str, prefix: str, after: str, *, latest: bool = False
    ) -> AsyncIterator[list[ObjectInfo]]:
        """Pages of all versions, the newest of each key first, delete markers left out; pages may be short."""
        async for page in self._pages(bucket, prefix, after, (("versions", ""),), "key-marker", latest=latest):
            yield page

    async def _pages(
        self, bucket: str, prefix: str, after: str, kind: Query, marker: str, *, latest: bool = False
    ) -> AsyncIterator[list[ObjectInfo]]:
        start = listing_start(prefix, after)
        if start is None:
            await self.check_exists(bucket)
            return
        common = (*kind, ("encoding-type", "url"), ("max-keys", str(PAGE)), *_given("prefix", prefix))
        more: Query | None = _given(marker, start)
        target = Target(Wish.LISTED, bucket)
        floor = byte_order(after) if after and after != start else b""
        while more is not None:
            answer = await self._answer(Ask("GET", target, query=(*common, *more)))
            if answer is None:
                return
            if kind[0][0] == "versions":
                page = wire.versions_page(bucket, answer.body, latest=latest)
            else:
                page = wire.objects_page(bucket, answer.body)
            found = [one for one in page.objects if byte_order(one.key) > floor] if floor else page.objects
            if found:
                yield found
            more = page.next

    async def _answer(self, ask: Ask) -> Answer | None:
        """None = no key can have such a prefix, says the store."""
        try:
            return await self._client.call(ask)
        except NotFound as error:
            if code_of(error) in BAD_NAME_CODES:
                return None
            raise

    async def any(self, bucket: str, prefix: str) -> bool:
        """Whether any object, other than a folder marker, has this prefix."""
        query = (("list-type", "2"), ("encoding-type", "url"), ("max-keys", "2"), ("prefix", prefix))
        answer = await self._answer(Ask("GET", Target(Wish.LISTED, bucket), query=query))
        if answer is None:
            return False
        return any_but(wire.objects_page(bucket, answer.body).objects, prefix)

    async def entry(self, bucket: str, key: str) -> ObjectInfo | None:
        """What a listing says of one key, without its version id; None = nothing there."""
        query = (("list-type", "2"), ("encoding-type", "url"), ("max-keys", "1"), ("prefix", key))
        answer = await self._client.call(Ask("GET", Target(Wish.READ, bucket), query=query))
        objects = wire.objects_page(bucket, answer.body).objects
        # In ascending order the key itself comes before all others that it is a prefix of.
        return objects[0] if objects and objects[0].key == key else None

    async def seen(self, bucket: str, key: str, version_id: str | None = None) -> Seen:
        """HEAD. Raises NotFound."""
        target = Target(Wish.READ, bucket, key, version_id)
        headers = (await self._head(Ask("HEAD", target, key, query=_given("versionId", version_id or "")))).headers
        return Seen(
            etag=headers.get("ETag", "").strip('"'),
            size=int(headers.get("Content-Length", "0")),
            modified_s=wire.http_time_s(headers.get("Last-Modified")),
            version_id=etags.version_of(headers.get("x-amz-version-id")),
            metadata=metadata.decode(headers),
            write=headers.get(metadata.PREFIX + metadata.WRITE, ""),
            answered_s=wire.http_time_s(headers.get("Date")),
        )

    async def _head(self, ask: Ask) -> Answer:
        try:
            return await self._client.call(ask)
        except InvalidInput as error:
            if not code_of(error):
                # Answers to HEAD have no body that would tell why: the first byte is asked for, to be told.
                ranged = Ask("GET", ask.target, ask.key, query=ask.query, headers={"range": "bytes=0-0"})
                await self._client.call(ranged)
            raise

    async def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectInfo:
        """One version as a listing tells it, with its metadata."""
        if version_id is not None:
            seen = await self.seen(bucket, key, version_id)
            listed = await self.version(bucket, key, version_id)
            if listed is None:
                raise NotFound(f"there is no version {version_id!r} of {key[:200]!r} in {bucket!r} any more")
            return msgspec.structs.replace(listed, metadata=seen.metadata)
        before: ObjectInfo | None = None
        for _ in range(_LOOKS):
            seen = await self.seen(bucket, key)
            listed = await self.entry(bucket, key)
            # A version that was old when HEAD answered cannot have been replaced by one of the same second since.
            # Of a fresh one HEAD speaks for certain when the listing was the same before and after it.
            certain = seen.answered_s > seen.modified_s or listed == before
            if listed is not None and agree(seen, listed) and certain:
                return msgspec.structs.replace(listed, metadata=seen.metadata, version_id=seen.version_id)
            before = listed
        raise Conflict(f"the object {key[:200]!r} in bucket {bucket!r} is replaced all the time: try again later")

    async def version(self, bucket: str, key: str, version_id: str) -> ObjectInfo | None:
        """What a listing says of one version; None = gone."""
        async for page in self.versions(bucket, key, ""):
            for one in page:
                if one.key != key:
                    return None
                if one.version_id == version_id:
                    return one
        return None


def any_but(objects: list[ObjectInfo], marker: str) -> bool:
    return any(one.key != marker for one in objects)


def agree(seen: Seen, listed: ObjectInfo) -> bool:
    """Whether a HEAD and a listing can be of the same version."""
    return (seen.etag, seen.size, seen.modified_s) == (listed.etag, listed.size, listed.modified_ms // 1000)


def _given(name: str, value: str) -> Query:
    return ((name, value),) if value else ()
