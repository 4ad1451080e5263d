"""Translation of what SQLite reports into Penstock's error tree, so that callers decide by class and people by text.

Each sentence names the file, because a person who reads "database disk image is malformed" does not know which of the
product's files is meant, nor what may be done about it.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
from pathlib import Path

from penstock.errors import Closed, Corrupt, OutOfSpace, PenstockError, Unavailable

#: Below this, a failed write is taken for a full disk whatever code SQLite gave it (its shared-memory file, for one,
#: fails with a plain input/output error).
_FULL_BELOW_BYTES = 64 * 1024

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_REFUSED = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension bits; 0 where the module itself raised."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def translate(error: BaseException, path: Path) -> BaseException:
    """Return the error a caller should see, with the cause kept. What is neither SQLite's nor the system's own comes
    back as it is.
    """
    if isinstance(error, sqlite3.Error):
        translated = _meaning(error, path)
    elif isinstance(error, OSError):
        translated = _file_error(error, path)
    else:
        return error
    if translated is None:
        return error  # a programming error (wrong SQL, wrong types) must keep its own face
    translated.__cause__ = error
    return translated


def _meaning(error: sqlite3.Error, path: Path) -> PenstockError | None:
    code = primary_code(error)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _disk_full(path)):
        return OutOfSpace(f"no space left to write {path}: free some on its disk; nothing of this change was stored")
    if code in _BUSY:
        return Unavailable(f"{path} is locked by another process: stop the other one or try again")
    if code in _DAMAGED:
        return Corrupt(
            f"{path} is damaged or no database ({error}): move it aside together with its -wal and -shm files, "
            "then restore a backup or start anew"
        )
    if code in _REFUSED:
        return Unavailable(f"{path} cannot be opened for writing ({error}): check its folder and permissions")
    if code == sqlite3.SQLITE_IOERR:
        return Unavailable(f"the disk failed on {path} ({error}): check the disk and try again")
    if isinstance(error, sqlite3.ProgrammingError) and "closed database" in str(error):
        return closed(path)
    return None


def _file_error(error: OSError, path: Path) -> PenstockError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return OutOfSpace(f"no space left to create {path}: free some on its disk")
    return Unavailable(f"{path} cannot be opened ({error.strerror}): check its folder and permissions")


def _disk_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _FULL_BELOW_BYTES
    except OSError:
        return False


def closed(path: Path) -> Closed:
    return Closed(f"{path} was closed and cannot be used any more")
