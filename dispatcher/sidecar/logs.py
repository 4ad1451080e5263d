"""The output of a script as a file: bounded while it grows, and cut at its beginning when it is kept for good.

Shared by the local runner and the pods' `output`.
"""

# Plain os calls, no Path objects: looked at for every item, where an object costs more than the system call.

from __future__ import annotations

import os

#: Largest output kept; older bytes are dropped.
LOG_LIMIT = 64 * 1024 * 1024
_PUNCH = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_BLOCK = 4096


def trim(path: str, limit: int) -> bool:
    """Give back to the disk what is older than the last `limit` bytes; True = something was dropped (now or before).

    The size stays as it is, so offsets of readers hold. Where holes cannot be punched the file starts anew.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        size = os.fstat(descriptor).st_size
        drop = (size - limit) // _BLOCK * _BLOCK
        if drop <= 0:
            return False
        if _fallocate(descriptor, drop) != 0:
            os.ftruncate(descriptor, 0)  # the script appends, so it goes on at the new end
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _fallocate(descriptor: int, length: int) -> int:
    import ctypes  # noqa: PLC0415 - 10 ms of a sidecar's start that only very long logs need

    function = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if function is None:
        return -1
    return int(function(descriptor, _PUNCH, ctypes.c_long(0), ctypes.c_long(length)))


def dropped_note(dropped: int) -> bytes:
    """The first line of a log whose beginning was dropped."""
    return f"[the output was too long: its first {dropped} bytes were dropped]\n".encode()
