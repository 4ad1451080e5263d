"""What it costs to be watched, and what each service takes when it is idle.

The cost of metrics is far below the noise of a shared machine, so two runs, with and without, would show the noise.
What is measured is how often each metric is touched while a dispatcher takes a backlog through to its last record, and
what one touch costs; their product is held against the processor time of that very run. The runner is a scripted one
that does nothing: against a dispatcher that also speaks to a cluster the share is smaller.

Memory is what the system says of each process (resident), idle for a while after it said that it is ready, over real
servers. The edge profile is one process; the object store and the cluster's own programs are not counted.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.harness import Report, main, median
from dispatcher.metrics import DispatcherMetrics
from dispatcher.service import Dispatcher
from penstock.model import Phase
from tests.dispatcher.bench import DispatcherBench
from tests.factories import make_event
from tests.production.platform import Platform, installed
from tests.testbed.bed import Bed
from tests.testbed.links import Address
from tests.testbed.paths import REPOSITORY
from tests.testbed.probe import http_ok

_PAGE = os.sysconf("SC_PAGE_SIZE")
IDLE_S = 20.0
PATIENCE_S = 600.0
#: Prometheus' usual interval.
SCRAPE_S = 15.0
PASSWORD = "a-password-of-the-benchmark"
POOLS = "pools:\n  - {name: sim, driver: kwok, max: 3, resources: {cpu: 16, memory: 32Gi}}\n"


class Counted(DispatcherMetrics):
    """The real metrics, and how often each is touched."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.calls: Counter[str] = Counter()

    def record(self, phase: str) -> None:
        self.calls["record"] += 1
        super().record(phase)

    def taken_in(self, function: str, seconds: float) -> None:
        self.calls["taken_in"] += 1
        super().taken_in(function, seconds)

    def submitted(self, function: str, waited_s: Iterable[float]) -> None:
        self.calls["submitted"] += 1
        super().submitted(function, waited_s)

    def ended(self, function: str, outcome: str, **times: Any) -> None:
        self.calls["ended"] += 1
        super().ended(function, outcome, **times)

    def depth(self, function: str, queued: int, oldest_s: float) -> None:
        self.calls["depth"] += 1
        super().depth(function, queued, oldest_s)

    def stuck_jobs(self, reasons: Iterable[str]) -> None:
        self.calls["stuck_jobs"] += 1
        super().stuck_jobs(reasons)

    def retain(self, functions: Collection[str]) -> None:
        self.calls["retain"] += 1
        super().retain(functions)


def touches(metrics: DispatcherMetrics) -> dict[str, Callable[[], None]]:
    """One touch of each, as the dispatcher does it."""
    return {
        "record": lambda: metrics.record("succeeded"),
        "taken_in": lambda: metrics.taken_in("thumbs", 0.1),
        "submitted": lambda: metrics.submitted("thumbs", [0.1]),
        "ended": lambda: metrics.ended("thumbs", "succeeded", waited_s=1.0, ran_s=1.0, start_s=1.0, publish_s=1.0),
        "depth": lambda: metrics.depth("thumbs", 1, 1.0),
        "stuck_jobs": lambda: metrics.stuck_jobs(()),
        "retain": lambda: metrics.retain({"thumbs"}),
    }


def cost_s(touch: Callable[[], None], times: int = 2000) -> float:
    """Processor seconds of one touch: the least of several tries, since others share the machine."""
    tries = []
    for _ in range(7):
        begin = time.process_time()
        for _ in range(times):
            touch()
        tries.append((time.process_time() - begin) / times)
    return min(tries)


async def backlog(folder: Path, items: int) -> tuple[Counter[str], float]:
    """Touches, and processor seconds, from a backlog in the log to the last final record."""
    bench = DispatcherBench(folder)
    await bench.open()
    try:
        await bench.deploy()
        await bench.event(*(make_event(f"in/{number}.png") for number in range(items)))
        metrics = Counted(CollectorRegistry())
        dispatcher = Dispatcher(
            log=bench.log, ledger=bench.ledger, registry=bench.registry, runner=bench.runner, store=bench.store,
            settings=bench.settings, metrics=metrics,
        )  # fmt: skip
        begin = time.process_time()
        task = asyncio.create_task(dispatcher.run(), name="dispatcher")
        async with asyncio.timeout(PATIENCE_S):
            while await _ended(bench) < items:
                if task.done():
                    task.result()
                await asyncio.sleep(0.05)
        used = time.process_time() - begin
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return metrics.calls, used
    finally:
        await bench.close()


async def _ended(bench: DispatcherBench) -> int:
    return sum(phases.get(Phase.SUCCEEDED, 0) for phases in (await bench.ledger.counts()).values())


