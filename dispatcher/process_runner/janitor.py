"""Removes Jobs' folders off the event loop: out of the way by one rename, emptied later, many at a time, in threads.

Deleting a dozen small files takes milliseconds on a disk that is busy syncing other files, and nobody waits for it. The
rename is what makes a Job forgotten: after a crash whatever lies in the bin is deleted, and nothing else. Items'
folders that are as they were made, once emptied, are kept for the next items, together with the files of variables and
of the code: on some file systems a new folder or file costs more than everything else we do for an item, the more so
while many were deleted a moment ago (ext4 without a journal passes over their inodes one by one).
"""
# Plain os calls, no Path objects: once per Job, where an object costs more than the system call.
# ruff: noqa: PTH103, PTH104, PTH106, PTH108, PTH208

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor

from dispatcher.process_runner.layout import ITEM_PARTS, remove_tree

FOLDER = ".bin"
#: A folder of its own: taking one out does not wait for what is being deleted in the bin.
SPARE_FOLDER = ".spare"

#: Files of an item that mean nothing while they are empty.
_REUSED = frozenset({"env", "code"})
#: Emptied items' folders kept.
_SPARE = 200
#: Time to gather folders for one batch: a thread's round trip costs as much as deleting a few files.
_GATHER_S = 0.1
_THREADS = 2
#: Folders waiting to be deleted beyond which `discard` waits: the disk must not fill with what is already forgotten.
_MOST = 1000


class Janitor:
    def __init__(self, workdir: str) -> None:
        """Takes over what an earlier life left in the bin. Raises OSError."""
        self._folder = f"{workdir}/{FOLDER}"
        self._spares = f"{workdir}/{SPARE_FOLDER}"
        for folder in (self._folder, self._spares):
            os.makedirs(folder, exist_ok=True)
        self._life = secrets.token_hex(4)
        self._count = 0
        self._waiting = [f"{folder}/{name}" for folder in (self._folder, self._spares) for name in os.listdir(folder)]
        self._spare: collections.deque[str] = collections.deque()  # its ends are safe to use from any thread
        self._recycled = 0
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="janitor")
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Future[None] | None = None
        self._schedule()

    def throw(self, path: str) -> None:
        """Put a folder into the bin; it is gone from its place when this returns. A missing one is fine."""
        self._count += 1
        target = f"{self._folder}/{self._life}-{self._count:x}"
        try:
            os.rename(path, target)
        except FileNotFoundError:
            return
        except OSError:  # the bin cannot be used: then at once
            remove_tree(path)
            return
        self._waiting.append(target)
        self._schedule()

    def spare(self, path: str) -> bool:
        """Put an empty item's folder there, if there is one to spare and nothing else in its place."""
        while self._spare:
            try:
                os.rename(self._spare.pop(), path)
            except OSError:
                continue
            return True
        return False

    async def discard(self, path: str) -> None:
        """As `throw`, but waits while far too much lies in the bin."""
        self.throw(path)
        while len(self._waiting) > _MOST:
            await self._empty()

    def _schedule(self) -> None:
        if self._waiting and self._timer is None and self._work is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER_S, self._start)

    def _start(self) -> None:
        self._timer = None
        batch, self._waiting = self._waiting, []
        if batch:
            self._work = asyncio.get_running_loop().run_in_executor(self._threads, self._remove_all, batch)
            self._work.add_done_callback(self._done)

    def _done(self, _: asyncio.Future[None]) -> None:
        self._work = None
        self._schedule()

    async def _empty(self) -> None:
        if self._work is None:
            if self._timer is not None:
                self._timer.cancel()
            self._start()
        if self._work is not None:
            await asyncio.wait({self._work})

    async def close(self) -> None:
        while self._waiting or self._work is not None:
            await self._empty()
        if self._timer is not None:
            self._timer.cancel()
        self._threads.shutdown(wait=False)
        for path in self._spare:
            remove_tree(path)
        for folder in (self._folder, self._spares):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def _remove_all(self, paths: list[str]) -> None:
        """In a thread."""
        for path in paths:
            self._recycle_items(path)
            remove_tree(path)

    def _recycle_items(self, job: str) -> None:
        with contextlib.suppress(OSError), os.scandir(job) as entries:
            for entry in entries:
                if len(self._spare) >= _SPARE:
                    return
                if entry.name.isdigit() and entry.is_dir(follow_symlinks=False) and emptied(entry.path):
                    self._recycled += 1
                    kept = f"{self._spares}/{self._life}-{self._recycled:x}"
                    os.rename(entry.path, kept)
                    self._spare.append(kept)


def emptied(item: str) -> bool:
    """Remove all files of an item but those of `_REUSED`, which become empty; False = it does not look as it did when
    it was new. Raises OSError.
    """
    made = os.lstat(item)
    parts = [f"{item}/{name}" for name in ITEM_PARTS]
    for path in parts:
        status = os.lstat(path)
        same = (status.st_mode, status.st_uid, status.st_gid) == (made.st_mode, made.st_uid, made.st_gid)
        if not stat.S_ISDIR(status.st_mode) or not same or os.listxattr(path):
            return False
    for folder in (item, *parts):
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    if entry.name not in _REUSED or folder != item or not _blanked(entry.path, made):
                        os.unlink(entry.path)
                elif entry.path not in parts:
                    return False
    return True


def _blanked(path: str, made: os.stat_result) -> bool:
    """Make a file empty; False = it is not the one that we wrote. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        ours = (status.st_mode & ~0o777, status.st_nlink, status.st_uid) == (stat.S_IFREG, 1, made.st_uid)
        if ours:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
    return ours and bool(status.st_mode & stat.S_IRUSR)
