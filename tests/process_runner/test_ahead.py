"""A launcher that knows of the next item goes on by itself; each item still is ended, waited for and timed alone."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.process_runner import ProcessRunner, lookahead, processes
from dispatcher.process_runner.job import Job, State
from dispatcher.process_runner.lanes import Lanes
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


@given(st.lists(st.floats(min_value=0, max_value=10_000), min_size=1, max_size=50))
def test_a_launcher_is_told_of_as_much_as_covers_a_moment(times: list[float]) -> None:
    pace = 0.0
    for took in times:
        pace = lookahead.pace(pace, took)
        assert max(1.0, took) <= pace <= max(1.0, *times)  # one long item is enough for caution
    count = lookahead.told(pace)
    assert 1 <= count <= lookahead.MOST
    assert count == 1 or count * pace <= lookahead.COVER_MS
    assert not lookahead.calm(0, pace)
    assert not lookahead.calm(1, pace) or pace >= 2000 * lookahead.PAUSE_S


def test_nothing_is_known_of_the_first_item() -> None:
    assert lookahead.told(0.0) == 1
    assert not lookahead.calm(lookahead.MOST, 0.0)


async def test_a_launcher_of_short_items_is_told_of_several(bench: Bench, tmp_path: Path) -> None:
    """While one of them waits, its launcher knows of more than the next, in their order and without a gap."""
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    script = f"""case $INPUT_FILE_PATH in *29) while [ ! -e {gate} ]; do sleep 0.01; done;; esac
        basename $INPUT_FILE_PATH >>{runs}"""
    await bench.runner.submit(plan(script, *await put(bench, 60)))
    job = job_of(bench)
    await eventually(lambda: job.current is job.items[29])
    job.pace_ms = 4.0  # as short as they are on a quiet machine
    assert isinstance(bench.runner, ProcessRunner)
    await eventually(lambda: job.items[31].ready)
    bench.runner._driver._tell_ahead(job)
    known = [item.index for item in job.items if item.told is job.lane and item.state is State.WAITING]
    assert known == list(range(30, 30 + len(known)))
    assert 2 <= len(known) <= lookahead.MOST  # the pace may have been a shorter one until now
    assert job.told == known[-1]
    assert job.calm == (len(known) * 4.0 >= 20)
    gate.touch()
    results = (await bench.end("job-1")).results
    assert [result.error for result in results] == [None] * 60
    assert runs.read_text().split() == [str(number) for number in range(60)]


async def test_large_inputs_are_not_brought_long_before_their_turn(bench: Bench, tmp_path: Path) -> None:
    large = [await bench.put(f"{number}", b"x" * (lookahead.SMALL_BYTES + 1)) for number in range(12)]
    await bench.runner.submit(plan(gated(tmp_path / "gate", "true"), *large))
    job = job_of(bench)
    job.pace_ms = 1.0
    await eventually(lambda: job.items[2].ready)
    assert isinstance(bench.runner, ProcessRunner)
    assert bench.runner._driver._to_stage(job, job.items[0], 3) == []
    assert [item.index for item in bench.runner._driver._to_stage(job, job.items[2], 3)] == [3, 4]
    (tmp_path / "gate").touch()
    assert [result.error for result in (await bench.end("job-1")).results] == [None] * 12


@pytest.mark.parametrize("calm", [True, False])
async def test_nobody_listens_for_a_moment_where_there_is_no_hurry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, calm: bool
) -> None:
    monkeypatch.setattr("dispatcher.process_runner.lanes.PAUSE_S", 3600)
    heard: list[int] = []
    lanes = Lanes(str(tmp_path), lambda _, index: heard.append(index), warm=0, calm=lambda: calm)
    mouth = os.open(tmp_path / ".lanes/alive", os.O_WRONLY | os.O_NONBLOCK)
    os.write(mouth, b"job-1 exit 0 0\n")
    await eventually(lambda: heard == [0])
    os.write(mouth, b"job-1 exit 1 0\njob-1 exit 2 0\n")
    for _ in range(3):
        await asyncio.sleep(0)
    assert heard == ([0] if calm else [0, 1, 2])
    if lanes._pause is not None:
        lanes._pause.cancel()
        lanes._listen_again()
    assert heard == [0, 1, 2]
    os.close(mouth)
    lanes.close()
