"""Bytes in and out of this process: bodies of requests from files and stdin, answers to stdout."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import BinaryIO

from gateway.cli.progress import Progress
from penstock.errors import InvalidInput

CHUNK = 256 * 1024


def write_out(data: bytes) -> None:
    """Write bytes to stdout, all of them. Raises BrokenPipeError when the reader has left.

    An unbuffered stdout (`PYTHONUNBUFFERED`) takes what fits into the pipe and says how much that was; the ordinary way
    of printing ignores it and the rest is lost without a word.
    """
    sys.stdout.flush()
    stream = sys.stdout.buffer
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]
    stream.flush()


async def read_file(file: BinaryIO, size: int, progress: Progress | None = None) -> AsyncIterator[bytes]:
    """Yield exactly `size` bytes of a file. Raises InvalidInput when it has become shorter: the request then fails."""
    left = size
    while left > 0:
        chunk = await asyncio.to_thread(file.read, min(CHUNK, left))
        if not chunk:
            raise InvalidInput(f"{file.name} became {left} bytes shorter while it was sent: nothing was stored")
        left -= len(chunk)
        yield chunk
        if progress is not None:
            progress.advance(len(chunk))


async def read_stdin(progress: Progress | None = None) -> AsyncIterator[bytes]:
    """Yield stdin to its end, whatever it is.

    A thread that waits for a terminal cannot be interrupted, so a pipe or terminal is read when the loop says that it
    has something; a regular file, which the loop cannot watch, never makes anybody wait.
    """
    source = sys.stdin.fileno()
    watchable = not stat.S_ISREG(os.fstat(source).st_mode)
    with progress.of(None) if progress is not None else nullcontext():
        while True:
            if watchable:
                watchable = await _readable(source)
            chunk = os.read(source, CHUNK)
            if not chunk:
                return
            yield chunk
            if progress is not None:
                progress.advance(len(chunk))


async def _readable(source: int) -> bool:
    """Wait until a descriptor has something to read; False = it cannot be watched, reading it never waits."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(source, ready.set)
    except PermissionError:  # /dev/null and the like: epoll refuses what is always ready
        return False
    try:
        await ready.wait()
    finally:
        loop.remove_reader(source)
    return True
