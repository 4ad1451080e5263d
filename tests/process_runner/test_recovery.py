"""What a new life makes of the folders it finds: one test per state that a kill can leave on disk."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import msgspec

from dispatcher.process_runner import processes
from dispatcher.process_runner.layout import JobFolder, Note, write
from dispatcher.sidecar.environment import COMPLETE
from penstock.model import BucketEvent, ErrorClass, ItemResult, JobPhase, JobPlan, Origin
from tests.process_runner.support import Bench, eventually, left_over, open_runner, opened_store, plan


def saved(bench: Bench, made: JobPlan, boot: str | None = None) -> JobFolder:
    folder = JobFolder(str(bench.folder / "work"), made.name)
    folder.create(made, processes.boot_id() if boot is None else boot)
    return folder


async def restarted(bench: Bench) -> Bench:
    bench.runner = await bench.reopen()
    bench.watch = bench.runner.watch()
    return bench


COUNT = 'echo run >>"$RUNS"'


async def test_a_job_that_was_only_written_down_is_started(bench: Bench) -> None:
    runs = bench.folder / "runs"
    saved(bench, plan(COUNT, await bench.put(), environment={"RUNS": str(runs)}))
    status = await (await restarted(bench)).end("job-1")
    assert [result.error for result in status.results] == [None]
    assert runs.read_text() == "run\n"


async def test_a_job_that_was_half_written_or_half_removed_is_nothing(bench: Bench) -> None:
    folder = saved(bench, plan(COUNT, await bench.put()))
    (Path(folder.root) / "plan.json").write_bytes(b'{"boot":"')
    (bench.folder / "work" / "left-over" / "0").mkdir(parents=True)
    await restarted(bench)
    assert await bench.runner.jobs() == []
    await eventually(lambda: left_over(bench.folder) == [])


async def test_what_ended_is_completed_what_ran_is_lost_and_what_waits_is_run(bench: Bench) -> None:
    events = [await bench.put(str(number)) for number in range(4)]
    made = plan('cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"', *events)
    folder = saved(bench, made)
    ended, ran, killed = (folder.item(index) for index in range(3))
    for item in (ended, ran, killed):
        item.create()
        write(item.env, COMPLETE)
        write(item.log, b"printed\n")
        write(f"{item.root}/code", b"-\n")
    write(f"{ended.outputs}/mine", b"made")
    write(f"{ended.root}/code", b"0\n")
    write(f"{killed.root}/code", b"143\n")
    killed.note_why(ErrorClass.DEADLINE)
    status = await (await restarted(bench)).end("job-1")
    assert [result.error for result in status.results] == [None, ErrorClass.LOST, ErrorClass.DEADLINE, None]
    assert [output.key for result in status.results for output in result.outputs] == ["out/mine", "out/3"]
    assert status.results[0].log_bytes == 8


async def test_an_output_that_an_earlier_life_moved_is_found_again_or_missed(bench: Bench) -> None:
    events = [await bench.put(str(number)) for number in range(2)]
    made = plan("true", *events)
    (first,) = await bench.run(plan('echo x >"$TMP_OUTPUT_DIR/x"', events[0], name="before"))
    await bench.runner.forget("before")
    folder = saved(bench, made)
    for index, invocation in enumerate(("before-0", "job-1-1")):
        item = folder.item(index)
        item.create()
        write(item.env, COMPLETE)
        write(item.log, b"")
        write(f"{item.root}/code", b"0\n")
        folder.note([Note(item=index, intent=msgspec.structs.replace(first, invocation=invocation))])
    items = tuple(
        msgspec.structs.replace(item, invocation=invocation)
        for item, invocation in zip(made.items, ("before-0", "job-1-1"), strict=True)
    )
    folder.create(msgspec.structs.replace(made, items=items), processes.boot_id())
    status = await (await restarted(bench)).end("job-1")
    assert [result.error for result in status.results] == [None, ErrorClass.PUBLISH]
    assert status.results[0].outputs == first.outputs
    assert "replaced or deleted" in status.results[1].message


async def test_after_a_restart_of_the_machine_only_results_are_believed(bench: Bench) -> None:
    events = [await bench.put(str(number)) for number in range(2)]
    folder = saved(bench, plan("true", *events), boot="another boot")
    for index in range(2):
        item = folder.item(index)
        item.create()
        write(item.env, COMPLETE)
        write(f"{item.root}/code", b"0\n")
    folder.note([Note(item=0, result=ItemResult(invocation="job-1-0", attempt=1, exit_code=0))])
    folder.note_launcher(os.getpid(), 1, "x")
    await restarted(bench)
    (status,) = await bench.runner.jobs()
    assert status.phase is JobPhase.LOST
    assert [result.invocation for result in status.results] == ["job-1-0"]
    assert "restarted" in status.reason


async def test_a_job_with_all_results_is_finished_and_its_strays_are_killed(bench: Bench) -> None:
    folder = saved(bench, plan("true", await bench.put()))
    item = folder.item(0)
    item.create()
    folder.note([Note(item=0, result=ItemResult(invocation="job-1-0", attempt=1, exit_code=0))])
    stray = subprocess.Popen(["sleep", "1000"], env={"JOB_UUID": "job-1"}, start_new_session=True)  # noqa: ASYNC220  (returns at once)
    try:
        folder.note_launcher(2**22 + 1, 1, "x")
        await restarted(bench)
        (status,) = await bench.runner.jobs()
        assert status.phase is JobPhase.FINISHED
        assert stray.wait(timeout=10) == -signal.SIGKILL
    finally:
        stray.kill()


async def test_a_running_job_is_adopted_with_its_deadline(tmp_path: Path) -> None:
    """Two runners over one folder, the first of which stops caring: what a kill does, without the kill."""
    async with opened_store(tmp_path) as store:
        first = await open_runner(store, tmp_path)
        event = BucketEvent.of(await store.write("pictures", "k", b"x"), origin=Origin.PUSH, hops=0)
        await first.submit(plan(f"touch {tmp_path}/up; sleep 1000", event, deadline_s=1.5))
        async with asyncio.timeout(20):
            while not (tmp_path / "up").exists():
                await asyncio.sleep(0.01)
        driver = first._jobs["job-1"].driver
        assert driver is not None
        driver.cancel()
        await asyncio.wait({driver})
        second = await open_runner(store, tmp_path)
        async with asyncio.timeout(20):
            async for status in second.watch():
                if status.phase is JobPhase.FINISHED:
                    break
        assert [result.error for result in status.results] == [ErrorClass.DEADLINE]
        await second.close()
        await first.close()
