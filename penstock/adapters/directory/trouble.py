"""Translates what the operating system answers into Penstock's errors: one sentence with the bucket and the key.

`EIO` and the like stay `Unavailable`: the disk may come back, and nobody may mistake a failing disk for a missing file.
"""

from __future__ import annotations

import errno
import getpass
from pathlib import Path

from penstock.errors import (
    AlreadyExists,
    Forbidden,
    InvalidInput,
    NotFound,
    OutOfSpace,
    PenstockError,
    Unavailable,
    Unsupported,
)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
#: A part of the path is missing, is a file where a folder is needed, or is a symbolic link, which is never followed.
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
TOO_LONG = errno.ENAMETOOLONG


def no_bucket(bucket: str) -> NotFound:
    return NotFound(f"there is no bucket {bucket!r}: create it first")


def no_object(bucket: str, key: str) -> NotFound:
    return NotFound(f"there is no object {key!r} in bucket {bucket!r}")


def beside(bucket: str, key: str) -> Unsupported:
    return Unsupported(
        f"the object {key!r} cannot be stored in bucket {bucket!r}: one of its names is taken, and a folder cannot "
        "hold 'a' beside 'a/b'; choose another key or delete the other object"
    )


def restless(bucket: str, key: str) -> Unavailable:
    return Unavailable(f"the folder of {key!r} in bucket {bucket!r} is deleted again and again by somebody else")


def translate(error: OSError, bucket: str, key: str, doing: str) -> PenstockError:
    """Return the error to raise `from error`. `doing` is a past participle: "read", "written"."""
    name = f"the file {key!r} in bucket {bucket!r}"
    code = error.errno
    if code in FULL:
        return OutOfSpace(f"{name} cannot be {doing}: the disk or quota is full; free some space and try again")
    if code in DENIED:
        return Forbidden(
            f"{name} cannot be {doing} by the user running penstock ({user()}): {error.strerror}; change its "
            "permissions or those of its folder"
        )
    if code in ABSENT:
        return no_object(bucket, key)
    if code == errno.EEXIST:
        return AlreadyExists(f"{name} exists already")
    if code == errno.ENAMETOOLONG:
        return Unsupported(f"{name} has a longer name than its file system allows; use a shorter key")
    if code == errno.EXDEV:
        return Unsupported(
            f"{name} cannot be {doing}: its folder is on another file system than the store's own folder; keep all "
            "buckets of one store on one file system"
        )
    return Unavailable(f"{name} cannot be {doing} now: {error.strerror or error}")


def about_root(error: OSError, root: Path) -> PenstockError:
    """Return the error to raise `from error` when the store's own folder cannot be opened."""
    if error.errno in FULL:
        return OutOfSpace(f"the data folder {str(root)!r} cannot be made: the disk or quota is full")
    if error.errno in DENIED:
        return Forbidden(
            f"the data folder {str(root)!r} cannot be used by the user running penstock ({user()}): {error.strerror}"
        )
    if error.errno in {errno.EEXIST, errno.ENOTDIR}:
        return InvalidInput(f"the data folder {str(root)!r} cannot be used: it, or a part of its path, is a file")
    return Unavailable(f"the data folder {str(root)!r} cannot be used: {error.strerror}")


def user() -> str:
    """Name of the user that this process runs as, for sentences."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in the password file
        return "unknown"
