"""Keeps inotify watches on every folder of the watched buckets and knows which folder each watch stands for.

inotify watches single folders, so each new folder needs its own watch, set before the folder is read: what is put into
it earlier is found by reading it, what is put later is told. Symbolic links are never followed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import structlog
from asyncinotify import Inotify, Mask, Watch

log = structlog.get_logger("watcher.directory")

_MASK = (
    Mask.CLOSE_WRITE
    | Mask.MOVED_TO
    | Mask.MOVED_FROM
    | Mask.CREATE
    | Mask.ONLYDIR
    | Mask.DONT_FOLLOW
    | Mask.EXCL_UNLINK
)
#: Bytes per read: some 1,000 events of usual size, two or three milliseconds of work.
_BUFFER = 48 * 1024
_HEADER = struct.Struct("iIII")  # struct inotify_event: watch, mask, cookie, length of the name
_IGNORED = int(Mask.IGNORED)
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
#: Folders watched between two turns of the event loop.
_SLICE = 50


class Notice(NamedTuple):
    """One raw event of the kernel."""

    watch: int
    mask: int
    name: str


class _Reader(Inotify):
    """Reads many events at once as plain tuples: the base class makes three objects and two paths of each, which would
    be most of what an event costs.
    """

    def drain(self) -> list[Notice]:
        """What is queued, up to one buffer full; [] = nothing. Raises OSError."""
        try:
            raw = os.read(self.fd, _BUFFER)
        except BlockingIOError:
            return []
        notices: list[Notice] = []
        position, end, size = 0, len(raw), _HEADER.size
        while position < end:
            watch, mask, _, length = _HEADER.unpack_from(raw, position)
            position += size
            name = os.fsdecode(raw[position : position + length].rstrip(b"\0")) if length else ""
            position += length
            if mask & _IGNORED:
                self._watches.pop(watch, None)
            notices.append(Notice(watch, mask, name))
        return notices


class WatchLimitReached(Exception):
    """The system allows no further watch; the bucket must be observed in another way."""


class Scope:
    """The part of a bucket below some key prefixes."""

    def __init__(self, prefixes: Collection[str]) -> None:
        self._prefixes = tuple(sorted(prefixes))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scope) and self._prefixes == other._prefixes

    def __hash__(self) -> int:
        return hash(self._prefixes)

    def holds(self, key: str) -> bool:
        return key.startswith(self._prefixes)

    def may_hold(self, folder: str) -> bool:
        """Whether a wanted key can lie somewhere below a folder ("a/b/")."""
        return folder.startswith(self._prefixes) or any(prefix.startswith(folder) for prefix in self._prefixes)


class WatchTree:
    """Watches by bucket and folder. A folder is a key prefix: "" or "a/b/". The root itself is ("", "")."""

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root)
        self._reader = _Reader()
        os.set_blocking(self._reader.fd, False)
        self._closed = False
        self._places: dict[int, tuple[str, str]] = {}
        self._watches: dict[tuple[str, str], Watch] = {}

    @property
    def descriptor(self) -> int:
        """Readable when there is something to drain. Raises ValueError after `close`."""
        return self._reader.fd

    def drain(self) -> list[Notice]:
        return [] if self._closed else self._reader.drain()

    def watch_root(self) -> None:
        """Tell of buckets that are made. Raises WatchLimitReached."""
        self._add("", "")

    async def watch(self, bucket: str, folder: str = "", wanted: Scope | None = None) -> list[str]:
        """Watch a folder and all below that holds or may hold something `wanted` (None = everything). Returns the keys
        of the files that were there. Raises WatchLimitReached.
        """
        files: list[str] = []
        todo = [folder]
        turn = 0
        while todo:
            current = todo.pop()
            turn += 1
            if turn % _SLICE == 0:
                await asyncio.sleep(0)
            if not self._add(bucket, current):
                continue
            folders, names = await asyncio.to_thread(self._scan, bucket, current)
            below = [f"{current}{name}/" for name in folders]
            keys = [current + name for name in names]
            todo += below if wanted is None else filter(wanted.may_hold, below)
            files += keys if wanted is None else filter(wanted.holds, keys)
        return files

    def forget(self, bucket: str, folder: str = "") -> None:
        """Remove the watches of a folder and all below: it was moved away, or is no longer wanted."""
        for place in [place for place in self._watches if place[0] == bucket and place[1].startswith(folder)]:
            watch = self._watches.pop(place)
            if self._places.get(watch.wd) != place:
                continue  # the folder has a new name by now and keeps its watch
            del self._places[watch.wd]
            if self._closed:
                continue
            try:
                self._reader.rm_watch(watch)
            except OSError as error:
                if error.errno != errno.EINVAL:  # the kernel removed it together with the folder
                    raise

    def dropped(self, number: int) -> None:
        """The kernel removed a watch: its folder is gone."""
        place = self._places.pop(number, None)
        watch = self._watches.get(place) if place is not None else None
        if place is not None and watch is not None and watch.wd == number:
            del self._watches[place]

    def place(self, number: int) -> tuple[str, str] | None:
        return self._places.get(number)

    def number(self, bucket: str, folder: str) -> int | None:
        """The kernel's number of a folder's watch: the same as before means the same folder as before."""
        watch = self._watches.get((bucket, folder))
        return watch.wd if watch is not None else None

    def close(self) -> None:
        self._closed = True
        self._reader.close()

    def _add(self, bucket: str, folder: str) -> bool:
        """False = there is no such folder, or it may not be read."""
        if self._closed:
            return False
        path = f"{self._root}/{bucket}/{folder}" if bucket else self._root
        try:
            watch = self._reader.add_watch(path, _MASK)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.ENOMEM}:
                raise WatchLimitReached from error
            if error.errno not in _GONE:
                log.warning(
                    "folder cannot be watched",
                    action="watch_failed",
                    bucket=bucket,
                    folder=folder,
                    error=error.strerror,
                )
            return False
        self._places[watch.wd] = (bucket, folder)
        self._watches[bucket, folder] = watch
        return True

    def _scan(self, bucket: str, folder: str) -> tuple[list[str], list[str]]:
        folders: list[str] = []
        names: list[str] = []
        for entry in self._entries(bucket, folder):
            (folders if entry.is_dir(follow_symlinks=False) else names).append(entry.name)
        return folders, names

    def _entries(self, bucket: str, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(f"{self._root}/{bucket}/{folder}") as entries:
                yield from entries
        except OSError as error:
            if error.errno not in _GONE:
                log.warning(
                    "folder cannot be read", action="scan_failed", bucket=bucket, folder=folder, error=error.strerror
                )
