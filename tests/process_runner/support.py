"""What the tests of the runner share: a store, plans, and waiting for a Job's end with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dispatcher.process_runner import ProcessRunner, Settings, processes
from penstock.adapters.directory import DirectoryStore
from penstock.model import (
    BucketEvent,
    ItemResult,
    JobItem,
    JobPhase,
    JobPlan,
    JobStatus,
    Origin,
    StorageIO,
    Submission,
)
from penstock.ports import ObjectStore, Runner

#: Nothing in these tests takes this long; a hang fails instead of blocking.
PATIENCE_S = 30.0
#: The uid of the function of all plans here.
UID = "uid-1"
OUTPUT = StorageIO(provider="minio", bucket="results", folder="out")


class Bench:
    """A runner over a store, and how to make another one over the same folders (a restart)."""

    #: Scripts begin in an empty folder of the item's own, not in the image's.
    own_folder = True
    #: Jobs belong to the runner and end with it.
    outlived = False
    #: What a script sees as the name of its node; "" = whatever it is called.
    node = "laptop"
    #: Each step of a list is reported as it is made, not now and then.
    prompt = True
    #: What an item counts for that does not say.
    item_cpu_millis = 1000
    patience_s = PATIENCE_S

    def __init__(
        self, runner: Runner, store: ObjectStore, folder: Path, reopen: Callable[[], Awaitable[Runner]]
    ) -> None:
        self.runner = runner
        self.store = store
        self.folder = folder
        self.reopen = reopen
        self.watch = runner.watch()
        self.seen: list[JobStatus] = []

    async def put(self, key: str = "a/pic ture.txt", data: bytes = b"input", **metadata: str) -> BucketEvent:
        info = await self.store.write("pictures", key, data, metadata=metadata)
        return BucketEvent.of(info, Origin.PUSH, hops=0)

    async def run(self, plan: JobPlan) -> tuple[ItemResult, ...]:
        """Submit and wait for the end."""
        await self.runner.submit(plan)
        return (await self.end(plan.name)).results

    async def end(self, name: str) -> JobStatus:
        return await self.until(
            lambda status: status.name == name and status.phase in {JobPhase.FINISHED, JobPhase.LOST}
        )

    async def until(self, wanted: Callable[[JobStatus], bool]) -> JobStatus:
        async with asyncio.timeout(self.patience_s):
            async for status in self.watch:
                self.seen.append(status)
                if wanted(status):
                    return status
        raise AssertionError("the watch ended")

    async def get(self, bucket: str, key: str) -> bytes:
        return b"".join([chunk async for chunk in self.store.read(bucket, key)])

    async def keys(self, bucket: str = "results") -> list[str]:
        return [info.key async for page in self.store.list(bucket) for info in page]


@contextlib.asynccontextmanager
async def process_bench(folder: Path, **settings: Any) -> AsyncIterator[Bench]:
    """Local processes over a directory store."""
    async with opened_store(folder) as store:
        runners: list[ProcessRunner] = []

        async def reopen() -> Runner:
            for runner in runners:
                await runner.close()
            runners.append(await open_runner(store, folder, **settings))
            return runners[-1]

        bench = Bench(await reopen(), store, folder, reopen)
        try:
            yield bench
        finally:
            for runner in runners:
                await runner.close()
            assert left_running(folder) == []


@contextlib.asynccontextmanager
async def opened_store(folder: Path) -> AsyncIterator[DirectoryStore]:
    store = DirectoryStore(folder / "buckets", settle_s=0)
    try:
        for bucket in ("pictures", "results"):
            await store.create_bucket(bucket)
        yield store
    finally:
        await store.close()


async def open_runner(store: ObjectStore, folder: Path, **settings: Any) -> ProcessRunner:
    return await ProcessRunner.open(
        store=store,
        workdir=folder / "work",
        volumes=folder / "volumes",
        node="laptop",
        settings=Settings(**({"grace_s": 0.2} | settings)),
    )


def left_running(folder: Path) -> list[str]:
    """Command lines of processes that mention the folder or work below it: what a test must not leave behind."""
    found: list[str] = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_bytes()
                place = str((process / "cwd").readlink())
                if f"{folder}/".encode() in command or place.startswith(f"{folder}/"):
                    found.append(f"{process.name} {command!r}")
    return found


def left_over(folder: Path) -> list[str]:
    """What is in the work folder of a runner that knows no Job; nothing should be."""
    found = [path.name for path in (folder / "work").iterdir() if not path.name.startswith(".")]
    waste = folder / "work" / ".bin"
    return found + ([path.name for path in waste.iterdir()] if waste.exists() else [])


def alive(pid_file: Path) -> bool:
    """Tell whether the process whose number was written to a file lives; a zombie that init has yet to reap does
    not.
    """
    return is_alive(int(pid_file.read_text()))


def is_alive(pid: int) -> bool:
    process = processes.inspect(pid)
    return process is not None and process.state != "Z"


def plan(script: str, *triggers: BucketEvent | Submission, name: str = "job-1", **changes: Any) -> JobPlan:
    """A plan with one item per trigger; its invocations are named after the Job and their index."""
    items = tuple(
        JobItem(invocation=f"{name}-{index}", attempt=1, trigger=trigger) for index, trigger in enumerate(triggers)
    )
    made = JobPlan(
        name=name,
        id=name,
        function="classify",
        function_uid=UID,
        generation=1,
        image="",
        script=script,
        items=items,
        outputs=(OUTPUT,),
        deadline_s=60,
    )
    return msgspec.structs.replace(made, **changes)


def changed(made: JobPlan, **changes: Any) -> JobPlan:
    """The same plan with a field of every item changed."""
    items = tuple(msgspec.structs.replace(item, **changes) for item in made.items)
    return msgspec.structs.replace(made, items=items)


def submission(body: bytes, **fields: Any) -> Submission:
    values: dict[str, Any] = {"function": "classify", "function_uid": UID, "id": "s1", "time_ms": 1, "body": body}
    return Submission(**(values | fields))


async def collect(chunks: AsyncIterator[bytes], patience_s: float = PATIENCE_S) -> bytes:
    async with asyncio.timeout(patience_s):
        return b"".join([chunk async for chunk in chunks])


async def eventually(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait on a condition outside of this process, with a deadline."""
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(0.01)


def outputs_of(results: Sequence[ItemResult]) -> list[list[str]]:
    return [[output.key for output in result.outputs] for result in results]
