"""Makes files appear whole and stay: scratch files, the final rename, and folder syncs shared between threads.

Scratch files live below the root in a hidden folder, so they are on the buckets' file system (rename is atomic) and in
no bucket (nobody takes them for objects). A scratch file is locked by its writer; what a killed process left behind is
unlocked and removed when a store is opened.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import secrets
import threading
import time

from penstock.adapters.directory.names import HIDDEN_FOLDER

#: A scratch file younger than this may be between its creation and its lock.
_GRACE_NS = 60 * 1_000_000_000
_RENAME_NOREPLACE = 1


class Scratch:
    """The hidden folder. `descriptor` stays open for the life of the store."""

    def __init__(self, root: int) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(HIDDEN_FOLDER, 0o700, dir_fd=root)
        self.descriptor = os.open(HIDDEN_FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
        self._life = f"new-{os.getpid():x}-{secrets.token_hex(4)}"
        self._count = itertools.count()

    def create(self) -> tuple[int, str]:
        """Open a new locked file for reading and writing; returns descriptor and name. Raises OSError."""
        name = f"{self._life}-{next(self._count):x}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o666, dir_fd=self.descriptor)
        with contextlib.suppress(OSError):  # no locks here: the grace time alone protects it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor, name

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):  # what stays behind is removed when a store is opened
            os.unlink(name, dir_fd=self.descriptor)

    def sweep(self, *, now_ns: int | None = None) -> int:
        """Remove what earlier lives left behind; returns how many files. Raises OSError."""
        now = time.time_ns() if now_ns is None else now_ns
        removed = 0
        for name in os.listdir(self.descriptor):  # noqa: PTH208 - by descriptor
            if name.startswith("new-") and self._abandoned(name, now):
                self.remove(name)
                removed += 1
        return removed

    def _abandoned(self, name: str, now_ns: int) -> bool:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)
        except OSError:
            return False
        try:
            if now_ns - os.fstat(descriptor).st_ctime_ns < _GRACE_NS:
                return False
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(descriptor)

    def close(self) -> None:
        os.close(self.descriptor)


class _Queue:
    __slots__ = ("asked", "done", "lock", "users")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked = 0
        self.done = 0
        self.users = 0


class FolderSync:
    """Syncs folders; threads that ask for the same folder while a sync runs share the next one.

    A folder sync costs as much as a file sync (a journal commit), and outputs of one Job go to few folders.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[tuple[int, int], _Queue] = {}

    def sync(self, descriptor: int) -> None:
        """Return when every change made to the folder before this call is on disk. Raises OSError."""
        status = os.fstat(descriptor)
        name = (status.st_dev, status.st_ino)
        with self._lock:
            queue = self._queues.setdefault(name, _Queue())
            queue.users += 1
            queue.asked += 1
            ticket = queue.asked
        try:
            with queue.lock:
                if queue.done < ticket:
                    covered = queue.asked  # whoever took a ticket up to now made its change before
                    os.fsync(descriptor)
                    queue.done = covered
        finally:
            with self._lock:
                queue.users -= 1
                if not queue.users:
                    del self._queues[name]


def _load_renameat2() -> ctypes._NamedFuncPointer | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function


_renameat2 = _load_renameat2()


def rename_new(source_folder: int | None, source: str, folder: int, name: str) -> None:
    """Rename, unless the name is taken. Raises FileExistsError, OSError."""
    if _renameat2 is not None:
        arguments = (source_folder, os.fsencode(source), folder, os.fsencode(name), _RENAME_NOREPLACE)
        if _renameat2(*arguments) == 0:
            return
        code = ctypes.get_errno()
        if code not in {errno.ENOSYS, errno.EINVAL}:
            raise OSError(code, os.strerror(code))
    os.link(source, name, src_dir_fd=source_folder, dst_dir_fd=folder, follow_symlinks=False)
    os.unlink(source, dir_fd=source_folder)
