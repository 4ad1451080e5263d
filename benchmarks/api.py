"""The HTTP interface: a long list of services, bodies accepted to the durable log, and what a synchronous run adds to
the time of its script.

The server is a process of its own; the load comes from this one, on the same processors. Resident functions are
measured on the test bed's node: there the gateway runs in this process, so what it adds is an upper bound.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
import tomllib
from pathlib import Path

import aiohttp

from benchmarks.harness import Report, main, median, percentile
from benchmarks.product import Product
from tests.resident.place import ECHO, SyncPlace, create, fine, key_of, placed, pods, service, warm
from tests.resident.place import run as run_one
from tests.testbed.bed import Bed

SERVICES = 1000
SENDERS = 64
QUICK = 'cat > /dev/null < "$INPUT_FILE_PATH"\n'


def run(report: Report) -> None:
    # Every script's processor share is one slot; the limits of a laptop must not be what is measured.
    with Product(settings={"PENSTOCK_HTTP_MAX_CONNECTIONS": "512"}) as product:
        asyncio.run(_measure(report, product))
    asyncio.run(_resident(report))


async def _resident(report: Report) -> None:
    """A start from nothing, and a warm run beside the same run asked of the pod itself."""
    rounds = 2 if report.small else 7
    with tempfile.TemporaryDirectory() as folder:
        async with Bed() as bed:
            await bed.start("minio", "kafka", "network", "images")
            async with placed(bed, Path(folder)) as place:
                place.sync["idle_s"] = 2
                async with place.serving() as session:
                    took, told = await _from_zero(place, session, rounds)
                place.sync["idle_s"] = 3600
                async with place.serving() as session:
                    name = f"warm-{place.mark}"
                    await create(session, service(name, ECHO, cpu="0.5"))
                    await fine(session, name)
                    (pod,) = [one for one in await pods(place) if name in one["metadata"]["name"]]
                    key = await key_of(place, name, session)
                    address = f"http://{pod['status']['podIP']}:18080"
                    ours, direct = await warm(session, name, address, key, 40 if report.small else 200)
    beside = f"worst {max(took):.2f} of {rounds}; of the median start: {told}"
    report.add("scale_from_zero_s", median(took), "s", beside=beside)
    beside = f"{ours:.1f} ms through the gateway, {direct:.1f} ms asked of the pod"
    report.add("resident_warm_overhead_p50_ms", ours - direct, "ms", target="< 10", beside=beside)


async def _from_zero(place: SyncPlace, session: aiohttp.ClientSession, rounds: int) -> tuple[list[float], str]:
    """Seconds of each run that found no pod, and what the gateway says of the median one's parts."""
    name = f"zero-{place.mark}"
    await create(session, service(name, ECHO, cpu="0.5"))
    runs: list[tuple[float, str]] = []
    for _ in range(rounds):
        async with asyncio.timeout(120):
            while await pods(place):  # noqa: ASYNC110 - another program's doing
                await asyncio.sleep(0.2)
        began = time.perf_counter()
        status, data, headers = await run_one(session, name)
        assert status == 200, data
        runs.append((time.perf_counter() - began, headers["Server-Timing"]))
    runs.sort()
    return [took for took, _ in runs], runs[len(runs) // 2][1]


async def _measure(report: Report, product: Product) -> None:
    credentials = tomllib.loads((product.data / "credentials").read_text(encoding="utf-8"))
    headers = {"Authorization": f"Bearer {credentials['token']}"}
    connector = aiohttp.TCPConnector(limit=SENDERS)
    async with aiohttp.ClientSession(credentials["server"], headers=headers, connector=connector) as session:
        await _create(session, "run", QUICK)
        await _runs(report, session, product)
        await _jobs(report, session)
        await _lists(report, session)


def _service(name: str, script: str) -> bytes:
    storage = {"storage_provider": "minio", "path": "bench/in"}
    return json.dumps({"name": name, "image": "none", "script": script, "input": [storage]}).encode()


async def _create(session: aiohttp.ClientSession, name: str, script: str) -> None:
    async with session.post("/system/services", data=_service(name, script)) as answer:
        assert answer.status == 201, await answer.text()


async def _runs(report: Report, session: aiohttp.ClientSession, product: Product) -> None:
    """A run beside the same script started directly, in turns, so that both meet the same machine."""
    count = 40 if report.small else 200
    script = product.folder / "direct.sh"
    script.write_text(QUICK, encoding="utf-8")
    given = product.folder / "given"
    given.write_bytes(b"hello")
    took: list[float] = []
    direct: list[float] = []
    for _ in range(count + 5):
        began = time.perf_counter()
        async with session.post("/run/run", data=b"aGVsbG8=") as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
        took.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec("/bin/sh", str(script), env={"INPUT_FILE_PATH": str(given)})
        await process.wait()
        direct.append((time.perf_counter() - began) * 1000)
    over = median(took[5:]) - median(direct[5:])
    beside = f"{median(took[5:]):.1f} ms, the same script alone {median(direct[5:]):.1f} ms"
    report.add("run_warm_overhead_p50_ms", over, "ms", target="< 10", beside=beside)


async def _jobs(report: Report, session: aiohttp.ClientSession) -> None:
    """Bodies posted by many senders at once, each waiting for its 201. The function is paused: accepting alone."""
    await _create(session, "held", "true\n")
    async with session.post("/v1/functions/held/pause") as answer:
        assert answer.status == 204
    count = 4000 if report.small else 20_000
    left = iter(range(count))
    waits: list[float] = []

    async def send() -> None:
        for _ in left:
            began = time.perf_counter()
            async with session.post("/job/held", data=b"aGVsbG8=") as answer:
                assert answer.status == 201, await answer.text()
                await answer.read()
            waits.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(SENDERS)))
    rate = count / (time.perf_counter() - began)
    bare = await _rate_of(session, count // 4)
    beside = (
        f"p99 {percentile(waits, 0.99):.0f} ms with {SENDERS} senders; GET /health by the same senders {bare:.0f}/s"
    )
    report.add("job_requests_per_s", rate, "/s", target=">= 1000", beside=beside)


async def _rate_of(session: aiohttp.ClientSession, count: int) -> float:
    """What client and server manage at all on this machine."""
    left = iter(range(count))

    async def ask() -> None:
        for _ in left:
            async with session.get("/health") as answer:
                await answer.read()

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(SENDERS)))
    return count / (time.perf_counter() - began)


async def _lists(report: Report, session: aiohttp.ClientSession) -> None:
    for begin in range(0, SERVICES, 50):
        await asyncio.gather(*(_create(session, f"s{begin + number:04}", QUICK) for number in range(50)))
    took: list[float] = []
    size = 0
    for _ in range(20 if report.small else 100):
        began = time.perf_counter()
        async with session.get("/system/services") as answer:
            size = len(await answer.read())
        took.append((time.perf_counter() - began) * 1000)
    beside = f"p99 {percentile(took, 0.99):.1f} ms, {size / 1e6:.1f} MB for {SERVICES} services"
    report.add("list_1000_p50_ms", median(took), "ms", target="< 50", beside=beside)


if __name__ == "__main__":
    main("api", run)
