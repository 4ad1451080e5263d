"""A launcher that knows of the next item goes on by itself; each item still is ended, waited for and timed alone."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path

from dispatcher.process_runner import ProcessRunner, processes
from dispatcher.process_runner.job import Job, State
from penstock.model import BucketEvent, ErrorClass, JobPhase
from tests.process_runner.support import (
    PATIENCE_S,
    Bench,
    alive,
    eventually,
    is_alive,
    open_runner,
    plan,
)


def job_of(bench: Bench) -> Job:
    assert isinstance(bench.runner, ProcessRunner)
    return bench.runner._jobs["job-1"]


async def put(bench: Bench, count: int) -> list[BucketEvent]:
    return [await bench.put(str(number)) for number in range(count)]


def gated(gate: Path, rest: str) -> str:
    """The first item waits for a file."""
    return f"case $INPUT_FILE_PATH in *0) while [ ! -e {gate} ]; do sleep 0.01; done;; esac\n{rest}"


async def test_the_next_item_needs_nobody(bench: Bench, tmp_path: Path) -> None:
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    await bench.runner.submit(plan(gated(gate, f"echo x >>{runs}"), *await put(bench, 4)))
    job = job_of(bench)
    await eventually(lambda: job.items[1].told is not None)
    assert job.items[2].told is None
    gate.touch()
    deadline = time.monotonic() + PATIENCE_S
    # The event loop stands still.
    while not runs.exists() or len(runs.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # noqa: ASYNC251  (that is the point)
    results = (await bench.end("job-1")).results
    assert [result.error for result in results] == [None] * 4
    times = [(result.started_ms, result.finished_ms) for result in results]
    assert all(start <= end for start, end in times)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(times))


async def test_an_item_is_cancelled_though_its_launcher_knows_of_it(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = gated(gate, f"case $INPUT_FILE_PATH in *1) sleep 1000;; esac; echo x >>{tmp_path}/ended")
    await bench.runner.submit(plan(script, *await put(bench, 3)))
    await eventually(lambda: job_of(bench).items[1].told is not None)
    await bench.runner.cancel("job-1", invocation="job-1-1")
    gate.touch()
    results = (await bench.end("job-1")).results
    assert [result.error for result in results] == [None, ErrorClass.CANCELLED, None]
    assert results[1].message == "cancelled before its turn"
    assert (tmp_path / "ended").read_text() == "x\nx\n"


async def test_ending_an_item_leaves_the_next_one_alone(bench: Bench, tmp_path: Path) -> None:
    """The first one's script is over and what it left holds its output, so its launcher has gone on meanwhile."""
    script = f"""case $INPUT_FILE_PATH in
        *0) sleep 1000 & echo $! >{tmp_path}/held;;
        *1) echo $$ >{tmp_path}/next; while [ ! -e {tmp_path}/gate ]; do sleep 0.01; done;;
        esac"""
    await bench.runner.submit(plan(script, *await put(bench, 3)))
    job = job_of(bench)
    await eventually((tmp_path / "next").exists)
    assert job.current is job.items[0]
    mine = processes.of_item(processes.members(job.family), job.items[0].folder.root) if job.family else []
    assert mine == [int((tmp_path / "held").read_text())]
    await bench.runner.cancel("job-1", invocation="job-1-0")
    await eventually(lambda: job.items[0].state >= State.ENDED)
    assert not alive(tmp_path / "held")
    assert is_alive(int((tmp_path / "next").read_text()))
    assert job.alone  # whoever leaves something behind once is not overtaken again
    assert job.items[2].told is None
    (tmp_path / "gate").touch()
    results = (await bench.end("job-1")).results
    assert [result.error for result in results] == [ErrorClass.CANCELLED, None, None]


async def test_a_deadline_that_comes_too_late_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    await bench.runner.submit(plan(gated(gate, f"echo x >>{tmp_path}/runs"), *await put(bench, 2)))
    job = job_of(bench)
    await eventually(lambda: job.items[1].told is not None)
    gate.touch()
    deadline = time.monotonic() + PATIENCE_S
    while job.items[1].folder.code() is None:  # both are over, and the event loop has heard of neither
        assert time.monotonic() < deadline
        time.sleep(0.01)  # noqa: ASYNC251  (that is the point)
    assert isinstance(bench.runner, ProcessRunner)
    bench.runner._driver.end(job, job.items[0], ErrorClass.DEADLINE)
    results = (await bench.end("job-1")).results
    assert [result.error for result in results] == [None, None]


