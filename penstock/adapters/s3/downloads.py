"""Reading objects: one version from the first byte to the last, over as many connections as it takes.

A broken connection is resumed behind what has arrived, on condition that the etag is still the same, so a reader never
gets a mixture of two versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from penstock.adapters.s3 import etags, wire
from penstock.adapters.s3.client import Ask, Client
from penstock.adapters.s3.config import MIB
from penstock.adapters.s3.listings import Listings
from penstock.adapters.s3.retrying import pause_s
from penstock.adapters.s3.trouble import OutOfRange, Target, Wish
from penstock.adapters.target import open_target
from penstock.errors import (
    AlreadyExists,
    Corrupt,
    NotFound,
    OutOfSpace,
    PenstockError,
    Superseded,
    Unavailable,
    Unsupported,
)
from penstock.model import ObjectInfo

#: Zeros are recognised as a hole in pieces of this size.
_BLOCK = 64 * 1024
_ZEROS = bytes(_BLOCK)
#: Writing less than this in place is cheaper than a hop to a thread.
_SMALL = 64 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass
class Part:
    """What is being read: known from the start or learned from the first answer."""

    bucket: str
    key: str
    version_id: str | None = None
    start: int = 0
    #: End of what is wanted; None = the object's end, until an answer has told.
    end: int | None = None
    etag: str = ""
    #: Seconds since the epoch that the version must have been written at; None = any.
    modified_s: int | None = None
    #: The MD5 of the whole object where it is known.
    md5: str | None = None

    @property
    def target(self) -> Target:
        return Target(Wish.READ, self.bucket, self.key, self.version_id)

    @property
    def done(self) -> bool:
        return self.end is not None and self.start >= self.end


async def chunks(client: Client, part: Part) -> AsyncGenerator[bytes, None]:
    """Yield chunks of at most 1 MiB; `part.start` moves on.

    Raises NotFound before the first, Superseded, Unavailable.
    """
    attempt = 0
    while True:
        began = part.start
        response = await client.open(_ask(part))
        try:
            _learn(part, response)
            async for data in response.content.iter_chunked(MIB):
                part.start += len(data)
                yield data
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            broken: Exception | None = error
        else:
            broken = None
        finally:
            if not response.content.at_eof():
                response.close()
        if part.done:
            return
        attempt = attempt + 1 if part.start == began else 1
        if attempt >= client.config.attempts:
            raise Unavailable(f"{part.target} cannot be read: the connection breaks again and again") from broken
        await asyncio.sleep(pause_s(attempt, random.random()))  # noqa: S311 - spreads clients, hides nothing


def _ask(part: Part) -> Ask:
    headers = {}
    if part.etag:
        headers["if-match"] = f'"{part.etag}"'
    if part.start or part.end is not None:
        headers["range"] = f"bytes={part.start}-{'' if part.end is None else part.end - 1}"
    query = () if part.version_id is None else (("versionId", part.version_id),)
    return Ask("GET", part.target, part.key, query=query, headers=headers)


def _learn(part: Part, response: aiohttp.ClientResponse) -> None:
    """Take from the first answer what later ones must agree with. Raises Superseded, Unsupported."""
    headers = response.headers
    if response.status == 200 and (part.start or part.end is not None):
        raise Unsupported(f"{part.target} cannot be read from its middle: the object store ignores ranges")
    if part.modified_s is not None and wire.http_time_s(headers.get("Last-Modified")) != part.modified_s:
        raise Superseded(f"{part.target} was replaced by another version")
    part.etag = part.etag or headers.get("ETag", "").strip('"')
    part.md5 = etags.plain_md5(part.etag, headers)
    length = headers.get("Content-Length")
    if length is None:
        raise Corrupt(f"{part.target} cannot be read: the object store does not say how long it is")
    available = part.start + int(length)
    part.end = available if part.end is None else min(part.end, available)


async def read(client: Client, part: Part) -> AsyncGenerator[bytes, None]:
    """As `chunks`; a start behind the end gives nothing."""
    try:
        async with contextlib.aclosing(chunks(client, part)) as found:
            async for data in found:
                yield data
    except OutOfRange:
        return


async def fetch(client: Client, listings: Listings, info: ObjectInfo, target: Path) -> None:
    """Copy one version to a new file, holes kept, and check its size and MD5. The file is there only on success.

    An answer tells only the etag and the second, which the same bytes written again within that second share; so
    without a version id a listing is asked at the end whether it was this version, and still is.

    Raises AlreadyExists (the file), NotFound, Superseded, OutOfSpace, Corrupt, Unavailable.
    """
    descriptor = _create(target)
    try:
        part = Part(info.bucket, info.key, info.version_id, etag=info.etag)
        if info.version_id is None:
            part.modified_s = info.modified_ms // 1000
        await _copy(client, part, info, descriptor, target)
        if info.version_id is None:
            await _check_still_there(listings, info, part.target)
    except BaseException:
        target.unlink(missing_ok=True)  # noqa: ASYNC240 - one system call, quicker than a hop to a thread
        raise
    finally:
        os.close(descriptor)


async def _check_still_there(listings: Listings, info: ObjectInfo, target: Target) -> None:
    now = await listings.entry(info.bucket, info.key)
    if now is None:
        raise NotFound(f"{target} was deleted while it was copied")
    if (now.etag, now.modified_ms) != (info.etag, info.modified_ms):
        raise Superseded(f"{target} was replaced by another version")


async def _copy(client: Client, part: Part, info: ObjectInfo, descriptor: int, target: Path) -> None:
    sink = _Sink(descriptor)
    try:
        async with contextlib.aclosing(chunks(client, part)) as found:
            async for data in found:
                await sink.take(data)
        await sink.finish()
    except OSError as error:
        raise _disk_trouble(error, target) from error
    if sink.size != info.size:
        raise Superseded(f"{part.target} was replaced: it has {sink.size} bytes instead of {info.size}")
    if client.config.verify_md5 and part.md5 is not None and sink.md5.hexdigest() != part.md5:
        raise Corrupt(f"{part.target} arrived damaged: its content does not have the MD5 of its etag")


class _Sink:
    """Gathers what arrives into pieces that are worth a hop to a thread and end where a block ends. Raises OSError."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._position = 0
        self.md5 = hashlib.md5(usedforsecurity=False)

    @property
    def size(self) -> int:
        return self._position + self._waiting_bytes

    async def take(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= MIB:
            await _to_the_end(self._store, self._waiting_bytes % _BLOCK)

    async def finish(self) -> None:
        if self._waiting_bytes <= _SMALL:
            self._store(0)
        else:
            await _to_the_end(self._store, 0)
        os.ftruncate(self._descriptor, self._position)

    def _store(self, keep: int) -> None:
        """Write all that waits, its last `keep` bytes apart."""
        data = b"".join(self._waiting)
        end = len(data) - keep
        piece = memoryview(data)[:end]
        self.md5.update(piece)
        write_sparse(self._descriptor, piece, self._position)
        self._position += end
        self._waiting, self._waiting_bytes = [data[end:]], keep


async def _to_the_end(work: Callable[[int], None], argument: int) -> None:
    """Run in a thread. When cancelled wait for it all the same, lest it write to a descriptor that was closed."""
    future = asyncio.get_running_loop().run_in_executor(None, work, argument)
    try:
        await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):  # the first one is already on its way
                await asyncio.wait({future})
        if not future.cancelled():
            future.exception()  # seen: a cancelled copy has nobody left to tell
        raise


def write_sparse(descriptor: int, view: memoryview, position: int) -> None:
    """Write at `position` in a new file, leaving out aligned blocks of zeros. Raises OSError."""
    pending = start = 0
    while start < len(view):
        end = min(len(view), start + _BLOCK - (position + start) % _BLOCK)
        if end - start == _BLOCK and view[start:end] == _ZEROS:
            _write_all(descriptor, view[pending:start], position + pending)
            pending = end
        start = end
    _write_all(descriptor, view[pending:], position + pending)


def _write_all(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written


def _create(target: Path) -> int:
    try:
        descriptor = open_target(target)
    except FileExistsError as error:
        raise AlreadyExists(f"there is already a file {target}: remove it or choose another name") from error
    except OSError as error:
        raise _disk_trouble(error, target) from error
    # Read by user code of another account, whatever this process's umask.
    os.fchmod(descriptor, 0o666)
    return descriptor


def _disk_trouble(error: OSError, target: Path) -> PenstockError:
    if error.errno in _FULL:
        return OutOfSpace(f"there is no space for {target}: {error.strerror}")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(f"the folder of {target} does not exist")
    return Unavailable(f"{target} cannot be written: {error.strerror}")
