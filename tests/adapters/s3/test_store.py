"""What S3Store can beyond the contract, on a real MinIO: versions, large objects, long listings."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.adapters.s3 import S3Store
from penstock.adapters.s3.client import Ask
from penstock.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    NotFound,
    Superseded,
    Unsupported,
)
from tests.adapters.s3.support import content, every, opened, pieces, uploads_left
from tests.testbed.minio import Minio

pytestmark = pytest.mark.components
MIB = 1024 * 1024


# Versions


@pytest.fixture
async def versioned(store: S3Store, bucket: str) -> str:
    await store.enable_versioning(bucket)
    return bucket


async def test_every_version_is_the_same_seen_from_anywhere(store: S3Store, versioned: str, tmp_path: Path) -> None:
    written = [await store.write(versioned, "a/k", b"%d" % n, metadata={"n": str(n)}) for n in range(3)]
    other = await store.write(versioned, "a/k2", b"x")
    assert len({info.version_id for info in written} - {None}) == 3
    for number, info in enumerate(written):
        assert await store.head(versioned, "a/k", version_id=info.version_id) == info
        assert await content(store, versioned, "a/k", info.version_id) == b"%d" % number
        await store.fetch(info, tmp_path / str(number))
        assert (tmp_path / str(number)).read_bytes() == b"%d" % number
    assert await store.head(versioned, "a/k") == written[-1]
    listed = await every(store.list_versions(versioned))
    assert [one.identity for one in listed] == [one.identity for one in [*reversed(written), other]]
    assert [one.modified_ms for one in listed] == [one.modified_ms for one in [*reversed(written), other]]
    current = await every(store.list(versioned, "a/"))
    assert [one.identity for one in current] == [written[-1].identity, other.identity]
    assert [one.key for one in await every(store.list(versioned, after="a/k"))] == ["a/k2"]


async def test_the_same_bytes_at_once_are_versions_of_their_own(store: S3Store, versioned: str) -> None:
    infos = await asyncio.gather(*(store.write(versioned, "k", b"same") for _ in range(12)))
    listed = await every(store.list_versions(versioned))
    assert sorted((i.identity, i.modified_ms) for i in infos) == sorted((i.identity, i.modified_ms) for i in listed)
    assert len(listed) == 12


async def test_deleting_hides_and_deleting_a_version_removes(store: S3Store, versioned: str) -> None:
    first, second = [await store.write(versioned, "k", b"%d" % n) for n in range(2)]
    await store.delete(versioned, "k")
    await store.delete(versioned, "k")
    with pytest.raises(NotFound):
        await store.head(versioned, "k")
    assert await every(store.list(versioned)) == []
    assert [i.version_id for i in await every(store.list_versions(versioned))] == [second.version_id, first.version_id]
    assert await content(store, versioned, "k", first.version_id) == b"0"
    await store.delete(versioned, "k", version_id=first.version_id)
    await store.delete(versioned, "k", version_id=first.version_id)
    with pytest.raises(NotFound, match="version"):
        await store.head(versioned, "k", version_id=first.version_id)
    with pytest.raises(Conflict, match="not empty"):
        await store.delete_bucket(versioned)


async def test_a_deleted_object_with_versions_is_no_folder(store: S3Store, versioned: str) -> None:
    """MinIO would take `a/b` beside the delete marker of `a` and show it in no listing."""
    await store.write(versioned, "a", b"1")
    await store.delete(versioned, "a")
    with pytest.raises(Unsupported, match="beside"):
        await store.write(versioned, "a/b", b"2")


async def test_objects_from_before_versioning_keep_their_identity(store: S3Store, bucket: str) -> None:
    before = await store.write(bucket, "old", b"1")
    await store.enable_versioning(bucket)
    assert before.version_id is None
    assert await store.head(bucket, "old") == before
    assert [one.identity for one in await every(store.list(bucket))] == [before.identity]


async def test_a_versioned_store_makes_versioned_buckets_and_says_so(minio: Minio) -> None:
    async with opened(minio, direct=True, versioned=True) as store:
        assert store.capabilities.versions
        assert await store.create_bucket("made-versioned") is True
        assert await store.create_bucket("made-versioned") is False
        assert (await store.write("made-versioned", "k", b"1")).version_id is not None


# Large objects


@pytest.mark.parametrize("size", [8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 21 * MIB + 7])
async def test_sizes_around_the_limit_of_one_put(store: S3Store, bucket: str, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(data)
    infos = [
        await store.write(bucket, "bytes", data),
        await store.write(bucket, "stream", pieces(data), metadata={"a": "b"}),
        await store.publish(source, bucket, "file"),
    ]
    for number, info in enumerate(infos):
        assert info.size == size
        assert ("-" in info.etag) == (size > 8 * MIB)
        assert await store.head(bucket, info.key) == info
        await store.fetch(info, tmp_path / str(number))
        assert hashlib.sha256((tmp_path / str(number)).read_bytes()).digest() == hashlib.sha256(data).digest()
    assert await uploads_left(store, bucket, "stream") == 0


async def test_if_absent_holds_for_large_objects_too(store: S3Store, bucket: str) -> None:
    first = await store.write(bucket, "k", pieces(bytes(9 * MIB)), if_absent=True)
    with pytest.raises(AlreadyExists):
        await store.write(bucket, "k", pieces(bytes(9 * MIB)), if_absent=True)
    assert await store.head(bucket, "k") == first
    assert await uploads_left(store, bucket, "k") == 0


async def test_a_cancelled_large_write_leaves_nothing(store: S3Store, bucket: str) -> None:
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield bytes(18 * MIB)
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.write(bucket, "k", endless()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await every(store.list(bucket)) == []
    assert await uploads_left(store, bucket, "k") == 0


async def test_a_stream_that_fails_late_leaves_nothing(store: S3Store, bucket: str) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(20 * MIB)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.write(bucket, "k", broken())
    assert await every(store.list(bucket)) == []
    assert await uploads_left(store, bucket, "k") == 0


async def test_a_file_that_changes_while_it_is_published_is_refused(
    store: S3Store, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(20 * MIB))
    call = store.client.call

    async def meddling(ask: Ask) -> object:
        if ask.query[:1] == (("partNumber", "1"),):
            source.write_bytes(b"\1" * 20 * MIB)
        return await call(ask)

    monkeypatch.setattr(store.client, "call", meddling)
    with pytest.raises(Conflict, match="changed while it was published"):
        await store.publish(source, bucket, "k", consume=True)
    assert source.exists()
    assert await every(store.list(bucket)) == []
    assert await uploads_left(store, bucket, "k") == 0


async def test_a_deleted_object_is_not_fetched_and_a_replaced_one_neither(
    store: S3Store, bucket: str, tmp_path: Path
) -> None:
    info = await store.write(bucket, "k", b"old")
    await store.write(bucket, "k", b"new")
    with pytest.raises(Superseded, match="replaced"):
        await store.fetch(info, tmp_path / "copy")
    await store.delete(bucket, "k")
    with pytest.raises(NotFound):
        await store.fetch(info, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


async def test_a_fetch_without_a_folder_is_refused_before_anything_is_read(
    store: S3Store, bucket: str, tmp_path: Path
) -> None:
    info = await store.write(bucket, "k", b"data")
    with pytest.raises(NotFound, match="folder"):
        await store.fetch(info, tmp_path / "missing" / "copy")


async def test_ranges_of_one_version_and_what_cannot_be_read(store: S3Store, bucket: str) -> None:
    await store.write(bucket, "empty", b"")
    assert await content(store, bucket, "empty") == b""
    assert [chunk async for chunk in store.read(bucket, "empty", length=5)] == []
    with pytest.raises(InvalidInput, match="negative"):
        _ = [chunk async for chunk in store.read(bucket, "empty", start=-1)]
    with pytest.raises(NotFound):
        _ = [chunk async for chunk in store.read(bucket, "missing", length=0)]


# Listings


async def test_2500_keys_in_three_pages_of_any_kind_of_bucket(store: S3Store, bucket: str) -> None:
    names = [f"{n % 5}/ü {n:04}+%" for n in range(2500)]
    for begin in range(0, len(names), 100):
        await asyncio.gather(*(store.put(bucket, name, b"") for name in names[begin : begin + 100]))
    pages = [page async for page in store.list(bucket)]
    assert [len(page) for page in pages] == [1000, 1000, 500]
    assert [info.key for page in pages for info in page] == sorted(names, key=str.encode)
    assert len(await every(store.list(bucket, "3/ü", after="3/ü 2000+%"))) == len(
        [n for n in names if n > "3/ü 2000+%" and n < "4"]
    )
    await store.enable_versioning(bucket)
    again = await every(store.list(bucket))
    assert [info.identity for info in again] == [info.identity for page in pages for info in page]
    assert [info.identity for info in await every(store.list_versions(bucket))] == [info.identity for info in again]
