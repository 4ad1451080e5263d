"""Keeps `a` and `a/b` from being objects at once on a store that would hide one of them.

MinIO answers 200 to both, but `a/b` is in no listing as long as `a` is there, so no reconciler would ever find it. The
port promises that listings hold every object; so before a write its folders are looked at, and whether it is a folder
itself. Two clients that write both at the same moment are not caught: that only the store could do.
"""

from __future__ import annotations

import asyncio

from penstock.adapters.s3.listings import Listings
from penstock.adapters.s3.names import parents
from penstock.adapters.s3.trouble import is_delete_marker
from penstock.errors import NotFound, Unsupported

#: How long it counts as known that no object has a folder's name, so that many files in one folder cost nothing.
_KNOWN_S = 10.0
_MAX_KNOWN = 4096


class Folders:
    """Belongs to one store."""

    def __init__(self, listings: Listings) -> None:
        self._listings = listings
        self._known: dict[tuple[str, str], float] = {}

    async def check(self, bucket: str, key: str) -> None:
        """Raises Unsupported when the key clashes with an object. A missing bucket is left for the write to tell."""
        now = asyncio.get_running_loop().time()
        unknown = [one for one in parents(key) if self._known.get((bucket, one), 0.0) < now]
        for parent in unknown:
            if await self._is_object(bucket, parent):
                raise Unsupported(
                    f"the key {key[:200]!r} cannot be stored beside the object {parent[:200]!r}, which would be its "
                    "folder: choose another key or delete that object"
                )
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        self._known.update({(bucket, one): now + _KNOWN_S for one in unknown})
        self._known.pop((bucket, key), None)
        if not key.endswith("/") and await self._is_folder(bucket, key):
            raise Unsupported(
                f"the key {key[:200]!r} cannot be stored beside the objects below {key[:200] + '/'!r}, whose folder it "
                "would be: choose another key or delete those objects"
            )

    async def _is_object(self, bucket: str, key: str) -> bool:
        try:
            await self._listings.seen(bucket, key)
        except NotFound as error:
            return is_delete_marker(error)  # MinIO keeps its folder, and hides what lies below as well
        return True

    async def _is_folder(self, bucket: str, key: str) -> bool:
        try:
            return await self._listings.any(bucket, f"{key}/")
        except NotFound:
            return False
