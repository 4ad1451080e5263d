"""Bytes in and out: bounded bodies, JSON both ways, streamed answers, keys in paths.

Nothing a client sends is trusted in size or pace: a body has a limit, each chunk a time limit, and a reader that does
not read is given up. A stream that breaks after its head was sent ends the connection, because there is no other way to
tell HTTP/1.1 that what came so far is not all.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
import structlog
from aiohttp import web

from gateway.api.context import SERVICES
from penstock.client_errors import TooLarge
from penstock.codec import decode_body
from penstock.errors import InvalidInput, PenstockError, Unavailable

log = structlog.get_logger("gateway.api")

T = TypeVar("T")

_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def json_answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=encode(value), content_type="application/json", headers=headers)


def encode(value: object) -> bytes:
    """JSON. A name on disk that is not valid UTF-8 becomes an escaped unpaired surrogate, which JSON permits."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode("ascii")


async def body_chunks(request: web.Request, limit: int, *, what: str) -> AsyncIterator[bytes]:
    """The body as it comes. `limit` in bytes, 0 = none. Raises TooLarge, Unavailable (the client stalls or left)."""
    if limit and (request.content_length or 0) > limit:
        raise _too_large(limit, what)
    patience = request.app[SERVICES].settings.http.body_timeout_s
    received = 0
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await request.content.readany()
        except TimeoutError as error:
            raise Unavailable(f"no byte of {what} came for {patience:g} s; nothing was kept") from error
        except (ConnectionError, web.RequestPayloadError) as error:
            raise Unavailable(f"{what} broke off before its end; nothing was kept") from error
        if not chunk:
            return
        received += len(chunk)
        if limit and received > limit:
            raise _too_large(limit, what)
        yield chunk


async def read_body(request: web.Request, limit: int, *, what: str) -> bytes:
    """The whole body in memory. Raises as `body_chunks`."""
    parts = [chunk async for chunk in body_chunks(request, limit, what=what)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int, what: str) -> TooLarge:
    return TooLarge(f"{what} is larger than the {limit:,} bytes that this server takes (setting http.max_*_bytes)")


async def read_document(request: web.Request, kind: type[T], *, optional: bool = False) -> T:
    """A JSON body as a type; with `optional` an empty body is the type's defaults. Raises InvalidInput, TooLarge."""
    body = await read_body(request, request.app[SERVICES].settings.http.max_document_bytes, what="the document")
    if optional and not body.strip():
        body = b"{}"
    return decode_body(body, kind)


async def stream(
    request: web.Request,
    chunks: AsyncIterator[bytes],
    *,
    status: int = 200,
    headers: Mapping[str, str],
    length: int | None = None,
) -> web.StreamResponse:
    """Answer with chunks. An error before the first one is raised and worded as usual; a later one, a wrong length or a
    reader that does not read ends the connection.
    """
    first = await anext(chunks, b"")
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = length
    await response.prepare(request)
    patience = request.app[SERVICES].settings.http.body_timeout_s
    try:
        sent = await _send(response, first, patience)
        async for chunk in chunks:
            sent += await _send(response, chunk, patience)
        if length is not None and sent != length:
            raise Unavailable(f"the object changed while it was read: {sent} of {length} bytes were sent")
        await response.write_eof()
    except (PenstockError, TimeoutError) as error:
        log.warning("an answer broke off", action="stream_broken", path=request.path, error=str(error))
        _cut(request)
    return response


async def _send(response: web.StreamResponse, chunk: bytes, patience: float) -> int:
    if chunk:
        async with asyncio.timeout(patience):
            await response.write(chunk)
    return len(chunk)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def key_of(request: web.Request) -> str:
    """The object key in the path, percent-decoded exactly once.

    The framework's own decoding cannot be used: it turns `%252F` and `%2F` into the same text. Bytes that are not UTF-8
    become surrogate escapes, as the store names such files. Raises InvalidInput for a lone `%`.
    """
    path = request.raw_path.partition("?")[0]
    # /v1/buckets/{bucket}/objects/{key}: a bucket name holds no slash, so the key is all after the fifth.
    return decode_key(path.split("/", 5)[5])


def decode_key(quoted: str) -> str:
    if _ESCAPE.search(quoted):
        raise InvalidInput("a `%` in a path must be followed by two hexadecimal digits; write `%25` for itself")
    return unquote_to_bytes(quoted).decode("utf-8", "surrogateescape")


def text_of(request: web.Request, name: str) -> str:
    """A parameter of the query that names objects: bytes that are not UTF-8 become surrogate escapes, as in keys."""
    query = request.raw_path.partition("?")[2]
    pairs = parse_qsl(query, keep_blank_values=True, encoding="utf-8", errors="surrogateescape")
    return next((value for key, value in pairs if key == name), "")


def flag(query: Mapping[str, str], name: str) -> bool:
    """`?name`, `?name=1` and `?name=true` are on. Raises InvalidInput for anything but those and their opposites."""
    value = query.get(name)
    if value is None or value.lower() in {"0", "false", "no"}:
        return False
    if value.lower() in {"", "1", "true", "yes"}:
        return True
    raise InvalidInput(f"give 1 or 0, not {value[:40]!r}", where=f"?{name}")


def number(query: Mapping[str, str], name: str, default: int, *, low: int = 0, high: int = 2**53) -> int:
    """A whole number of the query. Raises InvalidInput."""
    value = query.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) <= 16 and low <= int(value) <= high):
        raise InvalidInput(f"give a whole number from {low} to {high}, not {value[:40]!r}", where=f"?{name}")
    return int(value)


def known_only(query: Mapping[str, Any], *names: str) -> None:
    """A misspelt filter must not silently select everything. Raises InvalidInput."""
    for name in query:
        if name not in names:
            listed = ", ".join(names) or "none"
            raise InvalidInput(f"there is no parameter of this name here; known are: {listed}", where=f"?{name[:40]}")
