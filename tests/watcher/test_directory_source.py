"""What only the kernel's notifications have: a queue that overflows, watches that run out, folders that move."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from asyncinotify import Mask, Watch
from structlog.testing import capture_logs

from penstock.adapters.directory import DirectoryStore, paths
from penstock.model import BucketEvent
from penstock.ports import Gap
from watcher.sources import PollingSource, open_directory_source
from watcher.sources import tree as tree_module
from watcher.sources.directory import DirectorySource
from watcher.sources.tree import Scope

QUEUE = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    opened = DirectoryStore(tmp_path / "buckets", settle_s=0.1)
    await opened.create_bucket("inbox")
    yield opened
    await opened.close()


@pytest.fixture
async def source(store: DirectoryStore) -> AsyncIterator[DirectorySource]:
    opened = DirectorySource(store.root, store, poll_interval_s=0.05)
    yield opened
    await opened.close()


async def collect(source: DirectorySource, last: str) -> tuple[list[BucketEvent], list[Gap]]:
    """Everything up to the event of the key `last`."""
    events: list[BucketEvent] = []
    gaps: list[Gap] = []
    async with asyncio.timeout(30):
        async for news in source.events():
            if isinstance(news, Gap):
                gaps.append(news)
                continue
            events += news
            if last in {event.key for event in news}:
                break
    return events, gaps


async def test_an_overflow_is_a_gap_and_folders_made_meanwhile_are_watched(
    store: DirectoryStore, source: DirectorySource
) -> None:
    inbox = store.root / "inbox"
    await source.watch_buckets(["inbox"])
    (inbox / "0").touch()
    for turn in range(QUEUE // 2 + 10):  # each rename is two events
        (inbox / str(turn)).rename(inbox / str(turn + 1))
    (inbox / "unnoticed/deep").mkdir(parents=True)
    gaps: list[Gap] = []
    news = source.events()
    async with asyncio.timeout(30):
        while not gaps:
            item = await anext(news)
            if isinstance(item, Gap):
                gaps.append(item)
        (inbox / "unnoticed/deep/later").write_text("x")
        while True:
            item = await anext(news)
            if not isinstance(item, Gap) and "unnoticed/deep/later" in {event.key for event in item}:
                break
    assert gaps[0].bucket == ""
    assert "overflow" in gaps[0].why


async def test_without_watches_the_bucket_is_polled_and_that_is_said_once(
    store: DirectoryStore, source: DirectorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tree_module._Reader.add_watch

    def exhausted(self: tree_module._Reader, path: str, mask: Mask) -> Watch:
        if "/inbox/1" in path:
            raise OSError(errno.ENOSPC, "no watches left")
        return real(self, path, mask)

    monkeypatch.setattr(tree_module._Reader, "add_watch", exhausted)
    inbox = store.root / "inbox"
    (inbox / "0").mkdir()
    (inbox / "1").mkdir()
    await store.create_bucket("watched")
    with capture_logs() as logs:
        await source.watch_buckets(["inbox", "watched"])
        await store.write("inbox", "1/k", b"x", metadata={"penstock-hops": "2"})
        await store.write("watched", "w", b"x")
        (inbox / "2").mkdir()
        events, gaps = await collect(source, "1/k")
    assert [entry["bucket"] for entry in logs if entry["action"] == "watch_limit"] == ["inbox"]
    assert [gap.bucket for gap in gaps] == ["inbox"]
    assert {event.key: event.hops for event in events}["1/k"] == 2


async def test_watches_of_folders_that_are_gone_or_moved_away_are_given_back(
    store: DirectoryStore, source: DirectorySource, tmp_path: Path
) -> None:
    inbox = store.root / "inbox"
    await source.watch_buckets(["inbox"])
    before = len(source._tree._places)
    for name in ("gone/a/b", "moved/a/b", "kept/a"):
        (inbox / name).mkdir(parents=True)
    (inbox / "kept/a/1").write_text("x")
    await collect(source, "kept/a/1")
    # The generator was closed with its source: begin again, as the next life would.
    again = DirectorySource(store.root, store)
    await again.watch_buckets(["inbox"])
    assert len(again._tree._places) == before + 8
    for name in ("gone/a/b", "gone/a", "gone"):
        (inbox / name).rmdir()
    (inbox / "moved").rename(tmp_path / "elsewhere")
    (inbox / "kept").rename(inbox / "renamed")
    (inbox / "renamed/a/2").write_text("x")
    (tmp_path / "elsewhere/a/b/3").write_text("x")
    events, _ = await collect(again, "renamed/a/2")
    assert (
        set(again._tree._places.values())
        == set(again._tree._watches)
        == {
            ("", ""),
            ("inbox", ""),
            ("inbox", "renamed/"),
            ("inbox", "renamed/a/"),
        }
    )
    assert {event.key for event in events} == {"renamed/a/1", "renamed/a/2"}


async def test_a_known_bucket_is_no_gap_but_one_made_anew_is(store: DirectoryStore, source: DirectorySource) -> None:
    await source.watch_buckets(["inbox"])
    await store.write("inbox", "first", b"")
    news = source.events()
    async with asyncio.timeout(20):
        item = await anext(news)
        assert not isinstance(item, Gap)
        await store.delete("inbox", "first")
        await store.delete_bucket("inbox")
        await store.create_bucket("inbox")
        assert await anext(news) == Gap(bucket="inbox", why="the bucket appeared")
        await store.write("inbox", "second", b"")
        item = await anext(news)
        assert not isinstance(item, Gap)
        assert [event.key for event in item] == ["second"]


async def test_a_moved_folder_with_very_many_files_is_left_to_a_listing(
    store: DirectoryStore, source: DirectorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.sources.directory._MANY", 10)
    (tmp_path / "many").mkdir()
    for turn in range(11):
        (tmp_path / "many" / str(turn)).write_text("x")
    await source.watch_buckets(["inbox"])
    (tmp_path / "many").rename(store.root / "inbox" / "many")
    async with asyncio.timeout(20):
        gap = await anext(source.events())
    assert isinstance(gap, Gap)
    assert gap.bucket == "inbox"


async def test_a_system_without_notifications_left_is_polled(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_directory_source(store)
    assert isinstance(found, DirectorySource)
    await found.close()

    def exhausted(*_: object) -> Watch:
        raise OSError(errno.ENOSPC, "no watches left")

    monkeypatch.setattr(tree_module._Reader, "add_watch", exhausted)
    with capture_logs() as logs:
        polled = open_directory_source(store)
    assert isinstance(polled, PollingSource)
    assert [entry["action"] for entry in logs] == ["watch_limit"]
    await polled.close()


async def test_a_close_that_is_told_before_it_is_done_loses_nothing(
    store: DirectoryStore, source: DirectorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first looks say "open for writing", as they do when the kernel is not quite done with a close."""
    looks: dict[str, int] = {}
    real = paths.being_written

    def late(parent: int, name: str) -> bool | None:
        looks[name] = looks.get(name, 0) + 1
        return real(parent, name) if looks[name] > (2 if name == "soon" else 4) else True

    monkeypatch.setattr(paths, "being_written", late)
    await source.watch_buckets(["inbox"])
    (store.root / "inbox" / "late").write_text("x")
    (store.root / "inbox" / "soon").write_text("x")
    events, _ = await collect(source, "late")
    assert [event.key for event in events] == ["soon", "late"]
    assert looks == {"soon": 3, "late": 5}


