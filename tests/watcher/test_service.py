"""The whole watcher over real parts: directory store, kernel notifications, SQLite log and registry."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from penstock.adapters.directory import DirectoryStore
from penstock.adapters.sqlite import SqliteEventLog, SqliteRegistry
from penstock.codec import decode_dead, decode_trigger
from penstock.errors import Forbidden, OutOfSpace, Unavailable
from penstock.model import TOPIC_DEAD, TOPIC_EVENTS, BucketEvent, Function, ObjectInfo, Origin, StorageIO
from penstock.ports import EventLog, Gap, LogEntry, Source
from watcher.metrics import WatcherMetrics
from watcher.schedule import Policy
from watcher.seen import SeenStore
from watcher.service import Watcher
from watcher.sources import open_directory_source

QUICK = Policy(min_interval_s=0.05, retry_s=0.05, share=1.0)
#: No listing but those at once after a start, a gap or a rule change.
RARE = Policy(min_interval_s=3600.0)


def function(name: str = "first", *, bucket: str = "inbox", folder: str = "in", **fields: object) -> Function:
    values = {"start_ms": 0, "inputs": (StorageIO(provider="local", bucket=bucket, folder=folder),), **fields}
    return Function(name=name, script="true", **values)  # type: ignore[arg-type]


class DeafSource:
    """A source that loses everything; it tells of a gap when a test says so."""

    def __init__(self) -> None:
        self._gaps: asyncio.Queue[Gap | None] = asyncio.Queue()
        self.watched: set[str] = set()

    async def events(self) -> AsyncIterator[list[BucketEvent] | Gap]:
        while (gap := await self._gaps.get()) is not None:
            yield gap

    async def watch_buckets(
        self, buckets: Collection[str], prefixes: Mapping[str, Collection[str]] | None = None
    ) -> None:
        self.watched = set(buckets)

    def tell(self, gap: Gap) -> None:
        self._gaps.put_nowait(gap)

    async def close(self) -> None:
        self._gaps.put_nowait(None)


class FullDisk:
    """The log on a disk that is full until a test frees it."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.full = True
        self.refused = asyncio.Event()

    async def append(self, topic: str, entries: Sequence[LogEntry]) -> list[tuple[int, int]]:
        if self.full:
            self.refused.set()
            raise OutOfSpace("the disk is full")
        return await self._log.append(topic, entries)

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)


class Bench:
    def __init__(self, folder: Path, log: SqliteEventLog, registry: SqliteRegistry) -> None:
        self.folder = folder
        self.root = folder / "buckets"
        self.inbox = self.root / "inbox" / "in"
        self.log = log
        self.registry = registry
        self.store = DirectoryStore(self.root, settle_s=0.2)
        self.prometheus = CollectorRegistry()
        self.metrics = WatcherMetrics(self.prometheus)

    @contextlib.asynccontextmanager
    async def running(
        self, source: Source | None = None, *, log: EventLog | None = None, policy: Policy = RARE
    ) -> AsyncIterator[Watcher]:
        """One life of the watcher; at the end it is cancelled, as when the process stops."""
        seen = SeenStore(self.folder / "seen.db")
        followed: Source = source or open_directory_source(self.store)
        watcher = Watcher(
            store=self.store,
            source=followed,
            log=log or self.log,
            registry=self.registry,
            seen=seen,
            metrics=self.metrics,
            policy=policy,
            first_pause_s=0.01,
            longest_pause_s=0.02,
        )
        ready = asyncio.Event()
        task = asyncio.create_task(watcher.run(ready), name="watcher")
        try:
            async with asyncio.timeout(20):
                await ready.wait()
            yield watcher
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await followed.close()
            await seen.close()

    async def events(self) -> list[BucketEvent]:
        found: list[BucketEvent] = []
        positions: dict[int, int] = {}
        while stored := await self.log.read(TOPIC_EVENTS, positions):
            for entry in stored:
                event = decode_trigger(entry.value)
                assert isinstance(event, BucketEvent)
                assert entry.key == f"{event.bucket}/{event.key}"
                found.append(event)
                positions[entry.partition] = entry.offset + 1
        return found

    async def until(self, condition: Callable[[list[BucketEvent]], bool]) -> list[BucketEvent]:
        """Wait until the log's events satisfy a condition; looks again after each append."""
        async with asyncio.timeout(60):
            while True:
                events = await self.events()
                if condition(events):
                    return events
                await self.log.read(TOPIC_EVENTS, await self.log.end(TOPIC_EVENTS), wait_s=0.2)

    async def told(self, *keys: str) -> list[BucketEvent]:
        return await self.until(lambda events: set(keys) <= {event.key for event in events})

    async def counted(self, name: str, value: float) -> None:
        """Until a metric says so: what is in the log is counted a moment later."""
        async with asyncio.timeout(60):
            while self.metric(name) < value:
                await asyncio.sleep(0.01)

    def metric(self, name: str, **labels: str) -> float:
        return self.prometheus.get_sample_value(f"penstock_watcher_{name}", labels) or 0.0


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    log = await SqliteEventLog.open(tmp_path / "log.db")
    registry = await SqliteRegistry.open(tmp_path / "registry.db")
    opened = Bench(tmp_path, log, registry)
    await opened.store.create_bucket("inbox")
    opened.inbox.mkdir()
    await registry.create(function())
    yield opened
    await opened.store.close()
    await registry.close()
    await log.close()


