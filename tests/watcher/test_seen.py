"""The memory of published versions: lookups, the merge with listings, damage."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import Closed, Corrupt, PenstockError, Unavailable
from penstock.model import ObjectInfo
from watcher.seen import SeenStore, Stale, digest, versions_of


def item(key: str, version: int = 0, bucket: str = "in") -> ObjectInfo:
    return ObjectInfo(bucket=bucket, key=key, etag=str(version), size=0, modified_ms=0, arrived_ms=0)


@pytest.fixture
async def seen(tmp_path: Path) -> AsyncIterator[SeenStore]:
    store = SeenStore(tmp_path / "seen.db")
    yield store
    await store.close()


async def test_what_was_added_is_seen_also_after_opening_again(seen: SeenStore, tmp_path: Path) -> None:
    await seen.add(versions_of([item("a"), item("b\udcff"), item("a", 1)]))
    wanted = [item("a"), item("c"), item("b\udcff"), item("a", 2), item("a", bucket="other"), item("c")]
    assert await seen.unseen(versions_of(wanted)) == [1, 3, 4]
    await seen.close()
    again = SeenStore(tmp_path / "seen.db")
    assert await again.unseen(versions_of(wanted)) == [1, 3, 4]
    assert (await again.count("in"), await again.count("other")) == (3, 0)
    await again.close()


async def test_merge_tells_news_and_what_is_no_longer_listed(seen: SeenStore) -> None:
    await seen.add(versions_of([item("a"), item("b"), item("c"), item("d"), item("e"), item("b", bucket="other")]))
    unseen, stale = await seen.merge("in", [item("a"), item("aa"), item("c", 1)], after="", last=False)
    assert unseen == [1, 2]
    assert stale == [Stale("b", digest(item("b").identity)), Stale("c", digest(item("c").identity))]
    assert await seen.merge("in", [item("d")], after="c", last=False) == ([], [])
    unseen, stale = await seen.merge("in", [], after="d", last=True)
    assert (unseen, stale) == ([], [Stale("e", digest(item("e").identity))])
    assert await seen.count("in") == 5
    await seen.forget("in", stale)
    assert await seen.count("in") == 4
    assert await seen.count("other") == 1


async def test_merge_of_a_prefix_touches_nothing_beside_it(seen: SeenStore) -> None:
    await seen.add(versions_of([item("a"), item("b/1"), item("b/2"), item("b0")]))
    assert await seen.merge("in", [item("b/2")], after="", prefix="b/", last=False) == (
        [],
        [Stale("b/1", digest(item("b/1").identity))],
    )
    assert await seen.merge("in", [], after="b/2", prefix="b/", last=True) == ([], [])
    assert (await seen.merge("in", [], after="", prefix="\udcff", last=True)) == ([], [])


names = st.text("ab/é\udcff", min_size=1, max_size=4)
contents = st.dictionaries(names, st.integers(0, 2), max_size=12)


@settings(max_examples=60, deadline=None)
@given(before=contents, now=contents, page=st.integers(1, 4), prefix=st.sampled_from(["", "a", "a/", "é", "\udcff"]))
def test_merging_a_whole_listing_gives_the_difference(
    before: dict[str, int], now: dict[str, int], page: int, prefix: str
) -> None:
    async def scenario() -> None:
        with TemporaryDirectory() as folder:
            seen = SeenStore(Path(folder) / "seen.db")
            await seen.add(versions_of([item(key, version) for key, version in before.items()]))
            listed = [item(key, now[key]) for key in sorted(now, key=os.fsencode) if key.startswith(prefix)]
            news, gone, after = [], [], ""
            for begin in range(0, len(listed), page):
                part = listed[begin : begin + page]
                unseen, stale = await seen.merge("in", part, after=after, prefix=prefix, last=False)
                news += [part[index].key for index in unseen]
                gone += stale
                after = part[-1].key
            unseen, stale = await seen.merge("in", [], after=after, prefix=prefix, last=True)
            assert not unseen
            gone += stale
            assert news == [info.key for info in listed if before.get(info.key) != now[info.key]]
            assert sorted(found.key for found in gone) == sorted(
                key for key, version in before.items() if key.startswith(prefix) and now.get(key) != version
            )
            await seen.close()

    asyncio.run(scenario())


async def test_a_file_that_is_no_database_is_reported_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "seen.db"
    path.write_bytes(b"something else" * 1000)
    seen = SeenStore(path)
    with pytest.raises(Corrupt, match=r"seen\.db"):
        await seen.count("in")
    await seen.close()
    assert path.read_bytes() == b"something else" * 1000


async def test_a_missing_folder_and_a_closed_store(tmp_path: Path) -> None:
    seen = SeenStore(tmp_path / "missing" / "seen.db")
    with pytest.raises(Unavailable):
        await seen.count("in")
    await seen.close()
    await seen.close()
    with pytest.raises(Closed):
        await seen.count("in")


async def test_a_failed_transaction_leaves_nothing_half_done(seen: SeenStore, tmp_path: Path) -> None:
    """Another connection holds the write lock until the call gives up."""
    await seen.add(versions_of([item("a")]))
    other = sqlite3.connect(tmp_path / "seen.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(PenstockError):
        await seen.add(versions_of([item("b", bucket="new"), item("c")]))
    other.rollback()
    other.close()
    assert await seen.unseen(versions_of([item("b", bucket="new"), item("c")])) == [0, 1]
    await seen.add(versions_of([item("b", bucket="new")]))
    assert await seen.count("new") == 1
