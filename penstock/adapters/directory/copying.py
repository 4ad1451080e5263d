"""Copies file contents: shared extents where the file system can, kernel-side elsewhere, holes kept, abortable.

Everything here blocks and runs in a thread, except for files small enough that the hop costs more than the copy.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Protocol

#: Up to this size a copy inside the event loop is cheaper than a hop to a thread (measured: a third of the CPU).
SMALL_BYTES = 64 * 1024
#: Bytes between two looks at the abort flag.
_STEP = 16 * 1024 * 1024
_CHUNK = 1024 * 1024
_FICLONE = 0x40049409
_NO_CLONE = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.EBADF, errno.ENOSYS}
)
_NO_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM})


class Aborted(Exception):
    """The awaiting task was cancelled; what was begun is being undone. Never leaves the adapter."""


class Abort(Protocol):
    def is_set(self) -> bool: ...


class Flag:
    """An event that nobody waits for: made for every file, where a `threading.Event` costs as much as a system call."""

    __slots__ = ("_set",)

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


def check(abort: Abort) -> None:
    if abort.is_set():
        raise Aborted


def copy_small(source: int, target: int, size: int) -> None:
    """Copy a file of at most SMALL_BYTES in one read and one write. Raises OSError."""
    # One byte more than announced, so that growth shows as a difference instead of being cut off.
    write_all(target, os.pread(source, size + 1, 0))


def write_all(target: int, data: bytes | memoryview) -> None:
    """Write everything, whatever the kernel takes at a time. Raises OSError."""
    written = os.write(target, data)
    if written == len(data):
        return
    rest = memoryview(data)[written:]
    while rest:
        rest = rest[os.write(target, rest) :]


def copy(source: int, target: int, size: int, abort: Abort) -> None:
    """Copy `size` bytes between two open files, the target being empty. Raises OSError, Aborted."""
    if _clone(source, target):
        return
    os.ftruncate(target, size)
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            start = position  # a file system that knows no holes: everything is data
        try:
            end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        except OSError:
            end = size
        _copy_extent(source, target, start, end, abort)
        position = max(end, start + 1)


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
        return False
    return True


def _copy_extent(source: int, target: int, start: int, end: int, abort: Abort) -> None:
    in_kernel = hasattr(os, "copy_file_range")
    while start < end:
        check(abort)
        if in_kernel:
            try:
                done = os.copy_file_range(source, target, min(_STEP, end - start), start, start)
            except OSError as error:
                if error.errno not in _NO_RANGE:
                    raise
                in_kernel = False
                continue
        else:
            data = os.pread(source, min(_CHUNK, end - start), start)
            os.lseek(target, start, os.SEEK_SET)
            write_all(target, data)
            done = len(data)
        if done == 0:  # the source shrank; the comparison after the copy tells
            return
        start += done
