"""A small dispatcher that hosts the runner and can be killed anywhere: `python -m tests.process_runner.crash_host
FOLDER`.

For every number read from standard input it forks one life, which runs every item that has no successful record yet,
and kills itself with SIGKILL before its n-th change to the disk (0 = never). Prints how the life ended. What it knows
between lives is `records`, to which it appends a result before it forgets the Job, as the real one does with the log.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from dispatcher.process_runner import ProcessRunner, Settings
from penstock.adapters.directory import DirectoryStore
from penstock.model import BucketEvent, ErrorClass, ItemResult, JobItem, JobPhase, JobPlan, Origin
from tests.process_runner.support import OUTPUT

SCRIPT = """echo "$STORAGE_OBJECT_KEY" >>"$RUNS"
sleep 0.02
cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"
echo "log of $STORAGE_OBJECT_KEY"
"""
_PER_JOB = 3
_AT_ONCE = 2
_CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.posix_spawn", "os.chmod"}


def die_before(count: int, workdir: str) -> None:
    """Kill this process when it is about to make its `count`-th change (or look) in the work folder."""
    left = count

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in _CHANGES and (event == "os.posix_spawn" or workdir in str(arguments[:2])):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


class Host:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder / "records"
        self.store = DirectoryStore(folder / "buckets", settle_s=0)
        self.attempts: dict[str, int] = {}
        self.succeeded: set[str] = set()
        for line in self.records.read_text().splitlines() if self.records.exists() else []:
            self.note(json.loads(line))

    def note(self, record: dict[str, Any]) -> None:
        name = record["invocation"]
        self.attempts[name] = max(self.attempts.get(name, 0), record["attempt"])
        if record["error"] is None:
            self.succeeded.add(name)

    def record(self, result: ItemResult) -> None:
        known = {
            "invocation": result.invocation,
            "attempt": result.attempt,
            "error": result.error,
            "outputs": [[output.key, output.sha256, output.written] for output in result.outputs],
            "log_bytes": result.log_bytes,
            "message": result.message,
        }
        with self.records.open("a") as sink:
            sink.write(json.dumps(known) + "\n")
        self.note(known)

    async def plans(self, busy: set[str]) -> list[JobPlan]:
        events = [
            BucketEvent.of(info, Origin.LISTING, hops=0) async for page in self.store.list("pictures") for info in page
        ]
        waiting = [event for event in events if event.key not in self.succeeded | busy]
        return [self.plan(waiting[start : start + _PER_JOB]) for start in range(0, len(waiting), _PER_JOB)]

    def plan(self, events: list[BucketEvent]) -> JobPlan:
        items = tuple(
            JobItem(invocation=event.key, attempt=self.attempts.get(event.key, 0) + 1, trigger=event)
            for event in events
        )
        name = "job-" + "-".join(f"{item.invocation}.{item.attempt}" for item in items)
        return JobPlan(
            name=name,
            id=name,
            function="f",
            function_uid="u",
            generation=1,
            image="",
            script=SCRIPT,
            items=items,
            outputs=(OUTPUT,),
            environment={"RUNS": str(self.folder / "runs")},
            deadline_s=60,
        )

    async def live(self) -> None:
        runner = await ProcessRunner.open(
            store=self.store,
            workdir=self.folder / "work",
            volumes=self.folder / "volumes",
            node="n",
            settings=Settings(grace_s=0.2),
        )
        watch = runner.watch()
        running: dict[str, JobPlan] = {}
        for status in await runner.jobs():
            if status.phase in {JobPhase.FINISHED, JobPhase.LOST}:
                await self.close_job(runner, status.name, status.results)
            else:
                running[status.name] = self.adopted(runner, status.name)
        busy = {item.invocation for plan in running.values() for item in plan.items}
        waiting = await self.plans(busy)
        while running or waiting:
            while waiting and len(running) < _AT_ONCE:
                plan = waiting.pop(0)
                running[plan.name] = plan
                await runner.submit(plan)
            status = await anext(watch)
            if status.phase in {JobPhase.FINISHED, JobPhase.LOST}:
                running.pop(status.name)
                await self.close_job(runner, status.name, status.results)
                if not waiting and not running:
                    waiting = await self.plans(set())
        await runner.close()
        await self.store.close()

    @staticmethod
    def adopted(runner: ProcessRunner, name: str) -> JobPlan:
        return runner._jobs[name].plan

    async def close_job(self, runner: ProcessRunner, name: str, results: tuple[ItemResult, ...]) -> None:
        reported = {result.invocation for result in results}
        for result in results:
            if result.invocation not in self.succeeded:
                self.record(result)
        for item in self.adopted(runner, name).items:
            if item.invocation not in reported:
                self.record(ItemResult(invocation=item.invocation, attempt=item.attempt, error=ErrorClass.LOST))
        await runner.forget(name)


def life(folder: Path, count: int) -> None:
    if count:
        die_before(count, str(folder / "work"))
    asyncio.run(Host(folder).live())


def main() -> None:
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            life(folder, int(line))
            os._exit(0)
        print("started", pid, flush=True)  # noqa: T201  (the test reads it)
        _, status = os.waitpid(pid, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201  (the test reads it)


if __name__ == "__main__":
    main()
