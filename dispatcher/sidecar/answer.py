"""The answer of a synchronous run: one output file is its base64, several are the base64 of a ZIP, none is the
script's text.

The answer is made while the files are still there, streamed to a file and kept in the platform's own bucket, so that
whoever waits for it may ask after the Job is gone and no answer is ever held in memory.
"""

from __future__ import annotations

import base64
import tempfile
import zipfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO

from dispatcher.sidecar.outputs import OutputFile
from penstock.errors import NotFound
from penstock.model import SYSTEM_BUCKET
from penstock.model.objects import answer_key, log_key
from penstock.ports import ObjectStore

_CHUNK = 3 * 256 * 1024  # a multiple of 3: base64 pieces can be joined
_SPOOL_BYTES = 8 * 1024 * 1024


def write_answer(files: Sequence[OutputFile], sink: IO[bytes]) -> bool:
    """Write the answer made of output files, with its line end. False = there are none: the script's output is the
    answer.

    Blocks. Raises OSError.
    """
    if not files:
        return False
    if len(files) == 1:
        with Path(files[0].path).open("rb") as source:
            _encode(source, sink)
    else:
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as packed:
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
                for file in files:
                    archive.write(file.path, file.name)
            packed.seek(0)
            _encode(packed, sink)
    sink.write(b"\n")
    return True


def _encode(source: IO[bytes], sink: IO[bytes]) -> None:
    while chunk := source.read(_CHUNK):
        sink.write(base64.b64encode(chunk))


async def read_answer(store: ObjectStore, invocation: str, attempt: int) -> AsyncIterator[bytes]:
    """Stream the answer of a finished run that was asked for: from its output files, else the script's output."""
    try:
        async for chunk in store.read(SYSTEM_BUCKET, answer_key(invocation, attempt)):
            yield chunk
    except NotFound:
        async for chunk in read_log(store, invocation, attempt):
            yield chunk


async def read_log(store: ObjectStore, invocation: str, attempt: int, offset: int = 0) -> AsyncIterator[bytes]:
    """Stream what a finished attempt printed, from a byte offset. A script that printed nothing yields nothing."""
    key = log_key(invocation, attempt)
    try:
        if offset and (await store.head(SYSTEM_BUCKET, key)).size <= offset:
            return
        async for chunk in store.read(SYSTEM_BUCKET, key, start=offset):
            yield chunk
    except NotFound:
        return
