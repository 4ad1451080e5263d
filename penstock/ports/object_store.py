"""The object store port: where inputs and outputs live.

Contract, checked by `tests/contracts/object_store.py` against every adapter:

* A key appears whole or not at all; `publish` and `write` are durable when they return, and overwrite atomically.
* `ObjectInfo` of one version is equal from `head`, `list` and the value `write` or `publish` returned (metadata apart,
  which listings may leave out), so its identity is too.
* Listings are in ascending order of the key's UTF-8 bytes and hold every object that existed throughout the listing.
* What an adapter cannot do it says in `capabilities` and refuses with `Unsupported`; never silently otherwise.
* Keys are plain text, never URL-escaped. No key reaches outside its bucket.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from penstock.model import ObjectInfo


class StoreCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    #: Old versions of a key can be read after an overwrite.
    versions: bool
    #: `a` and `a/b` can be objects at once; any byte but NUL may stand in a key.
    any_key: bool
    #: Longest key in UTF-8 bytes, and longest part between slashes.
    max_key_bytes: int
    max_part_bytes: int
    #: Metadata given to `write` and `publish` is kept with the object.
    metadata: bool
    #: `publish` of a file on the same disk moves it instead of copying.
    moves: bool
    #: Keys are valid Unicode text: no surrogate escapes, which stand for bytes that are no UTF-8.
    text_keys_only: bool = False
    #: `a/` can be an object of its own, as other programs make them to show a folder.
    folder_markers: bool = False


class ObjectStore(Protocol):
    @property
    def capabilities(self) -> StoreCapabilities: ...

    async def create_bucket(self, bucket: str) -> bool:
        """Make sure the bucket exists. True = it was made now. Raises InvalidInput for an illegal name."""
        ...

    async def buckets(self) -> list[str]:
        """All bucket names in order, the platform's own included."""
        ...

    async def delete_bucket(self, bucket: str) -> None:
        """Delete an empty bucket. Raises NotFound, Conflict when it holds objects."""
        ...

    async def head(self, bucket: str, key: str, *, version_id: str | None = None) -> ObjectInfo:
        """Raises NotFound (bucket, key or version)."""
        ...

    def list(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncIterator[list[ObjectInfo]]:
        """Pages of objects whose key starts with `prefix` and is greater than `after`. Raises NotFound (bucket).

        Objects still being written by another program are left out (a directory: within the settle time, or held open
        by a writer).
        """
        ...

    def read(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        start: int = 0,
        length: int | None = None,
    ) -> AsyncIterator[bytes]:
        """Stream bytes in chunks of at most 1 MiB. Raises NotFound before the first chunk."""
        ...

    async def fetch(self, info: ObjectInfo, target: Path) -> None:
        """Copy exactly this version to a new local file, keeping holes; an empty file of the caller's that is there
        already is filled. Raises NotFound, Superseded (another version is there now, also when it changed during the
        copy: then `target` does not exist), OutOfSpace, AlreadyExists (a file that is not empty).
        """
        ...

    async def write(
        self,
        bucket: str,
        key: str,
        data: AsyncIterator[bytes] | bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Stream an object in. Raises NotFound (bucket), AlreadyExists (`if_absent`), Unsupported (name), OutOfSpace;
        on any error, and when cancelled, nothing has changed.
        """
        ...

    async def publish(
        self,
        source: Path,
        bucket: str,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        consume: bool = False,
    ) -> ObjectInfo:
        """Put a local file. `consume` = the caller needs the file no more, so it may be moved. Errors as `write`."""
        ...

    async def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> None:
        """Idempotent: deleting what is not there is no error. Raises NotFound for the bucket alone."""
        ...

    async def close(self) -> None: ...
