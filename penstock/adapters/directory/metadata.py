"""Keeps an object's metadata with its file: in an extended attribute, else in a hidden file beside the buckets.

The attribute is set before the file gets its name, so both appear at once. It names the size and modification time that
it belongs to: when another program rewrites the file in place, or copies it with its attributes, the old lineage no
longer counts. Its presence also tells that a file came whole through `write` or `publish`, so no settle time applies.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Mapping

import msgspec

from penstock.adapters.directory.paths import etag_of
from penstock.errors import InvalidInput

ATTRIBUTE = "user.penstock"
#: As S3. Extended attributes hold at least this on every file system that has them.
MAX_METADATA_BYTES = 2048

_FOLDER = "meta"
_UNSUITED = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.E2BIG, errno.ERANGE, errno.ENOSPC})


class _Stored(msgspec.Struct, array_like=True):
    size: int
    modified_ns: int
    metadata: dict[str, str]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Stored).decode


class Metadata:
    """`hidden` is the descriptor of the hidden folder; `attributes` = False forces the fallback."""

    def __init__(self, hidden: int, *, attributes: bool = True) -> None:
        self._hidden = hidden
        self._attributes = attributes and hasattr(os, "setxattr")
        #: Some object may have its metadata in a hidden file.
        self.beside = self._has_folder()

    def prepare(self, bucket: str, key: str, descriptor: int, metadata: Mapping[str, str] | None) -> None:
        """Attach to a file that has its final content and times but not its name. Raises InvalidInput, OSError."""
        raw = self.attach(descriptor, metadata)
        if raw:
            self.keep_beside(bucket, key, descriptor, raw)

    def attach(self, descriptor: int, metadata: Mapping[str, str] | None) -> bytes:
        """The half of `prepare` that waits for no disk. Returns what `keep_beside` has to keep, b"" = nothing. Raises
        InvalidInput, OSError.
        """
        raw = self._pack(os.fstat(descriptor), metadata)
        if not self._attributes:
            return raw
        try:
            os.setxattr(descriptor, ATTRIBUTE, raw)
        except OSError as error:
            if error.errno not in _UNSUITED:
                raise
            return raw
        return b""

    def keep_beside(self, bucket: str, key: str, descriptor: int, raw: bytes) -> None:
        """The other half. Raises OSError."""
        self._write_beside(bucket, key, etag_of(os.fstat(descriptor)), raw)

    def _pack(self, status: os.stat_result, metadata: Mapping[str, str] | None) -> bytes:
        try:
            raw = _encode(_Stored(status.st_size, status.st_mtime_ns, dict(metadata or {})))
        except UnicodeEncodeError as error:
            raise InvalidInput("object metadata must be valid Unicode text") from error
        if len(raw) > MAX_METADATA_BYTES:
            raise InvalidInput(f"object metadata takes {len(raw)} bytes; {MAX_METADATA_BYTES} are possible")
        return raw

    def read(self, bucket: str, key: str, folder: int, status: os.stat_result) -> dict[str, str] | None:
        """Metadata of the version that `status` describes; None = the file did not come through this store.

        Never raises for a file that is gone or unreadable: its content tells that better.
        """
        raw = self._read_attribute(folder, key.rpartition("/")[2])
        if raw is None:
            raw = self._read_beside(bucket, key, etag_of(status))
        if raw is None:
            return None
        try:
            stored = _decode(raw)
        except msgspec.MsgspecError:
            return None  # somebody else's attribute of the same name
        if (stored.size, stored.modified_ns) != (status.st_size, status.st_mtime_ns):
            return None
        return stored.metadata

    def _read_attribute(self, folder: int, name: str) -> bytes | None:
        if not self._attributes:
            return None
        try:
            # There is no call that takes a folder's descriptor and a name; this path is the same and follows no link.
            return os.getxattr(f"/proc/self/fd/{folder}/{name}", ATTRIBUTE, follow_symlinks=False)
        except OSError:
            return None

    def forget(self, bucket: str, key: str, etag: str) -> None:
        """Remove the fallback file of a version that is gone."""
        with contextlib.suppress(OSError):  # most have none; what stays behind goes with the bucket
            os.unlink(_beside(bucket, key, etag), dir_fd=self._hidden)

    def forget_bucket(self, bucket: str) -> None:
        """Remove all fallback files of a bucket that is being deleted."""
        try:
            folder = self._folder(bucket)
        except OSError:
            return
        try:
            for name in os.listdir(folder):  # noqa: PTH208 - by descriptor
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)
        with contextlib.suppress(OSError):
            os.rmdir(f"{_FOLDER}/{bucket}", dir_fd=self._hidden)

    def _folder(self, bucket: str) -> int:
        return os.open(f"{_FOLDER}/{bucket}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._hidden)

    def _has_folder(self) -> bool:
        try:
            os.stat(_FOLDER, dir_fd=self._hidden)
        except OSError:
            return False
        return True

    def _write_beside(self, bucket: str, key: str, etag: str, raw: bytes) -> None:
        self.beside = True
        for path in (_FOLDER, f"{_FOLDER}/{bucket}"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700, dir_fd=self._hidden)
        # Named after the version, so old and new versions have theirs at once and the rename decides which counts.
        name = _beside(bucket, key, etag)
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self._hidden)
        try:
            os.write(descriptor, raw)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read_beside(self, bucket: str, key: str, etag: str) -> bytes | None:
        name = _beside(bucket, key, etag)
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._hidden)
        except OSError:
            return None
        try:
            return os.read(descriptor, MAX_METADATA_BYTES)
        finally:
            os.close(descriptor)


def _beside(bucket: str, key: str, etag: str) -> str:
    return f"{_FOLDER}/{bucket}/{hashlib.sha256(os.fsencode(key)).hexdigest()[:40]}.{etag}"
