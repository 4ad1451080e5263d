"""The parts alone: what the kernel says about processes, bounded logs, whose a launcher is and what is believed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.process_runner import output_log, processes, recovery
from dispatcher.process_runner.job import Item, Job, verdict
from dispatcher.process_runner.lanes import Lanes
from dispatcher.process_runner.layout import ItemFolder, JobFolder, Note
from dispatcher.process_runner.processes import Family
from dispatcher.sidecar import logs
from dispatcher.sidecar.environment import COMPLETE
from penstock.errors import InvalidInput, OutOfSpace, Unavailable
from penstock.model import SYSTEM_BUCKET, BucketEvent, ErrorClass, ItemResult, JobPhase
from penstock.model.objects import log_key
from tests.process_runner.support import (
    UID,
    Bench,
    collect,
    left_running,
    plan,
    process_bench,
)

EVENT = BucketEvent(bucket="pictures", key="k", etag="e", size=0, time_ms=1, arrived_ms=1, hops=0)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A session of its own whose leader has a child, and a grandchild that left the session."""
    script = "setsid sleep 1000 & sleep 1000 & echo up; wait"
    environment = {"JOB_UUID": "job-x", "PATH": os.environ["PATH"]}
    process = subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    yield process
    for pid in (*processes.members(family_of(process)), process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def family_of(
    process: subprocess.Popen[bytes], marker: bytes = b"JOB_UUID=job-x\0", folder: str = "/nowhere/"
) -> Family:
    found = processes.inspect(process.pid)
    assert found is not None
    return Family(leader=process.pid, leader_start=found.start, marker=marker, folder=folder, above=process.pid)


def test_a_process_is_described(child: subprocess.Popen[bytes]) -> None:
    found = processes.inspect(child.pid)
    assert found is not None
    assert (found.parent, found.group, found.session) == (os.getpid(), child.pid, child.pid)
    assert processes.alive(child.pid, found.start)
    assert not processes.alive(child.pid, found.start + 1)
    assert processes.inspect(2**22 + 5) is None


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen(["true"])
    start = processes.inspect(process.pid)
    assert start is not None
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.alive(process.pid, start.start)
    process.wait()


def test_the_cheap_look_finds_what_the_full_one_does(child: subprocess.Popen[bytes]) -> None:
    family = family_of(child)
    full = processes.members(family)
    assert len(full) == 2
    assert processes.survivors(family, started=time.monotonic())[0] == full
    assert processes.survivors(family, started=float("-inf"))[0] == full
    wrapped = msgspec.structs.replace(family, above=2**22)
    assert processes.survivors(wrapped, started=time.monotonic())[0] == full
    assert processes.survivors(family, started=time.monotonic())[1] >= full[-1]


def test_a_strangers_session_under_a_reused_number_is_left_alone(child: subprocess.Popen[bytes]) -> None:
    family = family_of(child, marker=b"JOB_UUID=other\0")
    assert len(processes.members(family)) == 2
    earlier = msgspec.structs.replace(family, leader_start=family.leader_start - 1)
    assert processes.members(earlier) == []


def test_whoever_works_below_the_folder_belongs_to_the_job(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "1000"], cwd=tmp_path, env={}, start_new_session=True)
    try:
        family = Family(leader=2**22 + 1, leader_start=0, marker=b"JOB_UUID=x\0", folder=f"{tmp_path}", above=0)
        assert processes.members(family) == [stranger.pid]
        assert processes.resident_bytes([stranger.pid]) > 0
        assert processes.kill_all(family)
    finally:
        stranger.kill()
        stranger.wait()


def test_an_open_file_is_found_without_leases(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as sink:
        holder = subprocess.Popen(["sleep", "1000"], stdout=sink)
    try:
        assert processes.holds_open([holder.pid], str(path))
        assert not processes.holds_open([holder.pid], str(tmp_path / "other"))
    finally:
        holder.kill()
        holder.wait()


def test_the_output_is_held_as_long_as_a_writer_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    assert output_log.held(str(path), None) == (False, -1)
    with path.open("ab") as sink:
        sink.write(b"four")
        sink.flush()
        assert output_log.held(str(path), None) == (True, 4)
    assert output_log.held(str(path), None) == (False, 4)

    def no_leases(_: int) -> bool:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(output_log, "has_writer", no_leases)
    assert output_log.held(str(path), None) == (False, 4)


def test_a_long_log_gives_its_oldest_part_back(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1_000_000)
    full = path.stat().st_blocks
    assert output_log.trim(str(path), 100_000)
    assert path.stat().st_size == 1_000_000
    assert path.stat().st_blocks < full / 5
    assert path.read_bytes()[-100_000:] == b"x" * 100_000
    assert not output_log.trim(str(path), 2_000_000)
    assert not output_log.trim(str(tmp_path / "missing"), 1)


def test_where_holes_are_not_possible_a_long_log_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1_000_000)
    monkeypatch.setattr(logs, "_fallocate", lambda *_: -1)
    with path.open("ab") as script:
        assert output_log.trim(str(path), 100_000)
        script.write(b"next")
    assert path.read_bytes() == b"next"


async def test_reading_a_trimmed_log_goes_on_where_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a" * 8192 + b"b" * 8192)
    output_log.trim(str(path), 8192)
    assert await collect(output_log.follow(str(path), 0, lambda: True, wait=False)) == b"b" * 8192
    assert await collect(output_log.follow(str(path), 16380, lambda: True, wait=True)) == b"bbbb"