def settled(path: Path, text: str = "x") -> Path:
    """Make a file that appears at once, as `mv` does."""
    aside = path.parent.parent.parent.parent / f"aside-{path.name}"
    aside.write_text(text)
    return aside.rename(path)


async def test_files_are_published_once_with_their_hops(bench: Bench) -> None:
    async with bench.running(policy=QUICK):
        (bench.inbox / "a").write_text("1")
        await bench.store.write("inbox", "in/b", b"2", metadata={"penstock-hops": "4"})
        events = await bench.told("in/a", "in/b")
        # Listings go on all the time; none of them repeats anything.
        listed = bench.metric("listed_total")
        async with asyncio.timeout(20):
            while bench.metric("listed_total") < listed + 10:
                await asyncio.sleep(0)
    events = await bench.events()
    assert Counter(event.key for event in events) == {"in/a": 1, "in/b": 1}
    assert {event.key: event.hops for event in events if event.origin is Origin.PUSH}.items() <= {
        "in/a": 0,
        "in/b": 4,
    }.items()
    assert events[1].identity == (await bench.store.head("inbox", events[1].key)).identity


async def test_files_dropped_while_down_are_found_and_a_restart_repeats_nothing(bench: Bench) -> None:
    settled(bench.inbox / "before")
    await bench.store.write("inbox", "in/early", b"")
    async with bench.running(policy=QUICK):
        await bench.told("in/before", "in/early")
        await bench.counted("reconciler_found_total", 2)
    settled(bench.inbox / "meanwhile")
    settled(bench.inbox / "before", "replaced")
    (bench.inbox / "early").unlink()
    for _ in range(2):
        async with bench.running(policy=QUICK):
            events = await bench.until(lambda found: len(found) >= 4)
            await bench.counted("reconciler_found_total", 4)
    assert Counter(event.key for event in events) == {"in/before": 2, "in/early": 1, "in/meanwhile": 1}
    assert all(event.origin is Origin.LISTING for event in events)
    assert bench.metric("reconciler_found_total") == 4
    assert bench.metric("events_total", origin="listing") == 4


async def test_a_deleted_object_is_forgotten_and_a_new_one_of_its_name_is_news(bench: Bench) -> None:
    async with bench.running(policy=QUICK) as watcher:
        first = await bench.store.write("inbox", "in/a", b"1")
        await bench.told("in/a")
        await bench.store.delete("inbox", "in/a")
        async with asyncio.timeout(20):
            while await watcher._seen.count("inbox"):
                await asyncio.sleep(0)
        second = await bench.store.write("inbox", "in/a", b"1")
        events = await bench.until(lambda found: len(found) == 2)
    assert [event.identity for event in events] == [first.identity, second.identity]


async def test_what_a_source_lost_is_found_after_a_gap(bench: Bench) -> None:
    source = DeafSource()
    async with bench.running(source):
        assert source.watched == {"inbox"}
        for name in range(500):
            await asyncio.to_thread(settled, bench.inbox / str(name))
        await asyncio.sleep(0)
        source.tell(Gap(bucket="inbox", why="lost"))
        # Files of other programs are listed once they have settled; a listing before that finds none of them.
        async with asyncio.timeout(30):
            while len(await bench.events()) < 500:
                source.tell(Gap(why="lost"))
                await bench.log.read(TOPIC_EVENTS, await bench.log.end(TOPIC_EVENTS), wait_s=0.1)
    events = await bench.events()
    assert Counter(event.key for event in events) == {f"in/{name}": 1 for name in range(500)}
    assert bench.metric("gaps_total") >= 2


async def test_a_burst_is_seen_exactly_once(bench: Bench) -> None:
    def write() -> None:
        for turn in range(5000):
            (bench.inbox / f"{turn % 20}").mkdir(exist_ok=True)
            (bench.inbox / f"{turn % 20}/{turn}").write_text("x")

    async with bench.running(policy=QUICK):
        await asyncio.to_thread(write)
        await bench.until(lambda found: len({event.key for event in found}) == 5000)
    assert Counter(Counter(event.identity for event in await bench.events()).values()) == {1: 5000}


