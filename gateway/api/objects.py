"""Buckets and objects: streamed in and out, never held in memory."""

from __future__ import annotations

import re
from email.utils import formatdate

from aiohttp import web

from gateway.access import owner_name
from gateway.api import wire
from gateway.api.context import CALLER, SERVICES, Services
from gateway.bucket_book import BucketEntry, may_read
from gateway.permits import check_bucket_quota
from penstock import answers
from penstock.clock import now_ms
from penstock.errors import Forbidden, PenstockError, Unavailable
from penstock.model import SYSTEM_BUCKET, ObjectInfo
from penstock.model.buckets import check_bucket
from penstock.model.objects import META_TRACE
from penstock.tracing import TRACEPARENT, parsed

routes = web.RouteTableDef()

MOST_LISTED = 10_000
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Unsatisfiable(PenstockError):
    """The range lies outside the object."""

    code = "unsatisfiable"


@routes.get("/v1/buckets")
async def list_buckets(request: web.Request) -> web.Response:
    services, caller = request.app[SERVICES], request[CALLER]
    entries = await services.book.all()
    names = [name for name in await services.store.buckets() if name != SYSTEM_BUCKET]
    seen = [name for name in names if may_read(caller, entries.get(name, BucketEntry()))]
    return wire.json_answer([answers.Bucket(name=name) for name in seen])


@routes.put("/v1/buckets/{bucket}")
async def create_bucket(request: web.Request) -> web.Response:
    """201 made now, 200 there already."""
    services, caller = request.app[SERVICES], request[CALLER]
    bucket = _bucket(request)
    check_bucket(bucket)
    entries = await services.book.all()
    if bucket in await services.store.buckets():
        await services.book.readable(caller, bucket)
    else:
        check_bucket_quota(caller, entries, 1, services.settings.gateway)
        name = owner_name(caller.display)
        await services.book.claim(bucket, BucketEntry(owner=caller.uid, owner_name=name, created_ms=now_ms()))
    made = await services.store.create_bucket(bucket)
    return wire.json_answer(answers.Bucket(name=bucket), status=201 if made else 200)


@routes.get("/v1/buckets/{bucket}/objects")
async def list_objects(request: web.Request) -> web.Response:
    wire.known_only(request.query, "prefix", "after", "limit")
    limit = wire.number(request.query, "limit", 1000, low=1, high=MOST_LISTED)
    prefix, after = wire.text_of(request, "prefix"), wire.text_of(request, "after")
    found: list[ObjectInfo] = []
    bucket = await _readable(request)
    pages = request.app[SERVICES].browse.list(bucket, prefix, after=after)
    async for page in pages:
        found += page
        if len(found) > limit:
            break
    listed = tuple(
        answers.StoredObject(key=info.key, size=info.size, modified_ms=info.modified_ms, etag=info.etag)
        for info in found[:limit]
    )
    more = listed[-1].key if len(found) > limit else ""
    return wire.json_answer(answers.ObjectPage(objects=listed, next=more))


@routes.put("/v1/buckets/{bucket}/objects/{key:(?s:.*)}")
async def put_object(request: web.Request) -> web.Response:
    """The object appears whole, or not at all when the body breaks off."""
    services = request.app[SERVICES]
    if services.stopping():
        raise Unavailable("the server is stopping and takes no new objects; try again when it is back")
    bucket, key = await _readable(request), wire.key_of(request)
    absent = request.headers.get("If-None-Match") == "*"
    chunks = wire.body_chunks(request, services.settings.http.max_object_bytes, what="the object")
    trace = parsed(request.headers.get(TRACEPARENT, ""))
    metadata = {META_TRACE: trace} if trace else None
    info = await services.store.write(bucket, key, chunks, metadata=metadata, if_absent=absent)
    services.metrics.uploaded_bytes.inc(info.size)
    return wire.json_answer(info, status=201, headers={"ETag": f'"{info.etag}"'})


@routes.get("/v1/buckets/{bucket}/objects/{key:(?s:.*)}", allow_head=False)
async def get_object(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    info = await services.store.head(await _readable(request), wire.key_of(request))
    span = parse_range(request.headers.get("Range", ""), info.size)
    if span is None:
        return await _sent(request, services, info, 0, info.size, status=200)
    return await _sent(request, services, info, span[0], span[1], status=206)


@routes.head("/v1/buckets/{bucket}/objects/{key:(?s:.*)}")
async def head_object(request: web.Request) -> web.Response:
    info = await request.app[SERVICES].store.head(await _readable(request), wire.key_of(request))
    headers = _headers(info) | {"Content-Length": str(info.size)}
    return web.Response(headers=headers)


@routes.delete("/v1/buckets/{bucket}/objects/{key:(?s:.*)}")
async def delete_object(request: web.Request) -> web.Response:
    """204 also when there was nothing."""
    services, bucket = request.app[SERVICES], _bucket(request)
    await services.book.deletable(request[CALLER], bucket)
    await services.store.delete(bucket, wire.key_of(request))
    return web.Response(status=204)


def _bucket(request: web.Request) -> str:
    """The bucket in the path. Raises Forbidden for the platform's own."""
    bucket = request.match_info["bucket"]
    if bucket == SYSTEM_BUCKET:
        raise Forbidden(f"the bucket {SYSTEM_BUCKET} is the platform's own and is not served")
    return bucket


async def _readable(request: web.Request) -> str:
    """The bucket in the path, which the caller may read and write: by its entry, or by a link to this very object.
    Raises Forbidden.
    """
    bucket, caller = _bucket(request), request[CALLER]
    if caller.link is None or caller.link != (bucket, wire.key_of(request)):
        await request.app[SERVICES].book.readable(caller, bucket)
    return bucket


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """(start, length) of a single range, None = the whole object (also for several ranges, as HTTP permits).

    Raises Unsatisfiable when the range lies behind the end.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        start = size - length
    else:
        start = int(first)
        if last and int(last) < start:
            return None
        length = min(int(last) + 1 if last else size, size) - start
    if length <= 0 or start >= size:
        raise Unsatisfiable(f"the range {header[:60]} lies outside the object's {size} bytes")
    return start, length


def _headers(info: ObjectInfo) -> dict[str, str]:
    return {
        "Content-Type": "application/octet-stream",
        "ETag": f'"{info.etag}"',
        "Last-Modified": formatdate(info.modified_ms / 1000, usegmt=True),
        "Accept-Ranges": "bytes",
        # A browser must not run what somebody uploaded.
        "X-Content-Type-Options": "nosniff",
    }


async def _sent(
    request: web.Request, services: Services, info: ObjectInfo, start: int, length: int, *, status: int
) -> web.StreamResponse:
    headers = _headers(info)
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{info.size}"
    chunks = services.store.read(info.bucket, info.key, start=start, length=length)
    return await wire.stream(request, chunks, status=status, headers=headers, length=length)
