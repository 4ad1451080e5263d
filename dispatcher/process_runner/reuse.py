"""Tells cheaply that an item's folder is as it was made, so that the next item can have it at once.

A folder's modification time changes whenever a name in it comes, goes or changes, and never by moving the folder. So
two looks at the clock stand for reading a folder through; only where a script writes by custom is looked for what it
left. The slow way, which empties whatever it finds, is the janitor's.
"""
# Plain os calls, no Path objects: once per item, where an object costs more than the system call.
# ruff: noqa: PTH104, PTH208

from __future__ import annotations

import os
import stat
import time

import msgspec

#: A change in the same tick of the kernel's clock as the last one shows no difference.
_TICK_NS = 20_000_000
#: Name of the empty file that the next input may become. It lies where inputs do, so the item's folder stays as it is.
BLANK = ".blank"


#: A regular file that its owner can read, and no bit beside the usual rights.
_KIND, _OURS = ~0o377, stat.S_IFREG | stat.S_IRUSR
_KNOWN = {"in", "out", "work", "env", "code", "log"}


class Mark(msgspec.Struct, frozen=True):
    """An item's folder and its working folder, just before its script starts: modification time, links, rights."""

    root: tuple[int, int, int]
    work: tuple[int, int, int]


def mark(root: str) -> Mark | None:
    """What to compare with when the item is over; None = it has changed too lately, so it must be read through."""
    above, work = _look(root), _look(f"{root}/work")
    if max(above[0], work[0]) > time.time_ns() - _TICK_NS:
        return None
    return Mark(above, work)


def _look(path: str) -> tuple[int, int, int]:
    return _seen(os.lstat(path))


def _seen(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_nlink, status.st_mode


def reset(root: str, before: Mark | None) -> bool:
    """Make an item's folder as it was before its input came; False = it is not as it was, whatever was done to it by
    then. Raises OSError.
    """
    made, work = os.lstat(root), os.lstat(f"{root}/work")
    rights = made.st_mode, made.st_uid, made.st_gid
    for status in (work, os.lstat(f"{root}/in"), os.lstat(f"{root}/out")):
        if (status.st_mode, status.st_uid, status.st_gid) != rights:
            return False
    unread = before is None or _seen(made) != before.root or _seen(work) != before.work
    if unread and (os.listdir(f"{root}/work") or not _KNOWN.issuperset(os.listdir(root))):
        return False
    if os.listdir(f"{root}/out"):
        return False
    inputs = os.listdir(f"{root}/in")
    if len(inputs) > 1 or not blanked(f"{root}/env", made) or not blanked(f"{root}/code", made):
        return False
    output = os.lstat(f"{root}/log")
    if output.st_size or output.st_nlink != 1 or not stat.S_ISREG(output.st_mode):
        return False
    if inputs:
        path = f"{root}/in/{inputs[0]}"
        if not blanked(path, made):
            return False
        os.rename(path, f"{root}/in/{BLANK}")
    return True


def like(status: os.stat_result, made: os.stat_result, kind: int) -> bool:
    """Of this kind, with the owner and the rights of what was made with it."""
    same = (status.st_uid, status.st_gid) == (made.st_uid, made.st_gid)
    return same and stat.S_IFMT(status.st_mode) == kind and stat.S_IMODE(status.st_mode) == stat.S_IMODE(made.st_mode)


def blanked(path: str, made: os.stat_result) -> bool:
    """Make a file empty; False = it is not one that we, or a script under our account, wrote. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # a link, or a FIFO
        return False
    try:
        status = os.fstat(descriptor)
        ours = status.st_mode & _KIND == _OURS and status.st_nlink == 1 and status.st_uid == made.st_uid
        ours = ours and not os.listxattr(descriptor)
        if ours and status.st_size:
            # By the open file: once it is closed the next writer's data is no longer hurried to the disk.
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
    return ours
