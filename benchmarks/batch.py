"""What lists of items gain: events finished per second with one per Job and with fifty, same script, same node.

The whole production path on a real node. Files wait before the clock starts (the function is paused meanwhile), so what
is measured is how fast a backlog goes, from the word to go on to the last final record.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Report, main, median
from penstock.model import Phase
from tests.production.chaos import upload
from tests.production.node import SETTINGS, Bench
from tests.production.platform import Json, Platform, eventually, installed
from tests.testbed.bed import Bed

TRIVIAL = 'cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"'
LIST = 50
SINGLE: Json = {"mode": "single"}
FIFTY: Json = {"mode": "list", "max_items": LIST, "linger_s": 1.0}


def run(report: Report) -> None:
    asyncio.run(_run(report))


async def _run(report: Report) -> None:
    single, listed, rounds = (12, 500, 2) if report.small else (60, 2000, 3)
    speeds: dict[str, list[float]] = {"single": [], "listed": []}
    async with Bed() as bed:
        with tempfile.TemporaryDirectory() as folder:
            async with installed(bed, Path(folder), real=True, settings=SETTINGS) as platform:
                await _drained(Bench(platform, "warm"), 2, SINGLE)
                # In turn, so that a busy moment of the machine meets both.
                for number in range(rounds):
                    speeds["single"].append(await _drained(Bench(platform, f"single{number}"), single, SINGLE))
                    speeds["listed"].append(await _drained(Bench(platform, f"listed{number}"), listed, FIFTY))
    one, many = median(speeds["single"]), median(speeds["listed"])
    report.add("events_per_s_single", one, "/s", beside=f"{single} files, one pod each; {_spread(speeds['single'])}")
    report.add("events_per_s_batch50", many, "/s", beside=f"{listed} files in lists; {_spread(speeds['listed'])}")
    report.add("speedup", many / one, "x", target=">= 20", beside="the second divided by the first")


def _spread(values: list[float]) -> str:
    return f"{len(values)} rounds, {min(values):.2f} to {max(values):.2f}"


async def _drained(bench: Bench, files: int, batch: Json) -> float:
    """Events per second of a backlog of so many files."""
    platform = bench.platform
    name = await bench.deploy(TRIVIAL, paused=True, state="Paused", batch=batch)
    keys = [f"{number:05}.txt" for number in range(files)]
    await upload(platform, bench.source, keys)
    await _queued(platform, bench.source, files)
    began = time.perf_counter()
    await bench.deploy(TRIVIAL, name=name, batch=batch)
    records = await platform.ended(bench.source, keys, seconds=1200)
    took = time.perf_counter() - began
    assert {record.phase for record in records.values()} == {Phase.SUCCEEDED}
    assert sorted(await platform.keys(bench.target)) == keys, "an output is missing"
    return files / took


async def _queued(platform: Platform, bucket: str, files: int) -> None:
    async def check() -> bool:
        await platform.history.read()
        return len(platform.history.of(bucket)) == files

    await eventually(f"{files} files are queued", check, 300)


if __name__ == "__main__":
    main("batch", run)
