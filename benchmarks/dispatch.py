"""The dispatcher on a cluster: Jobs made from a backlog beside bare POSTs, and what a million queued items cost.

Everything is real but what would work on the Jobs: the controller manager and the scheduler are stopped, so that
nothing but the API server is measured. Bare POSTs send the very bodies that the dispatcher sends, with as many
requests in flight and an open watch that nobody decodes; they are sent before and after, since the machine is shared.

The million waits in a paused function: its items are taken in from the log, and then the process is killed and started
again, once with its ledger and once without.

A dispatcher that loses its turn takes it up again and goes on, and so does the measurement: Jobs are counted by what
the API server holds, and queued items by what the ledger holds. How often that happened is told. Whatever does not come
in time ends the benchmark with a sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from benchmarks.deadlines import Stalled, reached, within
from benchmarks.harness import Report, main, median
from dispatcher.kubernetes import KubernetesSettings
from dispatcher.kubernetes.configuration import runner_settings
from dispatcher.kubernetes.template import JobTemplate
from penstock.adapters.kubernetes import KubernetesClient
from penstock.adapters.kubernetes.client import META_LIST
from penstock.model import Function, Resources
from penstock.settings import Settings
from tests.dispatcher_service.support import Program, Stage
from tests.kubernetes import support as cluster
from tests.kubernetes.plans import plan
from tests.testbed.bed import Bed
from tests.testbed.prometheus import total

IN_FLIGHT = 32
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
APPEND = 5000

# How long is waited, in seconds; nothing of it is part of a figure.
BED_S = 600
PROBE_S = 30
#: How often a dispatcher at work is asked whether it still lives.
ALIVE_S = 5.0
#: For a count to grow again: a process that lost its turn takes it up again within a minute, on a busy machine too.
QUIET_S = 180
#: For a ledger to be read from the log again, during which nothing is told.
REBUILD_S = 900
PATIENCE_S = 200
#: What any machine does of POSTs or appended events.
SLOWEST_PER_S = 10


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE / 1e6


async def metric(program: Program, name: str) -> float:
    """Sum of a metric over its labels; 0 = not there yet. Raises Stalled when the process has ended."""
    if program.process.returncode is not None:
        raise Stalled(f"the dispatcher ended with {program.process.returncode}: {_last_words(program)}")
    if not program.said("start"):
        return 0.0
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(PROBE_S):
            return total((await program.probe("/metrics"))[1], name)
    return 0.0


async def until(program: Program, name: str, value: float, *, pause_s: float = 0.02, quiet_s: float = 300) -> float:
    """When a metric reached a value, by the monotonic clock."""
    what = f"{name} of the dispatcher"
    return await reached(
        what,
        lambda: metric(program, name),
        value,
        pause_s=pause_s,
        quiet_s=quiet_s,
        why=lambda: f"it was active {program.times_active} times; {_last_words(program)}",
    )


def _last_words(program: Program) -> str:
    return f"the end of its log: {program.log.read_text(encoding='utf-8')[-1500:]}"


async def jobs_there(api: KubernetesClient, namespace: str) -> int:
    """How many Jobs the API server holds, whoever made them and in which of its lives."""
    page = await api.get(cluster.jobs_path(namespace), accept=META_LIST, limit="1")
    return len(page["items"] or ()) + int(page["metadata"].get("remainingItemCount") or 0)


async def raw_rate(api: KubernetesClient, namespace: str, count: int) -> float:
    """Bare POSTs a second."""
    shared = plan(resources=Resources())
    template = JobTemplate(shared, _settings(namespace))
    bodies = [template.render(cluster.numbered(shared, number)).body for number in range(count)]
    path = cluster.jobs_path(namespace)
    async with cluster.bare_posts(api.access, path) as post:

        async def lane() -> None:
            while bodies:
                await post(bodies.pop())

        begun = time.monotonic()
        async with within(60 + count / SLOWEST_PER_S, f"{count} bare POSTs were answered"):
            await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
        rate = count / (time.monotonic() - begun)
    await api.request("DELETE", path, params={"propagationPolicy": "Background"})
    return rate


def _settings(namespace: str) -> KubernetesSettings:
    return dataclasses.replace(runner_settings(Settings()), namespace=namespace)


@contextlib.asynccontextmanager
async def opened_stage(bed: Bed, api: KubernetesClient, folder: Path) -> AsyncIterator[Stage]:
    stage = Stage(bed, folder, api)
    await stage.open(follow=False)
    try:
        yield stage
    finally:
        await stage.close()


async def backlog(stage: Stage, function: Function, count: int) -> None:
    async with within(60 + count / SLOWEST_PER_S, f"{count} events were in the log"):
        for begin in range(0, count, APPEND):
            await stage.send(stage.events(function, range(begin, min(count, begin + APPEND))))


async def create(report: Report, bed: Bed, api: KubernetesClient, folder: Path, count: int) -> None:
    """Jobs from a backlog, with bare POSTs before and after."""
    places = [await cluster.make_namespace(api, f"raw-{number}") for number in range(2)]
    before = await raw_rate(api, places[0], count)
    async with opened_stage(bed, api, folder) as stage:
        function = await stage.deploy()
        await backlog(stage, function, count)
        program = await stage.start(PENSTOCK_JOBS_PENDING=str(10 * count))

        async def made(wanted: int) -> float:
            asked = 0.0

            async def there() -> float:
                nonlocal asked
                # Seldom: telling all its metrics takes the dispatcher's time, which is what is measured.
                if time.monotonic() - asked > ALIVE_S:
                    await metric(program, "penstock_dispatcher_active")
                    asked = time.monotonic()
                return await jobs_there(api, stage.namespace)

            words = "Jobs that the API server holds"
            return await reached(words, there, wanted, pause_s=0.1, quiet_s=QUIET_S, why=lambda: _last_words(program))

        begun = await made(1)
        first, used = await jobs_there(api, stage.namespace), cpu_s(program.pid)
        ended = await made(count)
        rate = (count - first) / (ended - begun)
        cpu = (cpu_s(program.pid) - used) * 1000 / (count - first)
        turns = program.times_active
        await program.kill()
    after = await raw_rate(api, places[1], count)
    raw = (before + after) / 2
    report.add("raw_posts_per_s", raw, "/s", beside=f"{before:.0f} before, {after:.0f} after")
    report.add("jobs_per_s", rate, "/s", beside=f"{count} Jobs from a backlog, records in Kafka included")
    report.add("vs_raw", rate / raw, "", target=">= 0.8", beside="bare POSTs of the same bodies = 1")
    report.add("cpu_ms_per_job", cpu, "ms", beside="of the dispatcher, while it plans, records and submits")
    _tell_turns(report, turns, "Jobs were created")


def _tell_turns(report: Report, turns: int, meanwhile: str) -> None:
    if turns > 1:
        report.note(f"the dispatcher lost its turn {turns - 1} times while {meanwhile}")


async def million(report: Report, bed: Bed, api: KubernetesClient, folder: Path, count: int) -> None:
    """What so many queued items cost in memory, and how long a restart takes."""
    whole = count >= 1_000_000
    async with opened_stage(bed, api, folder) as stage:
        function = await stage.deploy(paused=True)
        program = await stage.start("state")
        begun = await until(program, "penstock_dispatcher_active", 1)
        await backlog(stage, function, count)

        async def queued() -> float:
            # Records are counted by the process since its turn began, the queue by the ledger every ten seconds.
            counted = await metric(program, "penstock_dispatcher_records_total")
            return max(counted, await metric(program, "penstock_dispatcher_queued_items"))

        ended = await reached(
            "items queued", queued, count, pause_s=0.5, quiet_s=QUIET_S, why=lambda: _last_words(program)
        )
        note = f"{count} items taken in at {count / (ended - begun):.0f}/s"
        if whole:
            report.add("rss_mb_at_1m", rss_mb(program.pid), "MB", target="< 500", beside=note)
        else:
            report.note(f"{rss_mb(program.pid):.0f} MB with {note}; figures named 1m need a real million")
        _tell_turns(report, program.times_active, "items were taken in")
        await program.kill()
        await restarts(report, stage, count, whole=whole)


async def restarts(report: Report, stage: Stage, count: int, *, whole: bool) -> None:
    """From starting a process to its being the active one, with the ledger of the one before and with none."""
    limits = {"restart_warm_s": ("< 10", False), "restart_rebuild_s": ("< 180", True)}
    for key, (target, rebuild) in limits.items():
        if rebuild:
            shutil.rmtree(stage.folder / "state")
        begun = time.monotonic()
        program = await stage.start("state")
        took = await until(program, "penstock_dispatcher_active", 1, quiet_s=REBUILD_S) - begun
        beside = f"{count} records; up to 6 s of it are the Lease of the one that was killed"
        report.add(key, took, "s", target=target if whole else "", beside=beside)
        await program.kill()


async def takeovers(report: Report, bed: Bed, api: KubernetesClient, folder: Path, rounds: int) -> None:
    """From the death of the active process to its standby acting, each time with a new standby behind it."""
    async with opened_stage(bed, api, folder) as stage:
        active = await stage.start()
        async with within(PATIENCE_S, "the first dispatcher was active"):
            await stage.active(active)
        took: list[float] = []
        for _ in range(rounds):
            standby = await stage.start()
            async with within(PATIENCE_S, "a standby was ready"):
                await stage.until(standby.ready)
            await active.kill()
            async with within(PATIENCE_S, "the standby of a dispatcher that was killed was active"):
                took.append(await stage.active(standby))
            active = standby
        beside = f"worst of {rounds}, median {median(took):.1f}; up to 6 s of it are the Lease"
        report.add("takeover_s", max(took), "s", target="< 10", beside=beside)


async def measure(report: Report) -> None:
    jobs, queued = (1500, 20_000) if report.small else (6000, 1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="penstock-dispatch-"))
    try:
        async with Bed() as bed:
            async with within(BED_S, "the test bed was up"):
                await bed.start("minio", "kafka", "kubernetes")
                await cluster.use(bed.kubernetes)
            async with cluster.client() as api:
                await bed.kubernetes.stop("kube-controller-manager", "kube-scheduler")
                await create(report, bed, api, folder, jobs)
                await takeovers(report, bed, api, folder, 2 if report.small else 5)
                if not report.skip_million:
                    await million(report, bed, api, folder, queued)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(report: Report) -> None:
    asyncio.run(measure(report))


if __name__ == "__main__":
    main("dispatch", run)
