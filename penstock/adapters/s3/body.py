"""What is uploaded, so that it can be sent again and the store can tell whether it arrived whole.

Over plain HTTP the payload's SHA-256 is signed. Over TLS, where nobody can change it, it goes unsigned with its MD5,
which every S3 store compares. A file is hashed first and read again when it is sent, so memory stays flat, and a file
that changes in between is refused by the store instead of being stored half old, half new.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from penstock.adapters.s3.sigv4 import EMPTY_SHA256, UNSIGNED

CHUNK = 256 * 1024
#: Up to this size hashing in place is cheaper than a hop to a thread.
_SMALL = 256 * 1024


@dataclass(frozen=True)
class Body:
    """`chunks` gives the content anew for each try, where it is too large to be handed over in one piece."""

    size: int = 0
    payload_hash: str = EMPTY_SHA256
    headers: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""
    chunks: Callable[[], AsyncIterator[bytes]] | None = None


EMPTY = Body()


async def of_bytes(data: bytes, *, secure: bool) -> Body:
    if len(data) <= _SMALL:
        payload_hash, headers = _digests(data, secure)
        return Body(len(data), payload_hash, headers, data)
    payload_hash, headers = await asyncio.to_thread(_digests, data, secure)
    return Body(len(data), payload_hash, headers, chunks=lambda: _slices(data))


async def of_file(descriptor: int, start: int, size: int, *, secure: bool) -> Body:
    """A part of an open file. Raises OSError; EOFError when the file is shorter."""
    payload_hash, headers = await asyncio.to_thread(_file_digests, descriptor, start, size, secure)
    return Body(size, payload_hash, headers, chunks=lambda: _file_slices(descriptor, start, size))


def _digests(data: bytes, secure: bool) -> tuple[str, dict[str, str]]:
    if not secure:
        return hashlib.sha256(data).hexdigest(), {}
    return _unsigned(hashlib.md5(data, usedforsecurity=False).digest())


def _unsigned(md5: bytes) -> tuple[str, dict[str, str]]:
    return UNSIGNED, {"content-md5": base64.b64encode(md5).decode()}


def _file_digests(descriptor: int, start: int, size: int, secure: bool) -> tuple[str, dict[str, str]]:
    hasher = hashlib.md5(usedforsecurity=False) if secure else hashlib.sha256()
    end = start + size
    while start < end:
        data = os.pread(descriptor, min(4 * CHUNK, end - start), start)
        if not data:
            raise EOFError
        hasher.update(data)
        start += len(data)
    return _unsigned(hasher.digest()) if secure else (hasher.hexdigest(), {})


async def _slices(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


async def _file_slices(descriptor: int, start: int, size: int) -> AsyncIterator[bytes]:
    """Raises EOFError when the file became shorter: the request then fails, as it must."""
    end = start + size
    while start < end:
        data = await asyncio.to_thread(os.pread, descriptor, min(4 * CHUNK, end - start), start)
        if not data:
            raise EOFError
        start += len(data)
        for offset in range(0, len(data), CHUNK):
            yield data[offset : offset + CHUNK]
