"""The reconciler's sense of loss and its budget, over a real directory store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from penstock.adapters.directory import DirectoryStore
from penstock.clock import now_ms
from penstock.model import BucketEvent
from watcher.metrics import WatcherMetrics
from watcher.reconciler import Reconciler
from watcher.schedule import Policy
from watcher.seen import SeenStore, versions_of


class Bench:
    def __init__(self, folder: Path, policy: Policy) -> None:
        self.store = DirectoryStore(folder / "buckets", settle_s=0.0)
        self.seen = SeenStore(folder / "seen.db")
        self.registry = CollectorRegistry()
        self.ahead_ms = 0
        self.published: list[str] = []
        self.reconciler = Reconciler(
            store=self.store,
            seen=self.seen,
            publish=self.publish,
            metrics=WatcherMetrics(self.registry),
            policy=policy,
            clock=lambda: now_ms() + self.ahead_ms,
        )

    async def publish(self, events: Sequence[BucketEvent]) -> int:
        self.published += [event.key for event in events]
        await self.seen.add(versions_of(events))
        return len(events)

    def metric(self, name: str) -> float:
        return self.registry.get_sample_value(f"penstock_watcher_{name}") or 0.0


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    opened = Bench(tmp_path, Policy(min_interval_s=60.0, keys_per_minute=60))
    await opened.store.create_bucket("one")
    await opened.store.create_bucket("two")
    yield opened
    await opened.seen.close()
    await opened.store.close()


async def test_only_what_an_event_should_have_told_counts_as_missed(bench: Bench) -> None:
    await bench.store.write("one", "before", b"")
    bench.reconciler.watch({"one": [""], "two": [""]})
    await bench.reconciler.turn()
    assert (bench.published, bench.metric("missed_total")) == (["before"], 0)
    await bench.store.write("one", "under-way", b"")
    bench.reconciler.request("one", "gap")
    bench.ahead_ms = 3000  # listings in quick succession wait for a moment
    await bench.reconciler.turn()
    assert bench.published == ["before", "under-way"]
    assert bench.metric("missed_total") == 0  # its event may come any moment
    await bench.store.write("one", "lost", b"")
    bench.ahead_ms = 120_000
    two = bench.reconciler._scopes["two", ""]
    begun = two.swept_ms
    await bench.reconciler.turn()  # a routine listing
    assert bench.published == ["before", "under-way", "lost"]
    assert bench.metric("missed_total") == 1
    assert two.swept_ms > begun
    # More is wanted than before: what is found then was never to be told.
    await bench.store.write("one", "unwanted-so-far", b"")
    bench.reconciler.request("one", "a function was added or changed", anew=True)
    bench.ahead_ms = 240_000
    await bench.reconciler.turn()
    assert bench.metric("missed_total") == 1


async def test_a_routine_listing_keeps_to_the_budget_until_another_is_urgent(bench: Bench) -> None:
    for number in range(20):
        await bench.store.write("one", f"{number}", b"")
    bench.reconciler.watch({"one": [""]})
    begin = time.monotonic()
    await bench.reconciler.turn()  # the first is urgent, so not held back
    assert time.monotonic() - begin < 15
    # Twenty keys at 60 a minute are twenty seconds, and the next listing is due no sooner than that allows.
    assert bench.metric("worst_case_detection_seconds") >= 60.0 + 20.0
    bench.ahead_ms = 120_000
    listing = asyncio.create_task(bench.reconciler.turn())
    async with asyncio.timeout(20):
        while bench.metric("listed_total") < 40:
            await asyncio.sleep(0.01)
        done, _ = await asyncio.wait({listing}, timeout=0.2)
        assert not done
        bench.reconciler.request("", "gap")
        await listing
    bench.ahead_ms += 15_000
    await bench.reconciler.turn()
    assert bench.metric("listed_total") == 60
    # The pause is no cost: it does not make the next listing rarer.
    assert bench.reconciler._scopes["one", ""].cost_s < 5
