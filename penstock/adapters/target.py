"""The local file that an object is fetched into, the same for every store."""

from __future__ import annotations

import errno
import os
import stat

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TAKEN = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})


def open_target(path: str | os.PathLike[str]) -> int:
    """Open for writing a file that is not there, or is there and empty. Raises OSError: FileExistsError for a file
    with content or a second name, and for what is no regular file.
    """
    try:
        descriptor = os.open(path, _FLAGS, 0o666)
    except OSError as error:
        if error.errno in _TAKEN:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path)) from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size or status.st_nlink != 1:
        os.close(descriptor)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path))
    return descriptor
