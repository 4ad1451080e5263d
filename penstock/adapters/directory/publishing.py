"""The synchronous half of the directory store, writing: objects appear whole, durable, and never half done.

Each operation is undone when it fails, or when `abort` is set before its last step: the rename that makes the object
appear. Concurrent deletes may remove a folder under a writer's feet; it then walks down again.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock.adapters.directory import copying, names, paths, trouble
from penstock.adapters.directory.durable import rename_new
from penstock.adapters.directory.engine import Engine
from penstock.errors import AlreadyExists, NotFound, PenstockError
from penstock.model import ObjectInfo

#: How often a writer makes its folder anew before it gives up.
TRIES = 100


def _read_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


#: Read once at import: asking means setting it for an instant, which concurrent threads would notice.
UMASK = _read_umask()


class _Placed:
    """A file that has its name; open folders whose entries are not durable yet."""

    __slots__ = ("folders", "info", "replaced")

    info: ObjectInfo

    def __init__(self, folders: list[int]) -> None:
        self.folders = folders
        #: Etag of the object that was there before, "" = none.
        self.replaced = ""

    def close(self) -> None:
        for descriptor in self.folders:
            os.close(descriptor)


class Publisher(Engine):
    def commit(
        self,
        descriptor: int,
        scratch: str,
        bucket: str,
        key: str,
        metadata: Mapping[str, str] | None,
        *,
        if_absent: bool = False,
        abort: copying.Abort,
    ) -> ObjectInfo:
        """Give a complete scratch file its name. Closes the descriptor in any case; the scratch file is gone then."""
        moved = False
        try:
            try:
                self._seal(descriptor, bucket, key, metadata)
                # Closed for writing before it appears, so that nobody takes it for a file that is still being written.
                reader = os.open(scratch, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.scratch.descriptor)
            finally:
                os.close(descriptor)
            try:
                copying.check(abort)
                info = self._appear(reader, self.scratch.descriptor, scratch, bucket, key, if_absent=if_absent)
                moved = True
            finally:
                os.close(reader)
        except OSError as error:
            raise trouble.translate(error, bucket, key, "written") from error
        finally:
            if not moved:
                self.scratch.remove(scratch)
        return with_metadata(info, metadata)

    def publish_copy(
        self, source: Path, bucket: str, key: str, metadata: Mapping[str, str] | None, abort: copying.Abort
    ) -> ObjectInfo:
        self.check_target(bucket, key)
        descriptor, scratch = self.create_scratch(bucket, key)
        try:
            with source.open("rb", buffering=0) as stream:
                copying.copy(stream.fileno(), descriptor, os.fstat(stream.fileno()).st_size, abort)
        except BaseException as error:
            os.close(descriptor)
            self.scratch.remove(scratch)
            if isinstance(error, OSError):
                raise source_trouble(error, source, bucket, key) from error
            raise
        return self.commit(descriptor, scratch, bucket, key, metadata, abort=abort)

    def _seal(self, descriptor: int, bucket: str, key: str, metadata: Mapping[str, str] | None) -> None:
        """Set time and metadata and put everything on disk."""
        now = time.time_ns()
        os.utime(descriptor, ns=(now, now))  # as in S3, a version is as old as its upload
        self.metadata.prepare(bucket, key, descriptor, metadata)
        os.fsync(descriptor)

    def _appear(
        self, opened: int, source_folder: int, source: str, bucket: str, key: str, *, if_absent: bool
    ) -> ObjectInfo:
        """Rename into place, durably. Raises OSError, NotFound, Unsupported, AlreadyExists."""
        placed = self._place(opened, source_folder, source, bucket, key, if_absent=if_absent)
        try:
            self._confirm(placed)
        finally:
            placed.close()
        return placed.info

    def _place(
        self, opened: int, source_folder: int, source: str, bucket: str, key: str, *, if_absent: bool
    ) -> _Placed:
        """Rename into place. `opened` is the file itself, whose state is the answer: another writer may put another
        one in its place at any moment. Raises OSError, NotFound, Unsupported, AlreadyExists.
        """
        parts = names.split_key(key)
        for _ in range(TRIES):
            folder, grown = self.make_folders(bucket, key, (bucket, *parts[:-1]))
            placed = _Placed([folder, *grown])
            try:
                placed.replaced = self.replaced_by(folder, parts[-1])
                if rename(source_folder, source, folder, bucket, key, if_absent=if_absent):
                    placed.info = paths.info_of(bucket, key, os.fstat(opened))
                    return placed
            except BaseException:
                placed.close()
                raise
            placed.close()
        raise trouble.restless(bucket, key)

    def make_folders(self, bucket: str, key: str, folders: Sequence[str]) -> tuple[int, list[int]]:
        """The open folder of a key, and open folders that got a new child on the way; the caller closes all. Raises
        OSError, NotFound, Unsupported, Unavailable.
        """
        for _ in range(TRIES):
            try:
                return paths.make_folders(self.root, folders)
            except (NotADirectoryError, FileExistsError) as error:
                raise trouble.beside(bucket, key) from error
            except FileNotFoundError as error:
                if not self.bucket_exists(bucket):
                    raise trouble.no_bucket(bucket) from error
        raise trouble.restless(bucket, key)

    def replaced_by(self, folder: int, name: str) -> str:
        """Etag of the object that a new one is about to replace and of which something is kept beside it; "" = none."""
        return _etag_at(folder, name) if self.metadata.beside else ""

    def _confirm(self, placed: _Placed) -> None:
        """Make a rename durable. Raises OSError."""
        synced: dict[tuple[int, int], OSError | None] = {}
        for folder in placed.folders:
            self.sync_once(folder, synced)
        if placed.replaced:
            self.metadata.forget(placed.info.bucket, placed.info.key, placed.replaced)

    def sync_once(self, folder: int, synced: dict[tuple[int, int], OSError | None]) -> None:
        """`synced`: folders that were synced since all renames of a turn, and how that went (a second sync would not
        report the error of the first). Raises OSError.
        """
        status = os.fstat(folder)
        name = (status.st_dev, status.st_ino)
        if name not in synced:
            synced[name] = None
            try:
                self.sync.sync(folder)
            except OSError as failure:
                synced[name] = failure
        error = synced[name]
        if error is not None:
            raise error

    def delete(self, bucket: str, key: str) -> None:
        try:
            with self.locate(bucket, key, "deleted") as (folder, name):
                etag = paths.etag_of(paths.status_of(folder, name))
                os.unlink(name, dir_fd=folder)
        except NotFound:
            if not self.bucket_exists(bucket):
                raise
            return
        self.metadata.forget(bucket, key, etag)
        self._remove_folders(bucket, key.split("/")[:-1])

    def _remove_folders(self, bucket: str, folders: list[str]) -> None:
        """S3 knows no folders: remove those that became empty. A writer that is about to use one makes it again."""
        with contextlib.suppress(OSError):  # not empty, or somebody else removed it
            while folders:
                with paths.folder(self.root, [bucket, *folders[:-1]]) as above:
                    os.rmdir(folders.pop(), dir_fd=above)

    def check_target(self, bucket: str, key: str) -> None:
        """Refuse early, before anything is copied. Raises Unsupported, NotFound."""
        names.split_key(key)
        if not self.bucket_exists(bucket):
            raise trouble.no_bucket(bucket)

    def create_scratch(self, bucket: str, key: str) -> tuple[int, str]:
        try:
            return self.scratch.create()
        except OSError as error:
            raise trouble.translate(error, bucket, key, "written") from error


def _etag_at(folder: int, name: str) -> str:
    """Etag of the object there is, "" if there is none."""
    try:
        return paths.etag_of(paths.status_of(folder, name))
    except OSError:
        return ""


def rename(source_folder: int | None, source: str, folder: int, bucket: str, key: str, *, if_absent: bool) -> bool:
    """False = the folder vanished meanwhile. Raises OSError, Unsupported, AlreadyExists."""
    name = key.rpartition("/")[2]
    for attempt in range(2):
        try:
            if if_absent:
                rename_new(source_folder, source, folder, name)
            else:
                os.rename(source, name, src_dir_fd=source_folder, dst_dir_fd=folder)
        except FileNotFoundError:
            if os.fstat(folder).st_nlink:  # the folder is there, so it is the source that is not
                raise
            return False
        except (IsADirectoryError, FileExistsError) as error:
            if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise AlreadyExists(f"the object {key!r} in bucket {bucket!r} exists already") from error
            if attempt:
                raise trouble.beside(bucket, key) from error
            with contextlib.suppress(OSError):  # an empty folder is no object and must not be in the way of one
                os.rmdir(name, dir_fd=folder)
        else:
            return True
    return False


def source_trouble(error: OSError, source: Path, bucket: str, key: str) -> PenstockError:
    if error.errno in trouble.ABSENT:
        return NotFound(f"there is no file {str(source)!r} to be published")
    return trouble.translate(error, bucket, key, "written")


def with_metadata(info: ObjectInfo, metadata: Mapping[str, str] | None) -> ObjectInfo:
    if not metadata:
        return info
    return ObjectInfo(
        bucket=info.bucket,
        key=info.key,
        etag=info.etag,
        size=info.size,
        modified_ms=info.modified_ms,
        arrived_ms=info.arrived_ms,
        metadata=dict(metadata),
    )
