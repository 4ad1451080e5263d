"""Small objects against a real MinIO, beside minio-py in the same run: `python -m tests.adapters.s3.bench`.

Prints requests per second and our own process's CPU milliseconds per request, and the ratios between the two clients.
The server shares the cores, so CPU per request is the figure that says most.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from minio import Minio as Client

from penstock.adapters.s3 import S3Store
from tests.adapters.s3.support import opened
from tests.testbed import Bed
from tests.testbed.minio import Minio

COUNT = 1500
IN_FLIGHT = 16
BODY = bytes(1024)
BUCKET = "bench"


def report(name: str, wall_s: float, cpu_s: float) -> dict[str, float]:
    figures = {"per_s": round(COUNT / wall_s, 1), "cpu_ms": round(cpu_s / COUNT * 1000, 3)}
    sys.stdout.write(f"{name:20} {figures['per_s']:8} /s {figures['cpu_ms']:8} ms CPU\n")
    return figures


async def ours(name: str, one: Callable[[int], Awaitable[object]]) -> dict[str, float]:
    numbers = iter(range(COUNT))

    async def worker() -> None:
        for number in numbers:
            await one(number)

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return report(name, time.perf_counter() - wall, time.process_time() - cpu)


def theirs(name: str, one: Callable[[int], object]) -> dict[str, float]:
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in pool.map(one, range(COUNT)):
            pass
        return report(name, time.perf_counter() - wall, time.process_time() - cpu)


async def run_ours(store: S3Store) -> dict[str, dict[str, float]]:
    async def get(number: int) -> bytes:
        return b"".join([chunk async for chunk in store.read(BUCKET, f"ours/{number}")])

    return {
        "put": await ours("put", lambda n: store.put(BUCKET, f"ours/{n}", BODY)),
        "get": await ours("read", get),
        "write": await ours("write", lambda n: store.write(BUCKET, f"ours/w{n}", BODY)),
        "head": await ours("head", lambda n: store.head(BUCKET, f"ours/{n}")),
    }


def run_theirs(client: Client) -> dict[str, dict[str, float]]:
    def get(number: int) -> bytes:
        response = client.get_object(BUCKET, f"theirs/{number}")
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()

    put = theirs("minio-py put", lambda n: client.put_object(BUCKET, f"theirs/{n}", io.BytesIO(BODY), len(BODY)))
    return {"put": put, "get": theirs("minio-py get", get)}


async def scenario(minio: Minio) -> dict[str, dict[str, float]]:
    async with opened(minio, direct=True) as store:
        await store.create_bucket(BUCKET)
        mine = await run_ours(store)
        their = await asyncio.to_thread(run_theirs, minio.client(direct=True))
    ratios = {
        f"{what}_{figure}_ratio": round(mine[what][figure] / their[what][figure], 2)
        for what in ("put", "get")
        for figure in ("per_s", "cpu_ms")
    }
    return {**mine, **{f"minio_py_{name}": figures for name, figures in their.items()}, "ratios": ratios}


def main() -> int:
    bed = Bed()
    try:
        bed.run(bed.start("minio"))
        figures = asyncio.run(scenario(bed.minio))
        sys.stdout.write(f"{json.dumps(figures)}\n")
    finally:
        bed.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
