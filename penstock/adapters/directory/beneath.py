"""Linux's `openat2`, by which the kernel walks down a path and refuses every symbolic link and every way out.

Python has no function for it. Where the kernel has none either, or a filter forbids it, `AVAILABLE` is false and
`paths` walks by itself, name by name.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

#: The same number on every architecture.
_OPENAT2 = 437
#: RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH
_RESOLVE = 0x02 | 0x04 | 0x08
_TRIES = 100


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = getattr(_libc, "syscall", None)
_SIZE = ctypes.c_size_t(ctypes.sizeof(_How))
_NUMBER = ctypes.c_long(_OPENAT2)


def open_beneath(root: int, path: str, flags: int) -> int:
    """Open a relative path below an open folder. Raises OSError (ELOOP: a link is on the way)."""
    raw = os.fsencode(path)
    how = _How(flags, 0, _RESOLVE)
    for _ in range(_TRIES):
        found = int(_syscall(_NUMBER, ctypes.c_int(root), raw, ctypes.byref(how), _SIZE)) if _syscall else -1
        if found >= 0:
            return found
        number = ctypes.get_errno()
        # EAGAIN: something was renamed on the way while the kernel looked.
        if number not in {errno.EAGAIN, errno.EINTR}:
            break
    raise OSError(number, os.strerror(number), path)


def _available() -> bool:
    if sys.platform != "linux" or _syscall is None:
        return False
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_beneath(root, "proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


AVAILABLE = _available()