async def test_a_file_with_two_writers_is_told_when_the_last_one_has_closed_it(
    store: DirectoryStore, source: DirectorySource
) -> None:
    await source.watch_buckets(["inbox"])
    news = source.events()
    with (store.root / "inbox" / "k").open("a") as last:
        (store.root / "inbox" / "k").write_text("first")
        await store.write("inbox", "other", b"")
        item = await anext(news)
        assert not isinstance(item, Gap)
        assert [event.key for event in item] == ["other"]
        last.write("and last")
    item = await anext(news)
    assert not isinstance(item, Gap)
    assert [(event.key, event.size) for event in item] == [("k", 13)]


async def test_folders_without_wanted_keys_are_not_watched_and_their_files_not_looked_at(
    store: DirectoryStore, source: DirectorySource
) -> None:
    inbox = store.root / "inbox"
    for name in ("in/deep", "out/deep", "input"):
        (inbox / name).mkdir(parents=True)
    await source.watch_buckets(["inbox"], {"inbox": ["in/"]})
    assert {folder for bucket, folder in source._tree._watches if bucket} == {"", "in/", "in/deep/"}
    (inbox / "new/deep").mkdir(parents=True)
    (inbox / "elsewhere").write_text("x")
    (inbox / "in/deep/1").write_text("x")
    events, _ = await collect(source, "in/deep/1")
    assert [event.key for event in events] == ["in/deep/1"]


def test_a_scope_tells_which_folders_may_hold_a_wanted_key() -> None:
    scope = Scope(["a/b/x-", "c/"])
    held = {folder: scope.may_hold(folder) for folder in ("a/", "a/b/", "a/b/x-1/", "a/b/y/", "a/c/", "c/d/", "d/")}
    assert [folder for folder, may in held.items() if may] == ["a/", "a/b/", "a/b/x-1/", "c/d/"]
    assert [key for key in ("a/b/x-1", "a/b/y", "c/d", "c", "ca") if scope.holds(key)] == ["a/b/x-1", "c/d"]
    assert Scope([""]).holds("anything")
    assert Scope([""]).may_hold("any/thing/")
