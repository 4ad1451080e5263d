"""From an upload to its Job: what a user waits before anything happens, on an idle system and behind a long backlog.

Everything is real: MinIO's webhook, `python -m watcher`, Kafka, `python -m dispatcher`, the API server. The clock runs
from the first byte of the upload to the moment at which a watch of the benchmark's own shows the Job, so the upload
itself and the watch's delay are in the figure. Uploads come one at a time. Of the slowest it is told where their time
went, and how much of it something on the machine waited for a processor or for the disk.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.deadlines import Stalled, reached, within
from benchmarks.harness import Report, main, percentile
from benchmarks.pressure import Pressure, pressure
from penstock.adapters.kafka import KafkaEventLog
from penstock.codec import encode
from penstock.model import TOPIC_EVENTS, BucketEvent, Phase, Record
from penstock.ports import LogEntry
from tests.production.platform import Platform, installed, resource
from tests.testbed.bed import Bed

#: Nothing is lost by the first target and nothing waits for the second, as docs/operations/events.md advises.
MODE = "webhook with queue_dir, and one without beside it; one upload at a time"
_CHUNK = 2000
SLOWEST = 3

# How long is waited, in seconds; nothing of it is part of a figure.
UPLOAD_S = 60
PILE_S = 600
QUIET_S = 120


class JobWatch:
    """When each invocation's Job was first seen, by the key of its item."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._seen: dict[str, asyncio.Future[float]] = {}
        self._open = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def expect(self, key: str) -> asyncio.Future[float]:
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._seen[key] = future
        return future

    async def begin(self) -> None:
        """Return when whatever is made from now on will be seen."""
        self._task = asyncio.create_task(self._run(), name="job watch")
        async with within(UPLOAD_S, "the benchmark's own watch of Jobs was open"):
            await self._open.wait()

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def ends_with(self, seen: asyncio.Future[float]) -> float:
        """What was expected. Raises Stalled when the watch ends before it."""
        task = self._task
        assert task is not None
        both: set[asyncio.Future[Any]] = {seen, task}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not seen.done():
            raise Stalled(f"the benchmark's own watch of Jobs ended: {task.exception() or 'the server ended it'}")
        return seen.result()

    async def _run(self) -> None:
        path = f"/apis/batch/v1/namespaces/{self._platform.namespace}/jobs"
        listed = await self._platform.api.get(path)
        async with self._platform.bed.kubernetes.api(direct=True) as api:
            self._open.set()
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
    #: What the machine had no time for meanwhile; None = its kernel does not count that.
    waited: Pressure | None


async def _measure(platform: Platform, watch: JobWatch, bucket: str, name: str, count: int) -> list[Taken]:
    taken = []
    for number in range(count):
        key = f"{name}/{number:05d}"
        seen, before = watch.expect(key), pressure()
        wall, began = time.time() * 1000, time.perf_counter()
        async with within(UPLOAD_S, f"the Job of {bucket}/{key} was there"):
            await platform.put(bucket, key)
            stored = (time.perf_counter() - began) * 1000
            took = (await watch.ends_with(seen) - began) * 1000
        after = pressure()
        waited = after.since(before) if after is not None and before is not None else None
        taken.append(Taken(key, wall, stored, took, waited))
        await asyncio.sleep(0.05)
    return taken


def _hops(records: dict[str, Record], taken: list[Taken]) -> str:
    """Where the slowest ones' time went."""
    told = []
    for one in sorted(taken, key=lambda one: one.seen)[-SLOWEST:]:
        marks = {mark.phase: mark.time_ms - one.began_ms for mark in records[one.key].timeline}
        queued, planned = marks[Phase.QUEUED], marks[Phase.PLANNED]
        words = f"stored {one.stored:.0f}, queued {queued:.0f}, planned {planned:.0f}, Job {one.seen:.0f}"
        if one.waited is not None:
            words += (
                f" (something waited {one.waited.processor:.0f} for a processor, {one.waited.disk:.0f} for the disk)"
            )
        told.append(words)
    return "; ".join(told)


async def _pile_up(platform: Platform, bucket: str, count: int) -> None:
    """Put so many events of a function into the log, as the watcher does, and wait until all are taken in."""
    log: KafkaEventLog = platform.log
    name = "penstock_dispatcher_events_total"
    before = await platform.dispatcher.metric(name)
    now = int(time.time() * 1000)
    async with within(PILE_S, f"{count} events were in the log"):
        for start in range(0, count, _CHUNK):
            entries = []
            for number in range(start, min(start + _CHUNK, count)):
                event = BucketEvent(
                    bucket=bucket,
                    key=f"p/{number:07d}",
                    etag=f"{number:032x}",
                    size=1,
                    time_ms=now,
                    arrived_ms=now,
                    hops=0,
                )
                entries.append(LogEntry(f"{bucket}/{event.key}", encode(event)))
            await log.append(TOPIC_EVENTS, entries)

    async def taken_in() -> float:
        return await platform.dispatcher.metric(name) - before

    why = platform.dispatcher.tail
    await reached("events taken in by the dispatcher", taken_in, count, pause_s=0.5, quiet_s=QUIET_S, why=why)


async def _run(report: Report) -> None:
    uploads = 40 if report.small else 200
    piled = 5_000 if report.small else 100_000
    with tempfile.TemporaryDirectory() as name:
        async with Bed() as bed:
            bed.kubernetes.options.fast_controllers = True
            bed.minio.options.queue_events = True
            quick = {"PENSTOCK_NOTIFY_QUICK_ARN": bed.minio.QUICK_ARN}
            async with installed(bed, Path(name), real=False, settings=quick) as platform:
                await bed.kwok.add_nodes(4, prefix=platform.mark)
                fast, slow = f"fast-{platform.mark}", f"piles-{platform.mark}"
                spec = {"image": "any", "script": "true"}
                await platform.apply(resource("quick", {**spec, "inputs": [{"bucket": fast}]}))
                await platform.ready("quick", states=("Ready", "Waiting"))
                watch = JobWatch(platform)
                await watch.begin()
                try:
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
                    await watch.end()
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