async def test_only_what_some_function_wants_is_published(bench: Bench) -> None:
    await bench.registry.create(
        function("images", inputs=(StorageIO(provider="minio", bucket="photos", suffix=(".png", ".jpg")),))
    )
    await bench.registry.create(function("foreign", inputs=(StorageIO(provider="s3", bucket="elsewhere"),)))
    await bench.registry.create(function("late", bucket="inbox", folder="late", start_ms=2**50))
    await bench.store.create_bucket("photos")
    source = DeafSource()
    async with bench.running(source):
        assert source.watched == {"inbox", "photos"}
    async with bench.running():
        for bucket, key in [
            ("inbox", "out/a"),
            ("inbox", "inn/a"),
            ("inbox", "late/a"),
            ("photos", "a.txt"),
            ("photos", "b.png"),
            ("inbox", "in/last"),
        ]:
            await bench.store.write(bucket, key, b"")
        events = await bench.told("b.png", "in/last")
    assert {event.key for event in events} == {"b.png", "in/last"}


async def test_functions_that_come_and_go_change_what_is_watched(bench: Bench) -> None:
    source = DeafSource()
    await bench.store.write("inbox", "more/old", b"")
    await bench.store.create_bucket("photos")
    async with bench.running(source):
        await bench.registry.create(function("second", folder="more"))
        await bench.told("more/old")
        await bench.store.write("photos", "in/x", b"")
        third = await bench.registry.create(function("third", bucket="photos"))
        await bench.told("in/x")
        assert source.watched == {"inbox", "photos"}
        await bench.registry.delete(third.name)
        await bench.store.write("photos", "in/y", b"")
        async with asyncio.timeout(20):
            while source.watched != {"inbox"}:
                await asyncio.sleep(0)
        source.tell(Gap())
        await bench.store.write("inbox", "in/z", b"")
        source.tell(Gap())
        events = await bench.told("in/z")
    assert "in/y" not in {event.key for event in events}


async def test_a_full_disk_delays_and_loses_nothing(bench: Bench) -> None:
    full = FullDisk(bench.log)
    async with bench.running(log=full):  # type: ignore[arg-type]  # delegates the rest of the port
        for name in range(50):
            await bench.store.write("inbox", f"in/{name}", b"")
        await full.refused.wait()
        assert await bench.events() == []
        full.full = False
        events = await bench.until(lambda found: len(found) >= 50)
    assert Counter(event.key for event in events) == {f"in/{name}": 1 for name in range(50)}


async def test_a_life_that_ends_before_the_append_is_made_good_by_the_next(bench: Bench) -> None:
    full = FullDisk(bench.log)
    async with bench.running(log=full):  # type: ignore[arg-type]  # delegates the rest of the port
        await bench.store.write("inbox", "in/a", b"")
        await full.refused.wait()
    async with bench.running():
        assert [event.key for event in await bench.told("in/a")] == ["in/a"]


async def test_an_unreadable_file_is_published_and_a_name_that_is_no_text_is_put_aside(bench: Bench) -> None:
    async with bench.running():
        (bench.inbox / "secret").touch(mode=0o000)
        (bench.inbox / os.fsdecode(b"caf\xe9")).write_text("x")
        await bench.store.write("inbox", "in/good", b"")
        events = await bench.told("in/secret", "in/good")
        stored = await bench.log.read(TOPIC_DEAD, {}, wait_s=20)
    assert {event.key for event in events} == {"in/secret", "in/good"}
    (letter,) = [decode_dead(entry.value) for entry in stored]
    assert letter.original == b"inbox/in/caf\xe9"
    assert "rename" in letter.message
    assert bench.metric("quarantined_total") == 1


async def test_a_bucket_that_is_away_for_a_while_is_not_taken_for_empty(bench: Bench) -> None:
    await bench.store.write("inbox", "in/old", b"")
    async with bench.running(DeafSource(), policy=QUICK):
        await bench.told("in/old")
        (bench.root / "inbox").rename(bench.root / "away")
        failed = bench.metric("failed_listings_total")
        async with asyncio.timeout(20):
            while bench.metric("failed_listings_total") < failed + 2:
                await asyncio.sleep(0)
        settled(bench.root / "away" / "in" / "new")
        (bench.root / "away").rename(bench.root / "inbox")
        events = await bench.told("in/new")
    assert [event.key for event in events] == ["in/old", "in/new"]


async def test_a_listing_that_fails_is_repeated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [Forbidden("may not"), Unavailable("not now")]
    real = bench.store.list

    def list_(bucket: str, prefix: str = "", *, after: str = "") -> AsyncIterator[list[ObjectInfo]]:
        if failures:
            raise failures.pop()
        return real(bucket, prefix, after=after)

    monkeypatch.setattr(bench.store, "list", list_)
    await bench.store.write("inbox", "in/x", b"")
    async with bench.running(DeafSource(), policy=QUICK):
        await bench.told("in/x")
    assert bench.metric("failed_listings_total") == 2


async def test_the_end_of_the_source_ends_the_watcher(bench: Bench) -> None:
    source = DeafSource()
    seen = SeenStore(bench.folder / "seen.db")
    watcher = Watcher(store=bench.store, source=source, log=bench.log, registry=bench.registry, seen=seen)
    running = asyncio.create_task(watcher.run())
    await source.close()
    with pytest.raises(RuntimeError, match="watcher-source"):
        await running
    await seen.close()
