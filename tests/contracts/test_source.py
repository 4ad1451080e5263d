"""The contract of `penstock.ports.Source`, run against every adapter in ADAPTERS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from penstock.adapters.directory import DirectoryStore
from penstock.adapters.s3 import S3Store
from penstock.adapters.s3.notifications import Notifications, Rule
from penstock.model import BucketEvent, Origin
from penstock.ports import Delivery, Gap, ObjectStore, Source
from tests.adapters.s3.support import config_of
from tests.testbed.minio import Minio
from tests.watcher.feeds import MINIO, joined_source, listen_source, topic_source, webhook_source
from watcher.sources import PollingSource
from watcher.sources.directory import DirectorySource

SETTLE_S = 0.2


class Bench:
    """A source over a store with the bucket `inbox`, and what the source has told so far."""

    def __init__(self, source: Source, store: ObjectStore, folder: Path, bucket: str = "inbox") -> None:
        self.source = source
        self.store = store
        self.folder = folder
        self.bucket = bucket
        self.events: list[BucketEvent] = []
        self.gaps: list[Gap] = []
        self._changed = asyncio.Condition()

    async def follow(self) -> None:
        async for news in self.source.events():
            async with self._changed:
                if isinstance(news, Gap):
                    self.gaps.append(news)
                else:
                    self.events += news
                    if isinstance(news, Delivery):
                        news.settle()
                self._changed.notify_all()

    async def until(self, condition: Callable[[], bool], *, seconds: float = 20) -> None:
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(condition)

    async def told(self, *keys: str) -> None:
        await self.until(lambda: set(keys) <= self.names())

    def names(self) -> set[str]:
        return {event.key for event in self.events}

    async def barrier(self) -> None:
        """Return when everything that happened before has been told: a file made now is told of after it."""
        name = f"barrier-{time.monotonic_ns()}"
        await self.store.write("inbox", name, b"")
        await self.told(name)


#: Takes the root of a directory store and yields a source over it.
Factory = Callable[[Path], AbstractAsyncContextManager[Source]]


@contextlib.asynccontextmanager
async def directory_source(folder: Path) -> AsyncIterator[Source]:
    store = DirectoryStore(folder, settle_s=SETTLE_S)
    source = DirectorySource(folder, store)
    try:
        yield source
    finally:
        await source.close()
        await store.close()


@contextlib.asynccontextmanager
async def polling_source(folder: Path) -> AsyncIterator[Source]:
    store = DirectoryStore(folder, settle_s=SETTLE_S)
    source = PollingSource(store, interval_s=0.05)
    try:
        yield source
    finally:
        await source.close()
        await store.close()


ADAPTERS: list[tuple[str, Factory]] = [
    ("directory", directory_source),
    ("polling", polling_source),
    ("webhook", webhook_source),
    ("topic", topic_source),
    ("listen", listen_source),
    ("joined", joined_source),
]
#: Those over a directory store, whose files other programs write; the others are told by an object store.
OVER_FOLDERS = {"directory", "polling"}


@pytest.fixture(
    params=[factory for name, factory in ADAPTERS if name in OVER_FOLDERS],
    ids=[name for name, _ in ADAPTERS if name in OVER_FOLDERS],
)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    root = tmp_path / "buckets"
    store = DirectoryStore(root, settle_s=SETTLE_S)
    await store.create_bucket("inbox")
    factory: Factory = request.param
    async with factory(root) as source:
        opened = Bench(source, store, root / "inbox")
        await source.watch_buckets(["inbox"])
        following = asyncio.create_task(opened.follow(), name="follow")
        yield opened
        await source.close()
        await following
    await store.close()


async def test_an_object_is_told_with_the_identity_that_a_listing_gives(bench: Bench) -> None:
    await bench.store.write("inbox", "a/b c+%.png", b"123", metadata={"penstock-hops": "2"})
    await bench.store.write("inbox", "plain", b"1", if_absent=True)
    await bench.told("a/b c+%.png", "plain")
    listed = {info.key: info async for page in bench.store.list("inbox") for info in page}
    for event in bench.events:
        assert event.identity == listed[event.key].identity
        assert event.origin is Origin.PUSH
        assert event.size == listed[event.key].size
    assert {event.key: event.hops for event in bench.events} == {"a/b c+%.png": 2, "plain": 0}


async def test_files_of_other_programs_are_told_however_they_come(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("moved", "linked", "folder/x/1", "folder/2"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text(name)
        os.utime(outside / name, (1_000_000, 1_000_000))
    begun = time.time_ns() // 1_000_000
    (bench.folder / "written").write_text("x")
    (bench.folder / "moved").write_text("old")
    (outside / "moved").rename(bench.folder / "moved")
    os.link(outside / "linked", bench.folder / "linked")
    (outside / "folder").rename(bench.folder / "folder")
    (bench.folder / "deep/er").mkdir(parents=True)
    (bench.folder / "deep/er/file").write_text("x")
    (bench.folder / "empty").touch()
    (bench.folder / ".hidden").write_text("x")
    os.mknod(bench.folder / "made", 0o644)
    expected = ("written", "moved", "linked", "folder/x/1", "folder/2", "deep/er/file", "empty", ".hidden", "made")
    await bench.told(*expected)
    assert bench.names() == set(expected)
    for event in bench.events:
        assert event.arrived_ms >= begun
    moved = [event for event in bench.events if event.key == "moved"][-1]
    assert moved.time_ms == 1_000_000_000


async def test_a_file_is_told_only_when_its_writer_has_closed_it(bench: Bench) -> None:
    """Another process writes a part, waits much longer than the settle time, writes the rest, and closes."""
    program = (
        "import sys\n"
        f"with open({str(bench.folder / 'slow')!r}, 'w') as stream:\n"
        "    stream.write('first'); stream.flush(); print('begun', flush=True)\n"
        "    sys.stdin.readline(); stream.write('last')\n"
        "print('done', flush=True)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"begun\n"
    # A hard link is told after the settle time, so that much has passed when it arrives.
    (bench.folder.parent.parent / "other").write_text("x")
    os.link(bench.folder.parent.parent / "other", bench.folder / "clock")
    await bench.told("clock")
    await bench.barrier()
    assert "slow" not in bench.names()
    assert "slow" not in {info.key async for page in bench.store.list("inbox") for info in page}
    process.stdin.write(b"go\n")
    await process.stdin.drain()
    assert await process.stdout.readline() == b"done\n"
    assert await process.wait() == 0
    await bench.told("slow")
    assert {event.size for event in bench.events if event.key == "slow"} == {9}


async def test_of_a_file_replaced_quickly_the_last_version_is_told(bench: Bench) -> None:
    for text in ("1", "22", "333"):
        (bench.folder / "k").write_text(text)
    last = await bench.store.head("inbox", "k")
    await bench.until(lambda: last.identity in {event.identity for event in bench.events})


async def test_rename_and_moved_folders_are_followed(bench: Bench) -> None:
    (bench.folder / "one").mkdir()
    (bench.folder / "one/a").write_text("x")
    await bench.told("one/a")
    (bench.folder / "one").rename(bench.folder / "two")
    await bench.told("two/a")
    (bench.folder / "two/b").write_text("x")
    (bench.folder / "two/a").rename(bench.folder / "c")
    await bench.told("two/b", "c")
    assert bench.names() == {"one/a", "two/a", "two/b", "c"}


async def test_links_and_fifos_are_no_objects(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/inside").write_text("x")
    (bench.folder / "link").symlink_to(tmp_path / "secret")
    (bench.folder / "folder").symlink_to(tmp_path / "secrets")
    os.mkfifo(bench.folder / "fifo")
    (tmp_path / "secrets/later").write_text("x")
    (tmp_path / "linked").write_text("x")
    os.link(tmp_path / "linked", bench.folder / "clock")
    await bench.told("clock")
    await bench.barrier()
    assert {key for key in bench.names() if not key.startswith("barrier")} == {"clock"}


async def test_only_the_wanted_buckets_are_told(bench: Bench) -> None:
    await bench.store.create_bucket("other")
    await bench.store.write("other", "x", b"")
    await bench.source.watch_buckets(["inbox", "other"])
    await bench.store.write("other", "y", b"")
    await bench.told("y")
    await bench.source.watch_buckets(["inbox"])
    await bench.store.write("other", "z", b"")
    await bench.barrier()
    assert "z" not in bench.names()


async def test_what_lies_below_a_wanted_prefix_is_told_also_when_prefixes_change(bench: Bench) -> None:
    (bench.folder / "in/deep").mkdir(parents=True)
    (bench.folder / "out").mkdir()
    await bench.source.watch_buckets(["inbox"], {"inbox": ["in/deep/x-", "barrier", "new/"]})
    await bench.store.write("inbox", "in/deep/x-1", b"")
    await bench.store.write("inbox", "new/folder/1", b"")
    await bench.told("in/deep/x-1", "new/folder/1")
    await bench.source.watch_buckets(["inbox"], {"inbox": ["out/", "barrier"]})
    await bench.store.write("inbox", "out/1", b"")
    await bench.store.write("inbox", "out/more/1", b"")
    await bench.told("out/1", "out/more/1")
    await bench.source.watch_buckets(["inbox"])
    await bench.store.write("inbox", "in/2", b"")
    await bench.told("in/2")


async def test_a_bucket_that_appears_later_is_told_or_a_gap(bench: Bench) -> None:
    await bench.source.watch_buckets(["inbox", "later"])
    await bench.store.create_bucket("later")
    await bench.store.write("later", "x", b"")
    await bench.until(lambda: "x" in bench.names() or any(gap.bucket in {"", "later"} for gap in bench.gaps))
    await bench.store.write("later", "y", b"")
    await bench.until(lambda: "y" in bench.names() or len(bench.gaps) > 1)


async def test_files_that_are_gone_again_are_not_told(bench: Bench) -> None:
    for turn in range(20):
        (bench.folder / f"short-{turn}").write_text("x")
        (bench.folder / f"short-{turn}").unlink()
    await bench.barrier()
    for event in bench.events:
        assert event.size == 1 or event.key.startswith("barrier")


async def test_a_burst_is_told_completely(bench: Bench) -> None:
    names = [f"burst/{turn % 10}/{turn}" for turn in range(5000)]
    for turn in range(10):
        (bench.folder / f"burst/{turn}").mkdir(parents=True)

    def write() -> None:
        for name in names:
            (bench.folder / name).write_text("x")

    await asyncio.to_thread(write)
    await bench.until(lambda: set(names) <= bench.names() or bool(bench.gaps), seconds=60)
    assert not bench.gaps


async def test_events_end_when_the_source_is_closed(bench: Bench) -> None:
    await bench.store.write("inbox", "x", b"")
    await bench.told("x")
    await bench.source.close()
    await bench.source.close()


# What is told by an object store


@pytest.fixture(
    params=[
        pytest.param(factory, id=name, marks=[pytest.mark.components])
        for name, factory in ADAPTERS
        if name not in OVER_FOLDERS
    ]
)
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """A source that hears of a bucket on a real MinIO."""
    minio: Minio = request.getfixturevalue("minio")
    MINIO[:] = [minio]
    bucket = f"source-{uuid.uuid4().hex[:8]}"
    store = S3Store(config_of(minio, direct=True))
    await store.create_bucket(bucket)
    await Notifications(store.client).put(bucket, [Rule(id="suite", arn=minio.WEBHOOK_ARN)])
    factory: Factory = request.param
    try:
        async with factory(tmp_path / "source") as source:
            opened = Bench(source, store, tmp_path, bucket)
            following = asyncio.create_task(opened.follow(), name="follow")
            await source.watch_buckets([bucket])
            yield opened
            await source.close()
            await following
    finally:
        MINIO.clear()
        await store.close()


async def test_an_upload_is_told_with_the_identity_that_a_listing_gives(served: Bench) -> None:
    keys = {"a/b c+%2F.png", "ünï/🐟", "plain"}
    for key in keys:
        await served.store.write(served.bucket, key, key.encode(), metadata={"penstock-hops": "2"})
    await served.told(*keys)
    listed = {info.key: info async for page in served.store.list(served.bucket) for info in page}
    for event in served.events:
        assert event.identity == listed[event.key].identity
        assert (event.origin, event.hops, event.size) == (Origin.PUSH, 2, listed[event.key].size)
    assert served.names() == keys


async def test_each_version_of_an_object_is_told(served: Bench) -> None:
    first = await served.store.write(served.bucket, "k", b"1")
    await served.until(lambda: first.identity in {event.identity for event in served.events})
    second = await served.store.write(served.bucket, "k", b"1")
    await served.until(lambda: second.identity in {event.identity for event in served.events})
    assert first.identity != second.identity


async def test_a_burst_of_uploads_is_told_completely(served: Bench) -> None:
    keys = [f"burst/{number}" for number in range(200)]
    for start in range(0, len(keys), 20):
        await asyncio.gather(*(served.store.write(served.bucket, key, b"") for key in keys[start : start + 20]))
    await served.until(lambda: set(keys) <= served.names() or bool(served.gaps), seconds=60)
    assert not served.gaps


async def test_events_of_a_store_end_when_the_source_is_closed_twice(served: Bench) -> None:
    await served.store.write(served.bucket, "x", b"")
    await served.told("x")
    await served.source.close()
    await served.source.close()
