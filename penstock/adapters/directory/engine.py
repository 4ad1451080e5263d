"""The synchronous half of the directory store, buckets and reading: blocking calls, run in threads by `store`.

Raises Penstock's errors only. `publishing` adds what writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from penstock.adapters.directory import beneath, copying, listing, names, paths, trouble
from penstock.adapters.directory.durable import FolderSync, Scratch
from penstock.adapters.directory.metadata import Metadata
from penstock.adapters.target import open_target
from penstock.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    NotFound,
    OutOfSpace,
    Superseded,
    Unavailable,
    Unsupported,
)
from penstock.model import ObjectInfo
from penstock.model.buckets import check_bucket, legal_bucket

#: A file changed longer ago is taken for finished without asking whether a program still has it open for writing.
WRITER_CHECK_NS = 24 * 3600 * 1_000_000_000
_FOLDER_MODE = 0o777


class Probe(NamedTuple):
    """What the watcher asks about a file before it takes it."""

    info: ObjectInfo
    #: A program holds it open for writing; None = the system will not say.
    writer: bool | None
    #: Unchanged for the settle time, or published by a store.
    settled: bool


class Engine:
    def __init__(self, root: Path, *, settle_s: float, attributes: bool = True) -> None:
        """Raises Forbidden, OutOfSpace, InvalidInput (not a folder), Unavailable."""
        self.settle_ns = int(settle_s * 1_000_000_000)
        try:
            root.mkdir(parents=True, exist_ok=True)
            self.root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.scratch = Scratch(self.root)
            self.scratch.sweep()
            #: What can be moved into a bucket lies on it.
            self.device = os.fstat(self.scratch.descriptor).st_dev
        except OSError as error:
            raise trouble.about_root(error, root) from error
        self.metadata = Metadata(self.scratch.descriptor, attributes=attributes)
        self.sync = FolderSync()

    def close(self) -> None:
        self.scratch.close()
        os.close(self.root)

    # Buckets

    def buckets(self) -> list[str]:
        try:
            with os.scandir(self.root) as entries:
                found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            raise Unavailable(f"the buckets cannot be listed now: {error.strerror}") from error
        return sorted(filter(legal_bucket, found))

    def create_bucket(self, bucket: str) -> bool:
        check_bucket(bucket)
        try:
            os.mkdir(bucket, _FOLDER_MODE, dir_fd=self.root)
        except FileExistsError as error:
            if not self.bucket_exists(bucket):
                raise AlreadyExists(f"the bucket {bucket!r} cannot be made: its name is taken by a file") from error
            return False
        except OSError as error:
            raise trouble.translate(error, bucket, "", "made") from error
        self.sync.sync(self.root)
        return True

    def delete_bucket(self, bucket: str) -> None:
        if not legal_bucket(bucket):
            raise trouble.no_bucket(bucket)
        try:
            with paths.folder(self.root, [bucket]) as folder:
                _remove_empty_folders(folder)
            os.rmdir(bucket, dir_fd=self.root)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                raise Conflict(f"the bucket {bucket!r} is not empty: delete its objects first") from error
            if error.errno in trouble.ABSENT:
                raise trouble.no_bucket(bucket) from error
            raise trouble.translate(error, bucket, "", "deleted") from error
        self.metadata.forget_bucket(bucket)
        self.sync.sync(self.root)

    def bucket_exists(self, bucket: str) -> bool:
        if not legal_bucket(bucket):
            return False
        try:
            return stat.S_ISDIR(os.stat(bucket, dir_fd=self.root, follow_symlinks=False).st_mode)
        except OSError:
            return False

    # Looking

    @contextlib.contextmanager
    def locate(self, bucket: str, key: str, doing: str) -> Iterator[tuple[int, str]]:
        """Open the folder of a key and translate what the system raises inside. Raises NotFound, Forbidden, ..."""
        parts = names.split_key(key)
        if not legal_bucket(bucket):
            raise trouble.no_bucket(bucket)
        try:
            with paths.folder(self.root, [bucket, *parts[:-1]]) as folder:
                yield folder, parts[-1]
        except OSError as error:
            if error.errno in trouble.ABSENT and not self.bucket_exists(bucket):
                raise trouble.no_bucket(bucket) from error
            raise trouble.translate(error, bucket, key, doing) from error

    def head(self, bucket: str, key: str) -> ObjectInfo:
        with self.locate(bucket, key, "read") as (folder, name):
            status = paths.status_of(folder, name)
            return paths.info_of(bucket, key, status, self.metadata.read(bucket, key, folder, status))

    def probe(self, places: Sequence[tuple[str, str]]) -> list[Probe | None]:
        """Look at many (bucket, key). None = gone, no regular file, no possible name, or in an unreadable folder."""
        found: list[Probe | None] = []
        for bucket, key in places:
            try:
                with self.locate(bucket, key, "read") as (folder, name):
                    # Asked before the file is looked at: what is written in between is another version, not half a one.
                    writer = paths.being_written(folder, name)
                    status = paths.status_of(folder, name)
                    metadata = self.metadata.read(bucket, key, folder, status)
            except (Forbidden, NotFound, OutOfSpace, Unsupported):
                found.append(None)
                continue
            age = time.time_ns() - status.st_ctime_ns
            settled = metadata is not None or not 0 <= age < self.settle_ns
            found.append(Probe(paths.info_of(bucket, key, status, metadata), writer, settled))
        return found

    def pages(self, bucket: str, prefix: str, after: str) -> Iterator[list[ObjectInfo]]:
        if not legal_bucket(bucket):
            raise trouble.no_bucket(bucket)

        def finished(folder: int, name: str, key: str, status: os.stat_result) -> bool:
            return self._finished(bucket, key, folder, name, status)

        return listing.pages(self.root, bucket, prefix, after, finished)

    def _finished(self, bucket: str, key: str, folder: int, name: str, status: os.stat_result) -> bool:
        # Every change of content also sets the change time, which no program can set back. A clock that was set back
        # makes the age negative: then only the question for a writer is left.
        age = time.time_ns() - status.st_ctime_ns
        if age > WRITER_CHECK_NS:
            return True
        if 0 <= age < self.settle_ns and self.metadata.read(bucket, key, folder, status) is None:
            return False
        return not paths.being_written(folder, name)

    # Reading

    def open(self, bucket: str, key: str) -> tuple[int, os.stat_result]:
        """Open for reading; the caller closes."""
        if beneath.AVAILABLE and legal_bucket(bucket):
            names.split_key(key)
            with contextlib.suppress(OSError):  # the way below finds out what is wrong, and says it
                return paths.checked(beneath.open_beneath(self.root, f"{bucket}/{key}", paths.FILE))
        with self.locate(bucket, key, "read") as (folder, name):
            return paths.open_file(folder, name)

    def open_version(self, info: ObjectInfo) -> int:
        """Open exactly this version. Raises NotFound, Superseded."""
        if info.version_id is not None:
            raise trouble.no_object(info.bucket, f"{info.key} (version {info.version_id})")
        descriptor, status = self.open(info.bucket, info.key)
        if paths.etag_of(status) != info.etag:
            os.close(descriptor)
            raise _superseded(info)
        return descriptor

    def fetch(self, info: ObjectInfo, target: Path, abort: copying.Abort | None) -> None:
        """Copy to a new file; without `abort` in one step (small files)."""
        source = self.open_version(info)
        try:
            output = _create_target(info, target)
            try:
                if abort is None:
                    copying.copy_small(source, output, info.size)
                else:
                    copying.copy(source, output, info.size, abort)
                # Whatever the umask: scripts may write to their input (data plane contract).
                os.fchmod(output, 0o666)
                if paths.etag_of(os.fstat(source)) != info.etag:
                    raise _superseded(info)  # noqa: TRY301 - one clean-up for every way out
            except BaseException:
                target.unlink(missing_ok=True)
                raise
            finally:
                os.close(output)
        except OSError as error:
            raise trouble.translate(error, info.bucket, info.key, "copied") from error
        finally:
            os.close(source)


def _remove_empty_folders(folder: int) -> None:
    """Remove empty folders below an open one, deepest first. Raises OSError (ENOTEMPTY: it holds something)."""
    for name in os.listdir(folder):
        try:
            below = paths.open_folder(folder, name)
        except NotADirectoryError as error:
            raise OSError(errno.ENOTEMPTY, "holds a file") from error
        try:
            _remove_empty_folders(below)
        finally:
            os.close(below)
        os.rmdir(name, dir_fd=folder)


def _create_target(info: ObjectInfo, target: Path) -> int:
    """Trouble with the target must not look like trouble with the object: a missing folder is no missing object."""
    try:
        return open_target(target)
    except FileExistsError as error:
        raise AlreadyExists(f"{info.key!r} cannot be copied to {str(target)!r}: there is a file already") from error
    except OSError as error:
        if error.errno in trouble.FULL:
            raise OutOfSpace(f"{info.key!r} cannot be copied to {str(target)!r}: the disk or quota is full") from error
        raise Unavailable(f"{info.key!r} cannot be copied to {str(target)!r}: {error.strerror}") from error


def _superseded(info: ObjectInfo) -> Superseded:
    return Superseded(f"the object {info.key!r} in bucket {info.bucket!r} was replaced by another version")
