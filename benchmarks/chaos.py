"""Uploads while everything is injured in turn: MinIO, Kafka, the API server, the watcher and both dispatchers.

Each is killed, paused or cut off, again and again, and events are dropped on purpose; simulated pods end every Job with
success. Afterwards the counts are taken from outside: an independent listing, the history read from its beginning, and
Jobs as the benchmark's own listings saw them (a Job that came and went between two of them, half a second apart, is not
counted).
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from benchmarks.harness import Report, main
from tests.production.chaos import trial
from tests.production.platform import installed
from tests.testbed.bed import Bed


async def _run(report: Report) -> None:
    uploads = 1_000 if report.small else 20_000
    faults = 8 if report.small else 48
    with tempfile.TemporaryDirectory() as name:
        async with Bed() as bed:
            bed.kubernetes.options.fast_controllers = True
            async with installed(bed, Path(name), real=False) as platform:
                await bed.kwok.add_nodes(20, prefix=platform.mark)
                done = await trial(platform, uploads=uploads, faults=faults, per_job=25, pause_s=0.05, patience_s=1800)
                attempts = sum(record.attempt - 1 for record in platform.history.of(done.bucket).values())
    count = done.counted
    report.note(f"{done.told}; {done.failed_uploads} uploads failed and were tried again")
    report.add("uploads", count.uploads, beside=f"{count.listed} listed, {count.succeeded} succeeded")
    report.add("faults", count.faults)
    report.add("lost", len(count.lost), target="= 0", beside="keys without a success")
    report.add("double_successes", len(count.double), target="= 0")
    report.add("extra_jobs", count.extra_jobs, target="= 0", beside=f"{count.jobs} Jobs seen")
    report.add("extra_runs", attempts, beside="further attempts after platform errors")


def run(report: Report) -> None:
    asyncio.run(_run(report))


if __name__ == "__main__":
    main("chaos", run)
