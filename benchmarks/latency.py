"""From an upload to its Job: what a user waits before anything happens, on an idle system and behind a long backlog.

Everything is real: MinIO's webhook, `python -m watcher`, Kafka, `python -m dispatcher`, the API server. The clock runs
from the first byte of the upload to the moment at which a watch of the benchmark's own shows the Job, so the upload
itself and the watch's delay are in the figure. Uploads come one at a time.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import Report, main, percentile
from penstock.adapters.kafka import KafkaEventLog
from penstock.codec import encode
from penstock.model import TOPIC_EVENTS, BucketEvent, Phase, Record
from penstock.ports import LogEntry
from tests.production.platform import Platform, eventually, installed, resource
from tests.testbed.bed import Bed

MODE = "webhook (no queue_dir), one upload at a time"
_CHUNK = 2000
SLOWEST = 3


class JobWatch:
    """When each invocation's Job was first seen, by the key of its item."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._seen: dict[str, asyncio.Future[float]] = {}
        self.open = asyncio.Event()

    def expect(self, key: str) -> asyncio.Future[float]:
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._seen[key] = future
        return future

    async def run(self) -> None:
        path = f"/apis/batch/v1/namespaces/{self._platform.namespace}/jobs"
        listed = await self._platform.api.get(path)
        async with self._platform.bed.kubernetes.api(direct=True) as api:
            self.open.set()
            async for event in api.watch(path, resourceVersion=listed["metadata"]["resourceVersion"]):
                if event["type"] == "ADDED":
                    self._note(event["object"])

    def _note(self, job: dict[str, Any]) -> None:
        now = time.perf_counter()
        items = job["spec"]["template"]["metadata"].get("annotations", {}).get("penstock.dev/items", "[]")
        for item in json.loads(items):
            future = self._seen.get(item.get("trigger", {}).get("key", ""))
            if future is not None and not future.done():
                future.set_result(now)


class Taken(NamedTuple):
    """One upload: its key, when it began (ms since 1970), and the ms until it was stored and until its Job was seen."""

    key: str
    began_ms: float
    stored: float
    seen: float


async def _measure(platform: Platform, watch: JobWatch, bucket: str, name: str, count: int) -> list[Taken]:
    taken = []
    for number in range(count):
        key = f"{name}/{number:05d}"
        seen = watch.expect(key)
        wall, began = time.time() * 1000, time.perf_counter()
        await platform.put(bucket, key)
        stored = (time.perf_counter() - began) * 1000
        async with asyncio.timeout(60):
            taken.append(Taken(key, wall, stored, (await seen - began) * 1000))
        await asyncio.sleep(0.05)
    return taken


def _hops(records: dict[str, Record], taken: list[Taken]) -> str:
    """Where the slowest ones' time went."""
    told = []
    for one in sorted(taken, key=lambda one: one.seen)[-SLOWEST:]:
        marks = {mark.phase: mark.time_ms - one.began_ms for mark in records[one.key].timeline}
        queued, planned = marks[Phase.QUEUED], marks[Phase.PLANNED]
        told.append(f"stored {one.stored:.0f}, queued {queued:.0f}, planned {planned:.0f}, Job {one.seen:.0f}")
    return "; ".join(told)


async def _pile_up(platform: Platform, bucket: str, count: int) -> None:
    """Put so many events of a function into the log, as the watcher does, and wait until they are queued."""
    log: KafkaEventLog = platform.log
    now = int(time.time() * 1000)
    for start in range(0, count, _CHUNK):
        entries = []
        for number in range(start, min(start + _CHUNK, count)):
            event = BucketEvent(
                bucket=bucket, key=f"p/{number:07d}", etag=f"{number:032x}", size=1, time_ms=now, arrived_ms=now, hops=0
            )
            entries.append(LogEntry(f"{bucket}/{event.key}", encode(event)))
        await log.append(TOPIC_EVENTS, entries)

    async def queued() -> bool:
        status = (await platform.function("piles")).get("status", {})
        return int(status.get("queued", 0)) >= count * 0.9

    await eventually(f"{count} items are queued", queued, 600)


async def _run(report: Report) -> None:
    uploads = 40 if report.small else 200
    piled = 5_000 if report.small else 100_000
    with tempfile.TemporaryDirectory() as name:
        async with Bed() as bed:
            bed.kubernetes.options.fast_controllers = True
            async with installed(bed, Path(name), real=False) as platform:
                await bed.kwok.add_nodes(4, prefix=platform.mark)
                fast, slow = f"fast-{platform.mark}", f"piles-{platform.mark}"
                spec = {"image": "any", "script": "true"}
                await platform.apply(resource("quick", {**spec, "inputs": [{"bucket": fast}]}))
                await platform.ready("quick", states=("Ready", "Waiting"))
                watch = JobWatch(platform)
                task = asyncio.create_task(watch.run(), name="job watch")
                try:
                    await watch.open.wait()
                    await _measure(platform, watch, fast, "warm", 10)
                    idle = await _measure(platform, watch, fast, "idle", uploads)
                    limits = {"limits": {"concurrency": 1}}
                    await platform.apply(resource("piles", {**spec, **limits, "inputs": [{"bucket": slow}]}))
                    await platform.ready("piles", states=("Ready", "Waiting"))
                    await _pile_up(platform, slow, piled)
                    behind = await _measure(platform, watch, fast, "behind", uploads)
                    await platform.history.read()
                    records = platform.history.of(fast)
                finally:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
    _tell(report, idle, behind, uploads, piled)
    report.note(f"slowest on an idle system, ms after the upload began: {_hops(records, idle)}")
    report.note(f"slowest behind a backlog: {_hops(records, behind)}")


def _tell(report: Report, first: list[Taken], second: list[Taken], uploads: int, piled: int) -> None:
    idle, behind = [one.seen for one in first], [one.seen for one in second]
    report.add("upload_to_job_p50_ms", percentile(idle, 0.5), "ms", target="< 50", beside=MODE)
    report.add("upload_to_job_p99_ms", percentile(idle, 0.99), "ms", target="< 250", beside=f"{uploads} uploads")
    report.add(
        "with_backlog_p99_ms",
        percentile(behind, 0.99),
        "ms",
        target="< 250",
        beside=f"another function holds {piled}; p50 {percentile(behind, 0.5):.1f} ms",
    )


def run(report: Report) -> None:
    asyncio.run(_run(report))


if __name__ == "__main__":
    main("latency", run)
