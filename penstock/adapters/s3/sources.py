"""Cuts what is to be uploaded into parts: a file by its size, a stream as it comes.

S3 takes 10,000 parts and 5 TiB; a stream does not say how long it will be, so its parts grow.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from penstock.adapters.s3 import body
from penstock.adapters.s3.body import Body
from penstock.adapters.s3.uploads import Source
from penstock.errors import Conflict

MAX_PARTS = 10_000
#: After so many parts of a stream the next are twice as large: 10,000 of them then hold 8 TB at 8 MiB.
_GROW_AFTER = 1000


def file_part_bytes(size: int, least: int) -> int:
    """Size of the parts of a file of `size` bytes."""
    return max(least, -(-size // MAX_PARTS))


def stream_part_bytes(number: int, least: int) -> int:
    """Size of the part `number` (from 1) of a stream."""
    return least << ((number - 1) // _GROW_AFTER)


async def of_file(descriptor: int, size: int, least: int, *, secure: bool) -> AsyncIterator[Source]:
    step = file_part_bytes(size, least)
    for start in range(0, size, step):
        length = min(step, size - start)
        yield length, _file_part(descriptor, start, length, secure)


def _file_part(descriptor: int, start: int, length: int, secure: bool) -> Callable[[], Awaitable[Body]]:
    return lambda: body.of_file(descriptor, start, length, secure=secure)


class Stream:
    """Reads a stream in pieces of a wanted size. `taken` counts what was given out."""

    def __init__(self, data: AsyncIterator[bytes]) -> None:
        self._data = data
        self._buffer = bytearray()
        self._ended = False
        self.taken = 0

    async def take(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer at the end. Raises what the stream raises."""
        await self._fill(size)
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self.taken += len(taken)
        return taken

    async def more(self) -> bool:
        """Whether anything is left."""
        await self._fill(1)
        return bool(self._buffer)

    async def _fill(self, size: int) -> None:
        while len(self._buffer) < size and not self._ended:
            try:
                self._buffer += await anext(self._data)
            except StopAsyncIteration:
                self._ended = True


async def of_stream(first: bytes, stream: Stream, least: int, *, secure: bool) -> AsyncIterator[Source]:
    """`first` has been taken already, to see whether one PUT is enough."""
    number, data = 1, first
    while data:
        yield len(data), _bytes_part(data, secure)
        number += 1
        data = await stream.take(stream_part_bytes(number, least))


async def of_bytes(data: bytes, least: int, *, secure: bool) -> AsyncIterator[Source]:
    step = file_part_bytes(len(data), least)
    for start in range(0, len(data), step):
        part = data[start : start + step]
        yield len(part), _bytes_part(part, secure)


def _bytes_part(data: bytes, secure: bool) -> Callable[[], Awaitable[Body]]:
    return lambda: body.of_bytes(data, secure=secure)


def check_same(before: os.stat_result, after: os.stat_result, source: Path) -> None:
    """Raise Conflict for a file that was not left alone in between."""
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise Conflict(f"the file {source} was changed while it was published: publish it when it is complete")
