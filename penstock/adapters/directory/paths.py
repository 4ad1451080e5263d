"""Opens folders and files below a bucket without ever following a symbolic link, one name at a time.

Resolving a path by text and checking it afterwards leaves a gap in which somebody swaps a folder for a link; walking
with `openat` and `O_NOFOLLOW`, or letting the kernel do the same (`beneath`), leaves none. Also here: what a `stat`
result says about an object, and whether another program still writes to a file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import signal
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence

from penstock.adapters.directory import beneath
from penstock.model import ObjectInfo

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK opening a FIFO that somebody put into a bucket would hang.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_ETAG = struct.Struct("<qqQ")
#: The kernel stamps changes with the time of its last tick. Rounded up, so that a file that came just after a function
#: was made never seems to have been there before.
_TICK_NS = 10_000_000
_NO_METADATA: dict[str, str] = {}

_HAS_LEASES = hasattr(fcntl, "F_SETLEASE")


def open_folder(parent: int, name: str) -> int:
    """Open a real folder (not a link to one) below an open folder. Raises OSError."""
    return os.open(name, _FOLDER, dir_fd=parent)


@contextlib.contextmanager
def folder(root: int, names: Sequence[str]) -> Iterator[int]:
    """Walk down from an open folder; the descriptor is closed at the end. Raises OSError."""
    current = walk(root, names)
    try:
        yield current
    finally:
        os.close(current)


def walk(root: int, names: Sequence[str]) -> int:
    """Open the folder that the names lead to; the caller closes it. Raises OSError."""
    if len(names) > 1 and beneath.AVAILABLE:
        # One call instead of two for each name; the kernel refuses links itself.
        return beneath.open_beneath(root, "/".join(names), _FOLDER)
    current = os.open(names[0], _FOLDER, dir_fd=root)
    for name in names[1:]:
        try:
            below = os.open(name, _FOLDER, dir_fd=current)
        finally:
            os.close(current)
        current = below
    return current


def make_folders(root: int, names: Sequence[str]) -> tuple[int, list[int]]:
    """Walk down from an open folder and make what is missing below the first name, which must exist.

    Returns the descriptor of the last folder and duplicates of those that got a new child, whose entry must be made
    durable. The caller closes them all. Raises OSError (ENOENT for the first name; whatever was opened is closed).
    """
    current = os.open(names[0], _FOLDER, dir_fd=root)
    grown: list[int] = []
    try:
        for name in names[1:]:
            try:
                below = os.open(name, _FOLDER, dir_fd=current)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):  # somebody else was faster
                    os.mkdir(name, dir_fd=current)
                below = os.open(name, _FOLDER, dir_fd=current)
                grown.append(os.dup(current))
            os.close(current)
            current = below
    except OSError:
        for descriptor in (current, *grown):
            os.close(descriptor)
        raise
    return current, grown


def open_file(parent: int, name: str) -> tuple[int, os.stat_result]:
    """Open a regular file for reading. Raises OSError: ENOENT also for folders, links, FIFOs and devices."""
    return checked(os.open(name, FILE, dir_fd=parent))


def checked(descriptor: int) -> tuple[int, os.stat_result]:
    """An open file, if it is a regular one; else it is closed. Raises FileNotFoundError."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
    return descriptor, status


def status_of(parent: int, name: str) -> os.stat_result:
    """Stat a regular file without following a link. Raises OSError (ENOENT for anything else)."""
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
    return status


def etag_of(status: os.stat_result) -> str:
    """32 hex digits of size, modification time in ns and inode: intake reads no content."""
    packed = _ETAG.pack(status.st_size, status.st_mtime_ns, status.st_ino)
    return hashlib.blake2b(packed, digest_size=16).hexdigest()


def info_of(bucket: str, key: str, status: os.stat_result, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
    return ObjectInfo(
        bucket=bucket,
        key=key,
        etag=etag_of(status),
        size=status.st_size,
        modified_ms=status.st_mtime_ns // 1_000_000,
        # `mv` and `cp -p` keep old modification times; the change time tells when the file came here.
        arrived_ms=max(status.st_mtime_ns, status.st_ctime_ns + _TICK_NS) // 1_000_000,
        metadata=dict(metadata) if metadata else _NO_METADATA,
    )


def being_written(parent: int, name: str) -> bool | None:
    """Tell whether a program holds the file open for writing. None = the system will not say."""
    if not _HAS_LEASES:
        return None
    try:
        descriptor = os.open(name, FILE, dir_fd=parent)
    except OSError:
        return None  # gone or unreadable: whoever takes it next meets that by itself
    try:
        return held_by_writer(descriptor)
    finally:
        os.close(descriptor)


def held_by_writer(descriptor: int) -> bool | None:
    """As `being_written`, for a file opened for reading only."""
    if not _HAS_LEASES:
        return None
    try:
        # A writer that opens the file while we hold the lease waits for some microseconds, and the kernel signals us.
        # Its default signal would end this process; SIGURG is ignored by default.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        # EAGAIN: open for writing. EACCES: another user's file; EINVAL: no leases here: only the settle time helps.
        return True if error.errno == errno.EAGAIN else None
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
