"""Removes Jobs' folders off the event loop: out of the way by one rename, emptied later, many at a time, in threads.

Deleting a dozen small files takes milliseconds on a disk that is busy syncing other files, and nobody waits for it. The
rename is what makes a Job forgotten: after a crash whatever lies in the bin is deleted, and nothing else. Folders of
Jobs and items that are as they were made, once emptied, are kept for the next ones, together with the files that every
Job and item has: on some file systems a new folder or file costs more than everything else we do for an item, the more
so while many were deleted a moment ago (ext4 without a journal passes over their inodes one by one).
"""
# Plain os calls, no Path objects: once per Job, where an object costs more than the system call.
# ruff: noqa: PTH103, PTH104, PTH106, PTH108, PTH208

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from dispatcher.process_runner.layout import ITEM_PARTS, remove_tree
from dispatcher.process_runner.reuse import BLANK, Mark, blanked, like, reset

FOLDER = ".bin"
#: A folder of its own: taking one out does not wait for what is being deleted in the bin.
SPARE_FOLDER = ".spare"

#: Files that mean nothing while they are empty: of an item, and of a Job.
_ITEM_FILES = frozenset({"env", "code", "log"})
_JOB_FILES = frozenset({"script.sh", "plan.json", "launcher", "notes"})
#: Emptied folders kept, of each kind.
_SPARE = 400
_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})
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
        # The ends of a deque are safe to use from any thread.
        self._spare_items: collections.deque[str] = collections.deque()
        self._spare_jobs: collections.deque[str] = collections.deque()
        self._recycled = 0
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="janitor")
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Future[None] | None = None
        self._schedule()

    def throw(self, path: str) -> None:
        """Put a folder into the bin; it is gone from its place when this returns. A missing one is fine."""
        self._empty_later(self._binned(path))

    def _empty_later(self, target: str) -> None:
        if target:
            self._waiting.append(target)
            self._schedule()

    def _binned(self, path: str) -> str:
        """Where it is now, "" = nowhere."""
        self._count += 1
        target = f"{self._folder}/{self._life}-{self._count:x}"
        try:
            os.rename(path, target)
        except FileNotFoundError:
            return ""
        except OSError:  # the bin cannot be used: then at once
            remove_tree(path)
            return ""
        return target

    def keep_item(self, path: str, mark: Mark | None) -> bool:
        """Keep an item's folder for the next one, if it is as it was; False = it stays where it is."""
        try:
            if len(self._spare_items) >= _SPARE or not reset(path, mark):
                return False
            self._spare_items.append(self._keep(path))
        except OSError:
            return False
        return True

    def _recycled_at_once(self, job: str, marks: Mapping[str, Mark | None]) -> bool:
        """Keep the items' folders that are as they were, and the Job's, if nothing else is left in it."""
        try:
            whole = all(self.keep_item(f"{job}/{name}", mark) for name, mark in marks.items())
            return whole and self._recycle_job(job)
        except OSError:
            return False

    def spare_item(self, path: str) -> bool:
        """Put an empty item's folder there, if there is one to spare and nothing else in its place."""
        return _put(self._spare_items, path)

    def spare_job(self, path: str) -> bool:
        """The same with a Job's folder."""
        return _put(self._spare_jobs, path)

    async def discard(self, path: str, marks: Mapping[str, Mark | None] | None = None) -> None:
        """As `throw` for a Job's folder, but waits while far too much lies in the bin. `marks` of its items, by name:
        what is as it was then is used again at once, without a thread.
        """
        target = self._binned(path)
        if marks is None or not target or not self._recycled_at_once(target, marks):
            self._empty_later(target)
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
        for path in (*self._spare_items, *self._spare_jobs):
            remove_tree(path)
        for folder in (self._folder, self._spares):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def _remove_all(self, paths: list[str]) -> None:
        """In a thread."""
        for path in paths:
            try:
                whole = self._recycle_items(path) and self._recycle_job(path)
            except OSError:
                whole = False
            if not whole:
                remove_tree(path)

    def _recycle_items(self, job: str) -> bool:
        """False = something is left that is no file of a Job. Raises OSError."""
        whole = True
        with os.scandir(job) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                if len(self._spare_items) < _SPARE and entry.name.isdigit() and emptied_item(entry.path):
                    self._spare_items.append(self._keep(entry.path))
                else:
                    whole = False
        return whole

    def _recycle_job(self, job: str) -> bool:
        if len(self._spare_jobs) >= _SPARE or not emptied_job(job):
            return False
        self._spare_jobs.append(self._keep(job))
        return True

    def _keep(self, path: str) -> str:
        self._recycled += 1
        kept = f"{self._spares}/{self._life}-{self._recycled:x}"
        os.rename(path, kept)
        return kept


def _put(spare: collections.deque[str], path: str) -> bool:
    while spare:
        try:
            kept = spare.pop()
        except IndexError:  # the other thread was faster
            return False
        try:
            os.rename(kept, path)
        except OSError as error:
            if error.errno in _TAKEN:
                spare.append(kept)
                return False
            continue
        return True
    return False


def emptied_item(item: str) -> bool:
    """Remove all files of an item but those that every item has, which become empty, and one input, which becomes
    `blank`; False = it does not look as it did when it was new. Raises OSError.
    """
    made = os.lstat(item)
    parts = [f"{item}/{name}" for name in ITEM_PARTS]
    for path in parts:
        if not like(os.lstat(path), made, stat.S_IFDIR) or os.listxattr(path):
            return False
    _save_input(item, made)
    kept = {item: _ITEM_FILES, f"{item}/in": frozenset({BLANK})}
    return all(_cleared(folder, kept.get(folder, frozenset()), parts, made) for folder in (item, *parts))


def emptied_job(job: str) -> bool:
    """The same with a Job whose items are gone. Raises OSError."""
    made = os.lstat(job)
    return _cleared(job, _JOB_FILES, [], made) and _private(f"{job}/plan.json")


def _private(path: str) -> bool:
    """The next Job's secrets will be in it."""
    return not os.lstat(path).st_mode & 0o077


def _cleared(folder: str, kept: frozenset[str], folders: list[str], made: os.stat_result) -> bool:
    """Unlink what is no kept file and make those empty; False = there is a folder beside the known ones."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                if entry.name not in kept or not blanked(entry.path, made):
                    os.unlink(entry.path)
            elif entry.path not in folders:
                return False
    return True


def _save_input(item: str, made: os.stat_result) -> None:
    """A file of the input's folder is kept for the next input, under a name that says nothing."""
    with os.scandir(f"{item}/in") as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False) and blanked(entry.path, made):
                os.rename(entry.path, f"{item}/in/{BLANK}")
                return
