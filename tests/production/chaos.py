"""Faults on purpose while files arrive, and the count afterwards that nobody of the product takes part in.

The order of faults comes from a seed, so a failure can be had again. At most one fault is under way at a time, and all
end by themselves. What is counted: uploads that the store acknowledged, keys in an independent listing, successes in
the history read from its beginning, and Jobs as a watch of the test's own sees them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec
import structlog
from minio.error import MinioException
from urllib3.exceptions import HTTPError

from penstock.model import Phase
from tests.production.platform import Platform, Process, resource
from tests.testbed.component import Component
from tests.testbed.links import Cut

log = structlog.get_logger("chaos")

#: Seconds that a pause or a cut lasts, and the calm between two faults.
FAULT_S = (2.0, 6.0)
CALM_S = (1.0, 3.0)

Step = Callable[[], Awaitable[None]]


class Fault(NamedTuple):
    name: str
    begin: Step
    end: Step


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """What came out."""

    uploads: int
    listed: int
    succeeded: int
    faults: int
    #: Keys without a success.
    lost: list[str]
    #: Invocations with more than one attempt that ended in success.
    double: list[str]
    #: Jobs beyond one for each ordered list of (invocation, attempt).
    extra_jobs: int
    jobs: int


def component_faults(component: Component, *names: str, cuts: bool = True) -> list[Fault]:
    """Kill and start again, pause and wake, cut off and mend. `names` = only these of its programs."""
    title = component.name

    async def kill() -> None:
        await component.kill(*names)

    async def pause() -> None:
        await component.stop(*names)

    async def wake() -> None:
        await component.resume(*names)

    async def refuse() -> None:
        await component.cut(Cut.REFUSE)

    async def drop() -> None:
        await component.cut(Cut.DROP)

    faults = [Fault(f"{title} killed", kill, component.start), Fault(f"{title} paused", pause, wake)]
    if cuts:
        faults += [
            Fault(f"{title} refuses", refuse, component.mend),
            Fault(f"{title} hangs", drop, component.mend),
        ]
    return faults


def process_faults(process: Process) -> list[Fault]:
    async def pause() -> None:
        process.send(signal.SIGSTOP)

    async def wake() -> None:
        process.send(signal.SIGCONT)

    return [
        Fault(f"{process.module} killed", process.kill, process.start),
        Fault(f"{process.module} paused", pause, wake),
    ]


def all_faults(platform: Platform) -> list[Fault]:
    bed = platform.bed
    faults = [
        *component_faults(bed.minio),
        *component_faults(bed.kafka),
        *component_faults(bed.kubernetes, "kube-apiserver"),
        Fault("events lost", bed.minio.lose_events, bed.minio.deliver_events),
    ]
    for process in platform.processes:
        faults += process_faults(process)
    return faults


async def storm(faults: Sequence[Fault], *, count: int, seed: int) -> list[str]:
    """Inject so many, each kind before any is repeated; returns their names in order."""
    chance = random.Random(seed)
    done: list[str] = []
    bag: list[Fault] = []
    for _ in range(count):
        if not bag:
            bag = list(faults)
            chance.shuffle(bag)
        fault = bag.pop()
        done.append(fault.name)
        await fault.begin()
        try:
            await asyncio.sleep(chance.uniform(*FAULT_S))
        finally:
            await fault.end()
        await asyncio.sleep(chance.uniform(*CALM_S))
    return done


async def upload(
    platform: Platform, bucket: str, keys: Sequence[str], *, pause_s: float = 0.0, at_once: int = 4
) -> int:
    """Each key until the store says that it has it; returns how many tries failed."""
    failures = 0
    waiting = list(reversed(keys))

    async def one() -> None:
        nonlocal failures
        while waiting:
            key = waiting.pop()
            while True:
                try:
                    async with asyncio.timeout(90):
                        await platform.put(bucket, key, key.encode())
                    break
                except (MinioException, HTTPError, OSError, TimeoutError):
                    failures += 1
                    await asyncio.sleep(0.3)
            await asyncio.sleep(pause_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(one())
    return failures


class JobCounter:
    """Which Jobs were ever seen, by name, from listings of the test's own (an absent API server is asked again)."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._seen: defaultdict[str, set[str]] = defaultdict(set)

    async def run(self) -> None:
        path = f"/apis/batch/v1/namespaces/{self._platform.namespace}/jobs"
        async with self._platform.bed.kubernetes.api(direct=True) as api:
            while True:
                with contextlib.suppress(Exception):  # the API server is killed on purpose
                    for job in (await api.get(path))["items"]:
                        self._seen[job["metadata"]["name"]].add(job["metadata"]["uid"])
                await asyncio.sleep(0.5)

    @property
    def jobs(self) -> int:
        return sum(len(uids) for uids in self._seen.values())

    @property
    def extra(self) -> int:
        """A Job's name says its list of (invocation, attempt): more than one uid under a name is work done again."""
        return self.jobs - len(self._seen)


async def verdict(platform: Platform, bucket: str, keys: Sequence[str], faults: int, jobs: JobCounter) -> Count:
    """Count when everything has come to rest."""
    listed = [key for key in await platform.keys(bucket) if not key.endswith("/")]
    await platform.history.read()
    of_keys = platform.history.of(bucket)
    good = {key for key, record in of_keys.items() if record.phase is Phase.SUCCEEDED}
    successes = platform.history.successes()
    return Count(
        uploads=len(keys),
        listed=len(listed),
        succeeded=len(good),
        faults=faults,
        lost=sorted(set(keys) - good)[:20],
        double=sorted(invocation for invocation, count in successes.items() if count > 1)[:20],
        extra_jobs=jobs.extra,
        jobs=jobs.jobs,
    )


class Trial(NamedTuple):
    counted: Count
    #: The seed and the faults, to be told when something is wrong.
    told: str
    failed_uploads: int
    #: Where the records are.
    bucket: str


async def trial(
    platform: Platform, *, uploads: int, faults: int, per_job: int, pause_s: float, patience_s: float
) -> Trial:
    """Upload so many objects to a function of lists while so many faults come, wait for all ends, and count."""
    await platform.start("dispatcher")  # a standby
    bucket = f"in-{platform.mark}"
    spec = {
        "image": "any",
        "script": "true",
        "inputs": [{"bucket": bucket}],
        "batch": {"mode": "list", "max_items": per_job, "linger_s": 0.5},
    }
    await platform.apply(resource("storm", spec))
    await platform.ready("storm")
    keys = [f"{number % 20}/{number:06d}" for number in range(uploads)]
    counter = JobCounter(platform)
    counting = asyncio.create_task(counter.run(), name="job counter")
    seed = random.randrange(2**32)
    try:
        uploading = asyncio.create_task(upload(platform, bucket, keys, pause_s=pause_s), name="uploads")
        done = await storm(all_faults(platform), count=faults, seed=seed)
        failures = await uploading
        await platform.ended(bucket, keys, seconds=patience_s)
        count = await verdict(platform, bucket, keys, len(done), counter)
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
    return Trial(count, f"seed {seed}: {kinds(done)}", failures, bucket)


def kinds(names: Sequence[str]) -> str:
    return ", ".join(f"{name} x{count}" for name, count in sorted(Counter(names).items()))
