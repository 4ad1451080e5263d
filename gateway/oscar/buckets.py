"""`/system/buckets`: whose buckets there are, what lies in them, and links to single objects.

Every verb asks the bucket's entry. A bucket that a service reads, writes or mounts is not deleted under it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from aiohttp import web

from gateway import permits
from gateway.access import owner_name
from gateway.api import wire
from gateway.api.context import CALLER, SERVICES, Services
from gateway.bucket_book import BucketEntry, may_read
from gateway.oscar import bodies
from gateway.oscar.services import read_object
from gateway.storage import LONGEST_LINK_S
from penstock.clock import now_ms
from penstock.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from penstock.model import SYSTEM_BUCKET, ObjectInfo
from penstock.model.buckets import check_bucket

routes = web.RouteTableDef()

VISIBILITIES = ("private", "restricted", "public")
DEFAULT_EXPIRY_S = 900
MOST_LISTED = 1000
_METHODS = {"upload": "PUT", "download": "GET"}

T = TypeVar("T")
_DELETES_AT_ONCE = 16


@routes.get("/system/buckets")
async def list_buckets(request: web.Request) -> web.Response:
    services, caller = request.app[SERVICES], request[CALLER]
    entries = await services.book.all()
    listed = []
    for name in await services.store.buckets():
        entry = entries.get(name, BucketEntry())
        if name != SYSTEM_BUCKET and may_read(caller, entry):
            listed.append(_shown(name, entry))
    return wire.json_answer(listed)


@routes.post("/system/buckets")
async def create(request: web.Request) -> web.Response:
    services, caller = request.app[SERVICES], request[CALLER]
    order = await _order(request)
    bucket, _, folder = order.bucket_name.strip("/ ").partition("/")
    _check_name(bucket)
    entries = await services.book.all()
    if bucket in await services.store.buckets():
        raise AlreadyExists(f"the bucket {bucket} exists already; change it with PUT, or choose another name")
    permits.check_bucket_quota(caller, entries, 1, services.settings.gateway)
    entry = BucketEntry(
        owner=caller.uid,
        owner_name=owner_name(caller.display),
        visibility=_visibility(order.visibility or "private"),
        allowed_users=_users(order.allowed_users),
        created_ms=now_ms(),
    )
    await services.book.claim(bucket, entry)
    await services.store.create_bucket(bucket)
    if folder.strip("/"):
        await _show_folder(services, bucket, folder.strip("/"))
    return web.Response(status=201)


async def _show_folder(services: Services, bucket: str, folder: str) -> None:
    if services.store.capabilities.folder_markers:
        await services.store.write(bucket, f"{folder}/", b"")
    elif services.make_folder is not None:
        await services.make_folder(bucket, folder)


@routes.put("/system/buckets")
async def update(request: web.Request) -> web.Response:
    """Who else may use it; the owner never changes."""
    services = request.app[SERVICES]
    order = await _order(request)
    bucket = order.bucket_name.strip("/ ").partition("/")[0]
    entry = await services.book.managed(request[CALLER], await _existing(services, bucket))
    changed = msgspec.structs.replace(
        entry,
        visibility=_visibility(order.visibility or entry.visibility),
        allowed_users=_users(order.allowed_users),
    )
    if changed != entry:
        await services.book.put(bucket, changed)
    return web.Response(status=204)


@routes.get("/system/buckets/{bucket}")
async def show(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    bucket = await _existing(services, request.match_info["bucket"])
    entry = await services.book.readable(request[CALLER], bucket)
    limit = wire.number(
        _filled(request.query), "limit", services.settings.gateway.job_listing_limit, low=1, high=MOST_LISTED
    )
    found: list[ObjectInfo] = []
    async for page in services.browse.list(bucket, after=_after(request.query.get("page", ""))):
        found += page
        if len(found) > limit:
            break
    objects, more = tuple(map(_object, found[:limit])), len(found) > limit
    head = _shown(bucket, entry)
    return wire.json_answer(
        bodies.BucketPage(
            **{name: getattr(head, name) for name in head.__struct_fields__},
            objects=objects,
            next_page=_token(found[limit - 1].key) if more else "",
            is_truncated=more,
            returned_items=len(objects),
        )
    )


@routes.delete("/system/buckets/{bucket}")
async def delete(request: web.Request) -> web.Response:
    """Empties it first, as OSCAR does; refused while a service uses it."""
    services = request.app[SERVICES]
    bucket = await _existing(services, request.match_info["bucket"])
    await services.book.managed(request[CALLER], bucket)
    users = sorted(one.name for one in await services.registry.list() if bucket in permits.buckets_of(one))
    if users:
        raise Conflict(f"the bucket {bucket} is used by {', '.join(users[:5])}; remove or change these services first")
    await _empty(services, bucket)
    await services.store.delete_bucket(bucket)
    await services.book.drop(bucket)
    return web.Response(status=204)


async def _empty(services: Services, bucket: str) -> None:
    gate = asyncio.Semaphore(_DELETES_AT_ONCE)

    async def drop(key: str) -> None:
        async with gate:
            await services.store.delete(bucket, key)

    async for page in services.browse.list(bucket):
        async with asyncio.TaskGroup() as group:
            for info in page:
                group.create_task(drop(info.key))


@routes.post("/system/buckets/{bucket}/presign")
async def presign(request: web.Request) -> web.Response:
    """A link to one object that needs no credential."""
    services = request.app[SERVICES]
    bucket = await _existing(services, request.match_info["bucket"])
    await services.book.readable(request[CALLER], bucket)
    order = _converted(await read_object(request), bodies.PresignOrder)
    method = _METHODS.get(order.operation.lower())
    if method is None:
        raise InvalidInput(f"give upload or download, not {order.operation[:40]!r}", where="operation")
    if not order.object_key.strip("/"):
        raise InvalidInput("is empty; name the object", where="object_key")
    expires_s = order.expires_in or order.expires or DEFAULT_EXPIRY_S
    if not 1 <= expires_s <= LONGEST_LINK_S:
        raise InvalidInput(f"give 1 to {LONGEST_LINK_S} seconds, not {expires_s}", where="expires_in")
    headers = _demanded(order)
    url = services.storage.link(method, bucket, order.object_key, expires_s=expires_s, headers=headers)
    return wire.json_answer(
        bodies.Presigned(
            object_key=order.object_key,
            operation=order.operation.lower(),
            method=method,
            url=url,
            expires_at=bodies.moment(now_ms() + expires_s * 1000),
            headers=headers,
        )
    )


def _demanded(order: bodies.PresignOrder) -> dict[str, str]:
    headers = dict(order.extra_headers)
    if order.content_type:
        headers["Content-Type"] = order.content_type
    for name, value in headers.items():
        if not name.isascii() or not name.isprintable() or not value.isprintable() or len(value) > 1000:
            raise InvalidInput(f"{name[:40]!r} is no header with a value of one line", where="extra_headers")
    return headers


# ---- parts


async def _order(request: web.Request) -> bodies.BucketOrder:
    return _converted(await read_object(request), bodies.BucketOrder)


def _converted(body: Mapping[str, object], kind: type[T]) -> T:
    """Keys in any case, nulls as defaults. Raises InvalidInput."""
    lowered = {key.lower(): value for key, value in body.items() if value is not None}
    try:
        return msgspec.convert(lowered, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error), where="request body") from error


def _check_name(bucket: str) -> None:
    check_bucket(bucket)
    if bucket == SYSTEM_BUCKET:
        raise InvalidInput(f"the bucket {SYSTEM_BUCKET} is the platform's own; choose another name")


async def _existing(services: Services, bucket: str) -> str:
    """Raises NotFound."""
    if bucket != SYSTEM_BUCKET and bucket not in await services.store.buckets():
        raise NotFound(f"there is no bucket {bucket[:80]}")
    return bucket


def _visibility(written: str) -> str:
    lowered = written.strip().lower()
    if lowered not in VISIBILITIES:
        raise InvalidInput(f"give private, restricted or public, not {written[:40]!r}", where="visibility")
    return lowered


def _users(written: list[str]) -> tuple[str, ...]:
    users = tuple(dict.fromkeys(name for user in written if (name := user.strip())))
    for user in users:
        permits.check_user(user)
    return users


def _shown(name: str, entry: BucketEntry) -> bodies.Bucket:
    return bodies.Bucket(
        bucket_name=name,
        visibility=entry.visibility,
        owner=entry.owner,
        allowed_users=entry.allowed_users,
        metadata=bodies.BucketMetadata(from_service=entry.from_service, owner_name=entry.owner_name),
    )


def _object(info: ObjectInfo) -> bodies.BucketObject:
    return bodies.BucketObject(
        object_name=info.key, size_bytes=info.size, last_modified=bodies.moment(info.modified_ms)
    )


def _token(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode("utf-8", "surrogateescape")).decode("ascii")


def _after(token: str) -> str:
    """The key that a page token stands for; "" = from the beginning. Raises InvalidInput."""
    try:
        return base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("is no page of this list: take `next_page` of the page before", where="?page") from error


def _filled(query: Mapping[str, str]) -> dict[str, str]:
    """Clients send parameters with nothing in them."""
    return {name: value for name, value in query.items() if value}
