"""300 uploads on a real node while users' containers, sidecars, pods, the kubelet and our services are killed.

Lists of items and single ones run side by side. Afterwards every object has exactly one success and its whole output.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.errors import NotFound
from tests.production.chaos import Fault, JobCounter, kinds, process_faults, storm, upload, verdict
from tests.production.node import COPY, Bench, on_the_node
from tests.production.platform import Json, Platform, eventually
from tests.testbed.bed import Bed

pytestmark = [pytest.mark.components, pytest.mark.slow, pytest.mark.endurance]

IN_LISTS, SINGLE = 275, 25
FAULTS = 16
CONTAINERS = ("input", "output", "oscar-container")
SETTINGS = {"PENSTOCK_DISPATCHER_PLATFORM_RETRIES": "20", "PENSTOCK_JOBS_START_LIMIT_S": "60"}


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    """A bed of the test's own, since its node is injured."""
    async with Bed() as bed, on_the_node(bed, tmp_path, SETTINGS) as made:
        yield made


def node_faults(platform: Platform, chance: random.Random) -> list[Fault]:
    node = platform.bed.node

    async def running(name: str) -> list[str]:
        """Containers of this name that run now."""
        statuses = [one for pod in await platform.pods() for one in pod["status"].get("containerStatuses", ())]
        return [one["containerID"] for one in statuses if one["name"] == name and "running" in one["state"]]

    def container(name: str) -> Fault:
        async def kill() -> None:
            found: list[str] = []

            async def some() -> bool:
                found[:] = await running(name)
                return bool(found)

            with contextlib.suppress(AssertionError):  # all work may be done
                await eventually(f"a container {name} runs", some, 15)
                await node.kill_container(chance.choice(found))

        return Fault(f"{name} killed", kill, nothing)

    async def delete_pod() -> None:
        alive: list[Json] = [pod for pod in await platform.pods() if pod["status"]["phase"] == "Running"]
        if alive:
            name = chance.choice(alive)["metadata"]["name"]
            path = f"/api/v1/namespaces/{platform.namespace}/pods/{name}"
            with contextlib.suppress(NotFound):
                await platform.api.request("DELETE", path, params={"gracePeriodSeconds": "0"})

    async def kill_kubelet() -> None:
        await node.kill("kubelet")

    return [
        *(container(name) for name in CONTAINERS),
        Fault("pod deleted", delete_pod, nothing),
        Fault("kubelet killed", kill_kubelet, node.start),
    ]


async def nothing() -> None:
    """The fault ends by itself."""


async def test_three_hundred_uploads_while_everything_on_the_node_dies(platform: Platform) -> None:
    lists, single = Bench(platform, "lists"), Bench(platform, "single")
    # A container that is killed counts as its script's own failure, so the functions ask for retries.
    script = f"{COPY}; sleep 0.2"
    await lists.deploy(script, retries=10, batch={"mode": "list", "max_items": 25, "linger_s": 1.0})
    await single.deploy(script, retries=10)
    keys = {
        lists: [f"l{number:03}" for number in range(IN_LISTS)],
        single: [f"s{number:03}" for number in range(SINGLE)],
    }
    seed = random.randrange(2**32)
    faults = node_faults(platform, random.Random(seed))
    for process in platform.processes:
        faults += process_faults(process)
    counter = JobCounter(platform)
    counting = asyncio.create_task(counter.run(), name="job counter")
    try:
        async with asyncio.TaskGroup() as group:
            for bench, some in keys.items():
                group.create_task(upload(platform, bench.source, some, pause_s=0.5))
            injecting = group.create_task(storm(faults, count=FAULTS, seed=seed))
        done = injecting.result()
        for bench, some in keys.items():
            await platform.ended(bench.source, some, seconds=300)
            count = await verdict(platform, bench.source, some, len(done), counter)
            told = f"seed {seed}: {kinds(done)}; {count}"
            assert count.lost == [], told
            assert count.double == [], told
            assert count.extra_jobs == 0, told
            assert await bench.outputs() == some, told
            for key in some:
                assert await platform.get(bench.target, key) == key.encode(), told
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