def metrics_cost(report: Report) -> None:
    items = 2000 if report.small else 20_000
    with tempfile.TemporaryDirectory() as folder:
        calls, used = asyncio.run(backlog(Path(folder), items))
    costs = {name: cost_s(touch) for name, touch in touches(DispatcherMetrics(CollectorRegistry())).items()}
    touched = sum(calls[name] * costs[name] for name in costs)
    scrape = scrape_s(functions=100)
    share = touched / used + scrape / SCRAPE_S
    report.add(
        "metrics_cost_percent", 100 * share, "%", target="< 2",
        beside=f"{1e6 * touched / items:.1f} of {1e6 * used / items:.0f} us processor time an item, and a scrape "
        f"of 100 functions ({1000 * scrape:.0f} ms) each {SCRAPE_S:g} s",
    )  # fmt: skip
    report.add("metrics_us_per_item", 1e6 * touched / items, "us")
    report.add("scrape_ms_100_functions", 1000 * scrape, "ms")


def scrape_s(functions: int) -> float:
    """Processor seconds to answer `/metrics` with so many functions, all of whose series exist."""
    registry = CollectorRegistry()
    metrics = DispatcherMetrics(registry)
    for number in range(functions):
        name = f"function-{number}"
        metrics.taken_in(name, 1.0)
        metrics.submitted(name, [1.0])
        metrics.ended(name, "succeeded", waited_s=1.0, ran_s=1.0, start_s=1.0, publish_s=1.0)
        metrics.depth(name, 1, 1.0)

    def scrape() -> None:
        generate_latest(registry)

    return cost_s(scrape, times=5)


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE / 1e6


async def idle(pids: dict[str, int], seconds: float) -> dict[str, float]:
    """Median resident memory of each over an idle while."""
    seen: dict[str, list[float]] = {name: [] for name in pids}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, pid in pids.items():
            seen[name].append(rss_mb(pid))
        await asyncio.sleep(1)
    return {name: median(values) for name, values in seen.items()}


async def services(bed: Bed, folder: Path, seconds: float) -> dict[str, float]:
    """The four services beside each other, idle."""
    (folder / "pools.yaml").write_text(POOLS)
    async with installed(bed, folder, real=False) as platform:
        await platform.start("scaler", PENSTOCK_SCALER_POOLS=str(folder / "pools.yaml"))
        await platform.start("gateway", **gateway_env(bed, folder))
        for process in platform.processes:
            await process.ready(PATIENCE_S)
        return await idle({process.module: process.pid for process in platform.processes}, seconds)


def gateway_env(bed: Bed, folder: Path) -> dict[str, str]:
    (folder / "admin").mkdir()
    (folder / "admin" / "password").write_text(PASSWORD)
    web = Address("127.0.0.1", bed.reservations.port())
    return {"PENSTOCK_HTTP_LISTEN": str(web), "PENSTOCK_GATEWAY_CREDENTIALS_DIR": str(folder / "admin")}


async def edge(bed: Bed, folder: Path, seconds: float) -> float:
    """The one process of the edge profile, idle, without a broker."""
    platform = Platform(bed, folder, real=False)
    process = None
    try:
        await platform.open()
        probes, webhook = (Address("127.0.0.1", bed.reservations.port()) for _ in range(2))
        await bed.minio.send_webhooks_to(webhook)
        env = platform.env() | gateway_env(bed, folder)
        env |= {"PENSTOCK_SERVICE_LISTEN": str(probes), "PENSTOCK_NOTIFY_LISTEN": str(webhook)}
        env |= {"PENSTOCK_STATE_DATA": str(folder / "edge"), "PENSTOCK_KAFKA_SERVERS": ""}
        with (folder / "edge.log").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "--edge", env=env, stdout=output, stderr=output, cwd=REPOSITORY
            )
        async with asyncio.timeout(PATIENCE_S):
            while not await http_ok(f"http://{probes}/ready"):
                assert process.returncode is None, (folder / "edge.log").read_text()[-3000:]
                await asyncio.sleep(0.2)
        return (await idle({"edge": process.pid}, seconds))["edge"]
    finally:
        if process is not None and process.returncode is None:
            process.terminate()
            await process.wait()
        await platform.close()


async def memory(report: Report) -> None:
    seconds = 5.0 if report.small else IDLE_S
    with tempfile.TemporaryDirectory() as folder:
        async with Bed() as bed:
            for part in ("services", "edge"):
                (Path(folder) / part).mkdir()
            found = await services(bed, Path(folder) / "services", seconds)
            total = await edge(bed, Path(folder) / "edge", seconds)
    for name, value in sorted(found.items()):
        report.add(f"{name}_mb", value, "MB")
    report.add("edge_total_mb", total, "MB", target="< 400", beside="one process: watcher, dispatcher and gateway")


def run(report: Report) -> None:
    metrics_cost(report)
    asyncio.run(memory(report))


if __name__ == "__main__":
    main("footprint", run)