async def test_a_log_over_the_limit_is_archived_with_a_note(tmp_path: Path) -> None:
    script = f"{sys.executable} -c 'print(\"x\" * 99_999, flush=True)'"
    async with process_bench(tmp_path, log_limit=5000) as bench:
        (result,) = await bench.run(plan(script, await bench.put()))
        kept = await collect(bench.runner.log("job-1", "job-1-0"))
        archived = await bench.get(SYSTEM_BUCKET, log_key(UID, "job-1-0", 1))
    assert result.log_truncated
    assert archived.startswith(b"[the output was too long: its first 95000 bytes were dropped]\n")
    assert archived.endswith(b"x" * 4999 + b"\n")
    assert result.log_bytes == len(archived)
    assert kept.endswith(b"x\n")


async def test_a_log_that_cannot_be_kept_does_not_fail_the_item(tmp_path: Path) -> None:
    async with process_bench(tmp_path) as bench:
        await bench.store.delete_bucket(SYSTEM_BUCKET)
        (result,) = await bench.run(plan("echo x", await bench.put()))
    assert (result.error, result.log_truncated, result.log_bytes) == (None, True, 0)


def test_the_verdict_is_the_platforms_when_it_ended_the_item() -> None:
    item = Item(0, plan("x", EVENT).items[0], ItemFolder("/x"))
    item.code = 0
    assert verdict(item, 5) == (None, 0, "")
    item.why = ErrorClass.CANCELLED
    assert verdict(item, 5)[:2] == (ErrorClass.CANCELLED, 0)
    item.why, item.code = None, None
    assert verdict(item, 5)[:2] == (ErrorClass.KILLED, 137)
    item.why = ErrorClass.DEADLINE
    assert verdict(item, 5) == (ErrorClass.DEADLINE, 124, "the script did not end within its deadline of 5 s")


@given(st.binary(max_size=12))
def test_any_code_file_is_a_code_or_none(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    folder = tmp_path_factory.mktemp("item")
    (folder / "code").write_bytes(raw)
    code = ItemFolder(str(folder)).code()
    assert code is None or 0 <= code <= 255


async def test_any_words_at_the_doorbell_are_survived(tmp_path: Path) -> None:
    heard: list[tuple[str, int]] = []
    lanes = Lanes(str(tmp_path), lambda name, index: heard.append((name, index)), warm=0)
    try:
        with (tmp_path / ".lanes" / "alive").open("wb", buffering=0) as bell:
            for piece in (
                b"\nj ex",
                b"it 3 0\n",
                b"\xff\0 exit 1 0\n",
                b"x" * 9000,
                b"\nj exit 99999999999 0\n\n",
                b"\nk exit 1 7\n",
            ):
                bell.write(piece)
                lanes.listen()
    finally:
        lanes.close()
    assert [entry for entry in heard if entry[0] in "jk"] == [("j", 3), ("k", 1)]


async def test_a_launcher_that_cannot_be_watched_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_: int) -> int:
        raise OSError(24, "Too many open files")

    lanes = Lanes(str(tmp_path), lambda *_: None, warm=1)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pidfd_open", exhausted)
            with pytest.raises(Unavailable, match="Too many open files"):
                lanes.take({})
        assert [path.name for path in (tmp_path / ".lanes").iterdir()] == ["alive"]
        assert left_running(tmp_path) == []
    finally:
        lanes.close()


async def test_a_plan_that_is_no_text_is_refused(bench: Bench) -> None:
    event = msgspec.structs.replace(await bench.put(), key="\udcff")
    with pytest.raises(InvalidInput, match="Unicode"):
        await bench.runner.submit(plan("true", event))


def test_no_space_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(OutOfSpace):
        JobFolder(str(tmp_path), "job").create(plan("true", EVENT), "boot")


def test_jobs_compare_by_content() -> None:
    job = Job(plan("x", EVENT), JobFolder("/w", "job-1"), "n")
    assert job.find("job-1-0") is job.items[0]
    assert job.find("nobody") is None
    assert not job.over


def test_a_launcher_belongs_to_the_job_that_it_served_last(tmp_path: Path) -> None:
    """It was given to the next Job while the first one was being published, and then Penstock was killed."""
    boot, me = processes.boot_id(), processes.inspect(os.getpid())
    assert me is not None
    for name, code in (("ended", "0\n"), ("runs", "")):
        folder = JobFolder(str(tmp_path), name)
        folder.create(msgspec.structs.replace(plan("true", EVENT), name=name), boot)
        folder.note_launcher(me.pid, me.start, "fifo")
        folder.item(0).create()
        Path(folder.item(0).env).write_bytes(COMPLETE)
        Path(folder.item(0).root, "code").write_text(code)
    found = {job.plan.name: (job.family, launcher) for job, launcher in recovery.find(str(tmp_path), boot, "here")}
    assert found["ended"] == (None, None)
    assert found["runs"][1] == (me.pid, me.start, "fifo")


def test_what_a_file_held_for_another_job_is_not_believed(tmp_path: Path) -> None:
    """A power failure may bring back the content that a file had before its folder was used again."""
    folder = JobFolder(str(tmp_path), "job")
    folder.create(msgspec.structs.replace(plan("true", EVENT), name="job"), "an earlier boot")
    folder.note([Note(item=0, result=ItemResult(invocation="another", attempt=1))])
    ((job, _),) = recovery.find(str(tmp_path), processes.boot_id(), "here")
    assert job.items[0].result is None
    assert job.phase is JobPhase.LOST
