"""Shows the folders of functions' inputs and outputs to people, who drop files there.

The directory store needs no folders and keeps no trace of empty ones; this is for the eyes alone. The names were
checked when the function was parsed, and are checked again here, because a path is made from them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.datadir import translated
from gateway.deploy import MakeFolder
from penstock.errors import InvalidInput


def folder_maker(buckets: Path) -> MakeFolder:
    async def make(bucket: str, folder: str) -> None:
        """Raises InvalidInput, OutOfSpace, Unavailable."""
        await asyncio.to_thread(_make, buckets, bucket, folder)

    return make


def _make(buckets: Path, bucket: str, folder: str) -> None:
    names = folder.split("/")
    if any(name in {"", ".", ".."} or "\0" in name for name in names):
        raise InvalidInput(f"{folder!r} is not a folder: it has an empty part, '.' or '..'", where=bucket)
    here = buckets / bucket
    for name in names:
        here = here / name
        if here.is_symlink():
            raise InvalidInput(f"{here} is a link; folders of buckets must be real", where=bucket)
        try:
            here.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise translated(error, here, "the folder cannot be made") from error
