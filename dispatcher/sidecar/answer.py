"""The answer of a synchronous run: one output file is its base64, several are the base64 of a ZIP, none is the
script's text.

The answer is made while the files are still there, streamed to a file and kept in the platform's own bucket, so that
whoever waits for it may ask after the Job is gone and no answer is ever held in memory.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import IO

from dispatcher.sidecar.files import OutputFile
from penstock.errors import NotFound
from penstock.model import SYSTEM_BUCKET
from penstock.model.objects import answer_key, log_key
from penstock.ports import ObjectStore

_CHUNK = 3 * 256 * 1024  # a multiple of 3: base64 pieces can be joined
_SPOOL_BYTES = 8 * 1024 * 1024


def _plainly(file: OutputFile) -> IO[bytes]:
    return Path(file.path).open("rb")


def write_answer(
    files: Sequence[OutputFile], sink: IO[bytes], opened: Callable[[OutputFile], IO[bytes]] = _plainly
) -> bool:
    """Write the answer made of output files, with its line end. False = there are none: the script's output is the
    answer. `opened` opens one of them.

    Blocks. Raises OSError.
    """
    if not files:
        return False
    if len(files) == 1:
        with opened(files[0]) as source:
            _encode(source, sink)
    else:
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as packed:
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
                for file in files:
                    with opened(file) as source, archive.open(_member(file.name, source), "w") as member:
                        shutil.copyfileobj(source, member, _CHUNK)
            packed.seek(0)
            _encode(packed, sink)
    sink.write(b"\n")
    return True


def _member(name: str, source: IO[bytes]) -> zipfile.ZipInfo:
    status = os.fstat(source.fileno())
    moment = time.localtime(status.st_mtime)[:6]
    member = zipfile.ZipInfo(name, min(max(moment, (1980, 1, 1, 0, 0, 0)), (2107, 12, 31, 23, 59, 59)))
    member.external_attr = (status.st_mode & 0xFFFF) << 16
    member.file_size = status.st_size  # tells whether it needs the large format
    return member


def _encode(source: IO[bytes], sink: IO[bytes]) -> None:
    while chunk := source.read(_CHUNK):
        sink.write(base64.b64encode(chunk))


async def read_answer(store: ObjectStore, function_uid: str, invocation: str, attempt: int) -> AsyncIterator[bytes]:
    """Stream the answer of a finished run that was asked for: from its output files, else the script's output."""
    try:
        async for chunk in store.read(SYSTEM_BUCKET, answer_key(function_uid, invocation, attempt)):
            yield chunk
    except NotFound:
        async for chunk in read_log(store, function_uid, invocation, attempt):
            yield chunk


async def read_log(
    store: ObjectStore, function_uid: str, invocation: str, attempt: int, offset: int = 0
) -> AsyncIterator[bytes]:
    """Stream what a finished attempt printed, from a byte offset. A script that printed nothing yields nothing."""
    key = log_key(function_uid, invocation, attempt)
    try:
        if offset and (await store.head(SYSTEM_BUCKET, key)).size <= offset:
            return
        async for chunk in store.read(SYSTEM_BUCKET, key, start=offset):
            yield chunk
    except NotFound:
        return