async def test_a_launcher_that_dies_takes_only_what_it_ran(bench: Bench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = gated(gate, f"case $INPUT_FILE_PATH in *1) kill -KILL $PPID;; esac; echo x >>{tmp_path}/ended")
    await bench.runner.submit(plan(script, *await put(bench, 4)))
    await eventually(lambda: job_of(bench).items[1].told is not None)
    gate.touch()
    results = (await bench.end("job-1")).results
    assert [result.error for result in results] == [None, ErrorClass.KILLED, None, None]
    assert len((tmp_path / "ended").read_text().split()) in {3, 4}  # the orphan may have been faster than its end


async def test_a_launcher_that_dies_before_it_began_the_next_is_replaced(bench: Bench, tmp_path: Path) -> None:
    script = f"""echo x >>{tmp_path}/runs
        case $INPUT_FILE_PATH in *0) while [ ! -e {tmp_path}/gate ]; do sleep 0.01; done; kill -KILL $PPID;; esac"""
    await bench.runner.submit(plan(script, *await put(bench, 3)))
    await eventually(lambda: job_of(bench).items[1].told is not None)
    (tmp_path / "gate").touch()
    results = (await bench.end("job-1")).results
    assert [result.error for result in results] == [ErrorClass.KILLED, None, None]
    assert (tmp_path / "runs").read_text() == "x\n" * 3


async def test_a_new_life_follows_a_launcher_that_went_on_without_one(bench: Bench, tmp_path: Path) -> None:
    """What a kill of Penstock alone does, without the kill: nobody drives the Job while its launcher goes on."""
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    await bench.runner.submit(plan(gated(gate, f"basename $INPUT_FILE_PATH >>{runs}"), *await put(bench, 4)))
    job = job_of(bench)
    await eventually(lambda: job.items[1].told is not None)
    assert job.driver is not None
    job.driver.cancel()
    gate.touch()
    await eventually(lambda: runs.exists() and runs.read_text().split() == ["0", "1"])
    assert await next_life(bench) == [None] * 4
    assert runs.read_text().split() == ["0", "1", "2", "3"]


async def test_a_launcher_that_an_earlier_life_held_still_goes_on(bench: Bench, tmp_path: Path) -> None:
    await bench.runner.submit(plan(gated(tmp_path / "gate", "true"), *await put(bench, 2)))
    job = job_of(bench)
    await eventually(job.items[0].folder.started)
    assert job.driver is not None
    assert job.lane is not None
    job.driver.cancel()
    os.kill(job.lane.pid, signal.SIGSTOP)
    (tmp_path / "gate").touch()
    assert await next_life(bench) == [None, None]


async def next_life(bench: Bench) -> list[ErrorClass | None]:
    """Another runner over the same folders follows the only Job to its end; returns the errors of its items."""
    second = await open_runner(bench.store, bench.folder)
    async with asyncio.timeout(PATIENCE_S):
        async for status in second.watch():
            if status.phase is JobPhase.FINISHED:
                break
    await second.close()
    return [result.error for result in status.results]


async def test_a_daemon_of_an_early_item_is_found_though_folders_are_used_again(bench: Bench, tmp_path: Path) -> None:
    """It left the session and hides its environment: only its working folder tells whose it is."""
    script = f"""case $INPUT_FILE_PATH in *0)
        (env -i PATH="$PATH" setsid sh -c 'echo $$ >{tmp_path}/daemon; exec sleep 1000' >/dev/null 2>&1 &)
        while [ ! -s {tmp_path}/daemon ]; do sleep 0.01; done;;
        esac; cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/$(basename "$INPUT_FILE_PATH")" """
    results = await bench.run(plan(script, *await put(bench, 40)))
    assert [result.error for result in results] == [None] * 40
    await eventually(lambda: not alive(tmp_path / "daemon"))


async def test_the_folder_of_an_item_that_is_through_serves_a_later_one(bench: Bench) -> None:
    results = await bench.run(plan('cp "$INPUT_FILE_PATH" "$TMP_OUTPUT_DIR/"', *await put(bench, 40)))
    assert sorted(key for result in results for key in (output.key for output in result.outputs)) == sorted(
        f"out/{number}" for number in range(40)
    )
    assert len(os.listdir(job_of(bench).folder.root)) < 40  # noqa: PTH208  (as the code does)
