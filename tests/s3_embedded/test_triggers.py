"""What is uploaded through S3 triggers its function once, whole; what is not finished never does."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from minio.commonconfig import CopySource

from penstock.adapters.directory.names import UPLOAD_PREFIXES
from tests.s3_embedded.conftest import Bench, sha256

Seen = Callable[[Bench, int], Awaitable[list[tuple[str, str]]]]
BIG = os.urandom(11 * 1024 * 1024)
PART = 5 * 1024 * 1024


def minio_put(bench: Bench) -> bytes:
    bench.minio().put_object("inbox", "in/put", io.BytesIO(b"one"), 3)
    return b"one"


def minio_multipart(bench: Bench) -> bytes:
    bench.minio().put_object("inbox", "in/multipart", io.BytesIO(BIG), len(BIG), part_size=PART)
    return BIG


def minio_copy(bench: Bench) -> bytes:
    client = bench.minio()
    client.put_object("inbox", "elsewhere/original", io.BytesIO(b"copied"), 6, metadata={"mtime": "1000000000.5"})
    client.copy_object("inbox", "in/copy", CopySource("inbox", "elsewhere/original"))
    return b"copied"


def boto_put(bench: Bench) -> bytes:
    # With a checksum behind the body, as current versions send it.
    bench.boto().put_object(Bucket="inbox", Key="in/boto", Body=io.BytesIO(b"boto"), ChecksumAlgorithm="CRC32")
    return b"boto"


def boto_multipart(bench: Bench) -> bytes:
    client = bench.boto()
    where = {"Bucket": "inbox", "Key": "in/boto-multipart"}
    upload = client.create_multipart_upload(**where)["UploadId"]
    # Out of order, as parallel senders do it.
    pieces = {3: BIG[2 * PART :], 1: BIG[:PART], 2: BIG[PART : 2 * PART]}
    tags = {n: client.upload_part(**where, UploadId=upload, PartNumber=n, Body=b)["ETag"] for n, b in pieces.items()}
    parts = [{"PartNumber": n, "ETag": tags[n]} for n in sorted(tags)]
    client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
    return BIG


@pytest.mark.components
async def test_every_way_of_uploading_triggers_once_also_after_a_restart(stopped: Bench, seen: Seen) -> None:
    ways = {
        "put": minio_put,
        "multipart": minio_multipart,
        "copy": minio_copy,
        "boto": boto_put,
        "boto-multipart": boto_multipart,
    }
    expected = {}
    async with stopped.up():
        for name, way in ways.items():
            expected[name] = sha256(await asyncio.to_thread(way, stopped))
        await seen(stopped, len(ways))
        await stopped.quiet()
    # A start lists everything: an object whose identity had changed behind the event would run again.
    async with stopped.up():
        await stopped.quiet()
        async with stopped.client() as client:
            listed = await client.invocations(limit=100)
    assert dict(stopped.seen()) == expected
    assert len(stopped.seen()) == len(ways)
    assert sorted(str(one.key) for one in listed.invocations) == sorted(f"in/{name}" for name in ways)


@pytest.mark.components
async def test_a_new_version_triggers_again_and_a_deletion_never(bench: Bench, seen: Seen) -> None:
    client = bench.minio()
    for text in (b"first", b"second"):
        await asyncio.to_thread(client.put_object, "inbox", "in/a", io.BytesIO(text), len(text))
        await seen(bench, 1 if text == b"first" else 2)
    await asyncio.to_thread(client.remove_object, "inbox", "in/a")
    await bench.quiet()
    assert bench.seen() == [("a", sha256(b"first")), ("a", sha256(b"second"))]
    # The deletion may have taken the empty folder with it: what comes next is noticed all the same.
    await asyncio.to_thread(client.put_object, "inbox", "in/b", io.BytesIO(b"third"), 5)
    assert (await seen(bench, 3))[2] == ("b", sha256(b"third"))


@pytest.mark.components
async def test_a_multipart_upload_is_nothing_until_it_is_complete(bench: Bench, seen: Seen) -> None:
    boto = bench.boto()

    def begin(key: str) -> str:
        upload: str = boto.create_multipart_upload(Bucket="inbox", Key=key)["UploadId"]
        boto.upload_part(Bucket="inbox", Key=key, UploadId=upload, PartNumber=1, Body=BIG[:PART])
        return upload

    upload = await asyncio.to_thread(begin, "in/half")
    (draft,) = (bench.buckets / "inbox" / "in").iterdir()
    assert draft.name.startswith(UPLOAD_PREFIXES)
    async with bench.client() as client:
        assert not (await client.objects("inbox")).objects
        await asyncio.to_thread(boto.abort_multipart_upload, Bucket="inbox", Key="in/half", UploadId=upload)
        await bench.quiet()
        assert not (await client.invocations()).invocations
    assert not list((bench.buckets / "inbox" / "in").iterdir())
    assert bench.seen() == []


@pytest.mark.components
async def test_half_an_upload_of_a_killed_server_is_removed_and_never_run(
    bench: Bench, seen: Seen, until: Callable[..., Awaitable[Any]]
) -> None:
    boto = bench.boto()

    def begin() -> None:
        upload = boto.create_multipart_upload(Bucket="inbox", Key="in/half")["UploadId"]
        boto.upload_part(Bucket="inbox", Key="in/half", UploadId=upload, PartNumber=1, Body=BIG[:PART])

    await asyncio.to_thread(begin)
    folder = bench.buckets / "inbox" / "in"
    assert len(list(folder.iterdir())) == 1
    pid = bench.rclone_pid()
    os.kill(pid, signal.SIGKILL)

    async def left() -> int:
        return len(list(folder.iterdir()))

    await until(left, lambda count: count == 0)
    # The upload that comes next is served as if nothing had been.
    await asyncio.to_thread(bench.minio().put_object, "inbox", "in/next", io.BytesIO(b"next"), 4)
    await seen(bench, 1)
    await bench.quiet()
    assert bench.seen() == [("next", sha256(b"next"))]
    assert bench.rclone_pid() != pid


@pytest.mark.components
async def test_an_upload_whose_client_leaves_stores_nothing(bench: Bench, until: Callable[..., Awaitable[Any]]) -> None:
    url = await asyncio.to_thread(bench.minio().presigned_put_object, "inbox", "in/broken")
    arrived = asyncio.Event()

    async def endless() -> Any:
        yield BIG
        arrived.set()
        await asyncio.Event().wait()

    async with aiohttp.ClientSession() as session:
        headers = {"Content-Length": str(len(BIG) * 2)}
        sending = asyncio.create_task(session.put(url, data=endless(), headers=headers))
        folder = bench.buckets / "inbox" / "in"

        async def drafts() -> list[str]:
            return [path.name for path in folder.iterdir()]

        await until(drafts, bool)
        await arrived.wait()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await until(drafts, lambda names: not names)
    await bench.quiet()
    assert bench.seen() == []
