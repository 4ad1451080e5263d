"""The contract of `penstock.ports.ObjectStore`, run against every adapter in ADAPTERS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.adapters.directory import DirectoryStore
from penstock.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Superseded, Unsupported
from penstock.model import BucketEvent, ObjectInfo, Origin
from penstock.ports import ObjectStore
from tests.adapters.s3.support import minio_store

Factory = Callable[[Path], AbstractAsyncContextManager[ObjectStore]]


@contextlib.asynccontextmanager
async def directory(folder: Path) -> AsyncIterator[ObjectStore]:
    store = DirectoryStore(folder / "buckets")
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def directory_without_attributes(folder: Path) -> AsyncIterator[ObjectStore]:
    store = DirectoryStore(folder / "buckets", attributes=False)
    try:
        yield store
    finally:
        await store.close()


ADAPTERS: list[tuple[str, Factory]] = [
    ("directory", directory),
    ("directory_without_attributes", directory_without_attributes),
    ("s3", minio_store),
]
#: Those that need a server of the test bed.
SERVED = {"s3"}
PARAMS = [
    pytest.param(factory, id=name, marks=[pytest.mark.components] if name in SERVED else [])
    for name, factory in ADAPTERS
]


@pytest.fixture(params=PARAMS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    factory: Factory = request.param
    async with factory(tmp_path / "store") as opened:
        await opened.create_bucket("pictures")
        yield opened


async def keys(store: ObjectStore, bucket: str = "pictures", prefix: str = "", after: str = "") -> list[str]:
    return [info.key async for page in store.list(bucket, prefix, after=after) for info in page]


async def content(store: ObjectStore, key: str, *, start: int = 0, length: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in store.read("pictures", key, start=start, length=length)])


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def plain(info: ObjectInfo) -> tuple[object, ...]:
    return (info.bucket, info.key, info.etag, info.size, info.modified_ms, info.arrived_ms, info.version_id)


# Buckets


async def test_a_bucket_is_made_once_and_listed(store: ObjectStore) -> None:
    assert await store.create_bucket("another") is True
    assert await store.create_bucket("another") is False
    assert await store.buckets() == ["another", "pictures"]


@pytest.mark.parametrize(
    "name", ["", "ab", "Upper", "under_score", "-a-", "a..b", "192.168.0.1", "a/b", "../up", ".hid", "x" * 64]
)
async def test_illegal_bucket_names_are_refused(store: ObjectStore, name: str) -> None:
    with pytest.raises(InvalidInput, match="bucket name"):
        await store.create_bucket(name)
    with pytest.raises(NotFound):
        await store.write(name, "k", b"")
    assert await store.buckets() == ["pictures"]


async def test_only_an_empty_bucket_is_deleted(store: ObjectStore) -> None:
    await store.write("pictures", "a/b/c", b"1", metadata={"k": "v"})
    with pytest.raises(Conflict, match="not empty"):
        await store.delete_bucket("pictures")
    assert await content(store, "a/b/c") == b"1"
    await store.delete("pictures", "a/b/c")
    await store.delete_bucket("pictures")
    assert await store.buckets() == []
    with pytest.raises(NotFound):
        await store.delete_bucket("pictures")


async def test_everything_in_a_missing_bucket_is_not_found(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(NotFound, match="nowhere"):
        await store.write("nowhere", "k", b"")
    with pytest.raises(NotFound, match="nowhere"):
        await store.publish(tmp_path / "file", "nowhere", "k", consume=True)
    with pytest.raises(NotFound, match="nowhere"):
        await store.head("nowhere", "k")
    with pytest.raises(NotFound, match="nowhere"):
        await keys(store, "nowhere")
    with pytest.raises(NotFound, match="nowhere"):
        await store.delete("nowhere", "k")
    assert (tmp_path / "file").exists()


# One version, one identity


async def test_write_head_list_and_event_agree(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"abc")
    written = [
        await store.write("pictures", "in/a b+c%2F.png", b"123", metadata={"who": "me"}),
        await store.write("pictures", "in/ü.png", chunks(b"12", b"", b"345")),
        await store.publish(source, "pictures", "in/z"),
        await store.publish(source, "pictures", "in/zz", consume=True, metadata={"x": "é"}),
    ]
    listed = {info.key: info async for page in store.list("pictures") for info in page}
    assert len(listed) == len(written)
    for info in written:
        head = await store.head("pictures", info.key)
        assert head == info
        assert plain(listed[info.key]) == plain(info)
        assert listed[info.key].identity == info.identity == BucketEvent.of(head, Origin.PUSH).identity
    assert written[0].metadata == {"who": "me"}
    assert written[1].size == 5
    assert not source.exists()


async def test_the_same_bytes_written_again_are_a_new_version(store: ObjectStore) -> None:
    identities = {(await store.write("pictures", "k", b"same")).identity for _ in range(20)}
    assert len(identities) == 20
    assert await keys(store) == ["k"]


async def test_metadata_belongs_to_one_version(store: ObjectStore) -> None:
    await store.write("pictures", "k", b"1", metadata={"penstock-hops": "3", "note": "a\nb"})
    assert (await store.head("pictures", "k")).metadata == {"penstock-hops": "3", "note": "a\nb"}
    await store.write("pictures", "k", b"1")
    assert (await store.head("pictures", "k")).metadata == {}
    with pytest.raises(InvalidInput, match="metadata"):
        await store.write("pictures", "k", b"2", metadata={"big": "x" * 5000})
    assert await content(store, "k") == b"1"


async def test_an_unknown_version_is_not_found(store: ObjectStore) -> None:
    await store.write("pictures", "k", b"1")
    with pytest.raises(NotFound, match="never"):
        await store.head("pictures", "k", version_id="never")
    with pytest.raises(NotFound, match="never"):
        _ = [chunk async for chunk in store.read("pictures", "k", version_id="never")]
    await store.delete("pictures", "k", version_id="never")
    assert await content(store, "k") == b"1"


async def test_if_absent_never_overwrites(store: ObjectStore) -> None:
    results = await asyncio.gather(
        *(store.write("pictures", "once", b"%d" % n, if_absent=True) for n in range(10)), return_exceptions=True
    )
    winners = [result for result in results if isinstance(result, ObjectInfo)]
    assert len(winners) == 1
    assert sum(isinstance(result, AlreadyExists) for result in results) == 9
    assert await store.head("pictures", "once") == winners[0]


# Reading


async def test_ranges_and_chunks(store: ObjectStore) -> None:
    data = os.urandom(2_500_000)
    await store.write("pictures", "big", data)
    sizes = [len(chunk) async for chunk in store.read("pictures", "big")]
    assert sum(sizes) == len(data)
    assert max(sizes) <= 1024 * 1024
    assert await content(store, "big", start=1_000_001, length=1_400_000) == data[1_000_001:2_400_001]
    assert await content(store, "big", start=2_499_999) == data[-1:]
    assert await content(store, "big", start=9_000_000) == b""
    assert await content(store, "big", length=0) == b""


async def test_reading_what_is_not_there(store: ObjectStore, tmp_path: Path) -> None:
    info = await store.write("pictures", "k", b"1")
    await store.delete("pictures", "k")
    with pytest.raises(NotFound, match="'k'"):
        await store.head("pictures", "k")
    with pytest.raises(NotFound, match="'k'"):
        await content(store, "k")
    with pytest.raises(NotFound, match="'k'"):
        await store.fetch(info, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    await store.delete("pictures", "k")


async def test_readers_see_one_version_while_others_overwrite(store: ObjectStore) -> None:
    """Every read is all of one version: 3 MiB of one letter, never a mixture."""
    size = 3 * 1024 * 1024
    await store.write("pictures", "k", b"a" * size)

    async def reader() -> None:
        for _ in range(10):
            data = await content(store, "k")
            assert len(data) == size
            assert data == data[:1] * size

    async def writer(letter: bytes) -> None:
        for _ in range(5):
            await store.write("pictures", "k", chunks(letter * (size // 3), letter * (size // 3), letter * (size // 3)))

    await asyncio.gather(reader(), reader(), writer(b"b"), writer(b"c"))


@pytest.mark.parametrize("size", [0, 1, 5000, 64 * 1024, 64 * 1024 + 1, 3_000_000])
async def test_fetch_copies_exactly_this_version(store: ObjectStore, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    old = await store.write("pictures", "k", data)
    target = tmp_path / "copy"
    previous = os.umask(0o077)
    try:
        await store.fetch(old, target)
    finally:
        os.umask(previous)
    assert target.read_bytes() == data
    assert target.stat().st_mode & 0o777 == 0o666
    if size:
        with pytest.raises(AlreadyExists):
            await store.fetch(old, target)
        assert target.read_bytes() == data
    (tmp_path / "elsewhere").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "twin").hardlink_to(tmp_path / "elsewhere")
    for taken in ("link", "twin", "elsewhere"):
        with pytest.raises(AlreadyExists):
            await store.fetch(old, tmp_path / taken)
    (tmp_path / "empty").touch(0o600)
    await store.fetch(old, tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == data
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o666

    await store.write("pictures", "k", data)
    if not store.capabilities.versions:
        with pytest.raises(Superseded, match="replaced"):
            await store.fetch(old, tmp_path / "late")
        assert not (tmp_path / "late").exists()


async def test_a_huge_sparse_object_is_fetched_with_flat_memory_and_keeps_its_holes(
    store: ObjectStore, tmp_path: Path
) -> None:
    source = tmp_path / "sparse"
    # A server is sent every zero, so there the object is large only beside the memory that it may take.
    unit = 1024**3 if store.capabilities.moves else 48 * 1024**2
    size = 5 * unit
    with source.open("wb") as stream:
        stream.write(b"begin")
        stream.seek(3 * unit)
        stream.write(b"middle")
        stream.truncate(size)
    info = await store.publish(source, "pictures", "sparse", consume=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    target = tmp_path / "copy"
    await store.fetch(info, target)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 64 * 1024
    assert target.stat().st_size == size
    assert target.stat().st_blocks * 512 < 4 * 1024 * 1024
    with target.open("rb") as stream:
        assert stream.read(6) == b"begin\0"
        stream.seek(3 * unit)
        assert stream.read(7) == b"middle\0"
    copied = await store.publish(target, "pictures", "again")
    assert copied.size == size


# Writing


async def test_a_failed_or_cancelled_write_changes_nothing(store: ObjectStore) -> None:
    await store.write("pictures", "k", b"old")
    started = asyncio.Event()

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 200_000
        raise ConnectionResetError

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 200_000
        started.set()
        await asyncio.Event().wait()

    with pytest.raises(ConnectionResetError):
        await store.write("pictures", "k", broken())
    task = asyncio.create_task(store.write("pictures", "k", endless()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await content(store, "k") == b"old"
    assert await keys(store) == ["k"]


async def test_publish_of_a_missing_file_is_not_found(store: ObjectStore, tmp_path: Path) -> None:
    for consume in (False, True):
        with pytest.raises(NotFound, match="missing"):
            await store.publish(tmp_path / "missing", "pictures", "k", consume=consume)
    assert await keys(store) == []


async def test_publish_leaves_the_source_unless_it_may_consume_it(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")
    await store.publish(source, "pictures", "kept")
    assert source.read_bytes() == b"data"
    await store.publish(source, "pictures", "moved", consume=True)
    assert not source.exists()
    assert await content(store, "kept") == await content(store, "moved") == b"data"


# Names

BAD_KEYS = ["", "/", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.", "nul\0", "x" * 256, "ä" * 128, "y/" * 600 + "y"]


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_what_the_store_cannot_hold_is_refused_with_a_sentence(
    store: ObjectStore, key: str, tmp_path: Path
) -> None:
    if store.capabilities.any_key:
        pytest.skip("this store takes any key")
    if key.endswith("/") and len(key) > 1 and store.capabilities.folder_markers:
        pytest.skip("this store takes folder markers")
    source = tmp_path / "source"
    source.write_bytes(b"x")
    with pytest.raises(Unsupported, match="cannot be stored"):
        await store.write("pictures", key, b"x")
    with pytest.raises(Unsupported, match="cannot be stored"):
        await store.publish(source, "pictures", key, consume=True)
    assert source.exists()
    assert await keys(store) == []


async def test_a_beside_a_slash_b(store: ObjectStore) -> None:
    await store.write("pictures", "a", b"1")
    await store.write("pictures", "c/d", b"2")
    if store.capabilities.any_key:
        await store.write("pictures", "a/b", b"3")
        await store.write("pictures", "c", b"4")
        return
    with pytest.raises(Unsupported, match="beside"):
        await store.write("pictures", "a/b", b"3")
    with pytest.raises(Unsupported, match="beside"):
        await store.write("pictures", "c", b"4")
    with pytest.raises(Unsupported, match="beside"):
        await store.write("pictures", "c", b"4", if_absent=True)
    assert await keys(store) == ["a", "c/d"]
    await store.delete("pictures", "c/d")
    await store.write("pictures", "c", b"4")
    with pytest.raises(NotFound):
        await store.head("pictures", "a/b")


_parts = st.text(
    st.sampled_from("ab.-+ %/~\n\\'\"*?&=#;é😀") | st.characters(exclude_characters="/\0", exclude_categories=["Cs"]),
    min_size=1,
    max_size=20,
).map(lambda text: text.replace("/", "+"))
_parts |= st.sampled_from(["e\u0301", "\u00e9", "%2F", "%", "a+b c", ".hidden", "-", "\udcff\udc80"])
good_keys = (
    st.lists(_parts.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=4).map("/".join)
).filter(lambda key: all(len(os.fsencode(part)) <= 255 for part in key.split("/")))

once = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def without_clashes(names: list[str]) -> list[str]:
    """Drop names that are a folder of another one."""
    return [name for name in names if not any(other.startswith(name + "/") for other in names)]


@pytest.mark.parametrize("factory", PARAMS)
@once
@given(
    names=st.lists(good_keys, unique=True, max_size=12).map(without_clashes),
    prefix=st.sampled_from(["", "a", "a/", "-", "a+b c/", "%", ".hidden/", "\udcff"]),
    cut=st.text(st.sampled_from("ab.-/+é~"), max_size=4),
)
def test_any_key_comes_back_as_it_was_and_listings_are_in_byte_order(
    factory: Factory, names: list[str], prefix: str, cut: str
) -> None:
    async def scenario(names: list[str]) -> None:
        with TemporaryDirectory() as folder:
            async with factory(Path(folder)) as store:
                await store.create_bucket("pictures")
                for name in names if store.capabilities.text_keys_only else []:
                    if "\udcff" in name:
                        with pytest.raises(Unsupported, match="cannot be stored"):
                            await store.write("pictures", name, b"")
                names = [n for n in names if not (store.capabilities.text_keys_only and "\udcff" in n)]
                for name in names:
                    await store.write("pictures", name, os.fsencode(name))
                expected = sorted(names, key=os.fsencode)
                assert await keys(store) == expected
                assert await keys(store, prefix=prefix) == [n for n in expected if n.startswith(prefix)]
                for after in [cut, *expected]:
                    rest = [n for n in expected if os.fsencode(n) > os.fsencode(after)]
                    assert await keys(store, after=after) == rest
                    both = [n for n in rest if n.startswith(prefix)]
                    assert await keys(store, prefix=prefix, after=after) == both
                for name in names:
                    assert await content(store, name) == os.fsencode(name)
                    await store.delete("pictures", name)
                assert await keys(store) == []
                await store.delete_bucket("pictures")

    asyncio.run(scenario(names))


async def test_listings_come_in_pages(store: ObjectStore) -> None:
    names = [f"{n % 7}/{n:04}" for n in range(2100)]
    for begin in range(0, len(names), 300):
        await asyncio.gather(*(store.write("pictures", name, b"") for name in names[begin : begin + 300]))
    pages = [page async for page in store.list("pictures")]
    assert max(map(len, pages)) <= 1000
    assert [info.key for page in pages for info in page] == sorted(names)
    assert await keys(store, prefix="3/", after="3/2000") == [n for n in sorted(names) if "3/2000" < n < "4"]


async def test_a_listing_holds_what_existed_throughout(store: ObjectStore) -> None:
    stable = [f"s/{n:03}" for n in range(0, 200, 2)]
    for name in stable:
        await store.write("pictures", name, b"")

    async def churn() -> None:
        for n in range(1, 100, 2):
            await store.write("pictures", f"s/{n:03}", b"")
            await store.delete("pictures", f"s/{n:03}")

    churning = asyncio.create_task(churn())
    while not churning.done():
        found = await keys(store)
        assert set(stable) <= set(found)
        assert found == sorted(found)
    await churning


async def test_writers_and_deleters_in_one_folder_do_not_disturb_each_other(store: ObjectStore) -> None:
    """The last object of a folder is deleted while others are put there."""

    async def worker(n: int) -> None:
        for turn in range(15):
            await store.write("pictures", f"deep/er/{n}", b"%d" % turn)
            assert await content(store, f"deep/er/{n}") == b"%d" % turn
            await store.delete("pictures", f"deep/er/{n}")

    await asyncio.gather(*(worker(n) for n in range(8)))
    assert await keys(store) == []


@pytest.mark.parametrize("factory", PARAMS)
async def test_contents_survive_another_opening(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path) as first:
        await first.create_bucket("pictures")
        info = await first.write("pictures", "k", b"data", metadata={"a": "b"})
    async with factory(tmp_path) as second:
        assert await second.head("pictures", "k") == info
        digest = hashlib.sha256(await content(second, "k")).hexdigest()
        assert digest == hashlib.sha256(b"data").hexdigest()
    assert sys.getfilesystemencoding() == "utf-8"
