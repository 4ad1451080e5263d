"""Nothing outlives a run, however it ends: not servers, not containerd's shims, not pods' processes, mounts or devices.

A test run is started as a process of its own, killed in the middle with SIGKILL, and then every trace is looked for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.testbed.leftovers import in_use, mounts_below
from tests.testbed.lookup import may_make_namespaces, which
from tests.testbed.paths import REPOSITORY

pytestmark = pytest.mark.components

RUN = """
import os, pytest
from pathlib import Path
from tests.components.helpers import pod
from tests.testbed.images import BUSYBOX

async def test_it(bed, minio, kafka, {node}) -> None:
    if {real_node}:
        async with bed.kubernetes.api() as api:
            await bed.node.start_pod(api, pod("lasting", BUSYBOX, "sleep 98765"))
    slot = (await bed.uplink()).slot if {real_node} else -1
    told = f"{{bed.guardian.pid}} {{bed.folder}} {{slot}}"
    draft = Path(os.environ["TOLD"] + ".draft")
    draft.write_text(told)
    draft.rename(os.environ["TOLD"])
    import asyncio
    await asyncio.sleep(600)
"""


def command_lines() -> dict[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # It ended meanwhile.
    return found


def session_of(pid: int) -> set[int]:
    """Every process below one, itself included."""
    told = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in told.splitlines()]
    found, grown = {pid}, True
    while grown:
        more = {child for child, parent in pairs if parent in found} - found
        found |= more
        grown = bool(more)
    return found


def wait_until(what: str, check: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not so: {what}"
        time.sleep(0.05)


@pytest.fixture(params=["the run alone", "its whole group", "the guardian"])
def victim(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def start_run(folder: Path, told: Path, *, real_node: bool) -> subprocess.Popen[bytes]:
    """A test run that starts most of the bed, tells where it is, and then waits."""
    test = folder / "test_run.py"
    test.write_text(RUN.format(node="node" if real_node else "kubernetes", real_node=real_node))
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "tests.testbed.fixtures", "-p", "no:cacheprovider"]
    options = ["-o", "asyncio_mode=auto", "-c", os.devnull, f"--rootdir={folder}", str(test)]
    environment = {**os.environ, "TOLD": str(told), "PYTHONPATH": str(REPOSITORY)}
    with (folder / "run.log").open("wb") as log:
        return subprocess.Popen(
            argv + options, env=environment, cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
        )


def has_device(slot: str) -> bool:
    ip = which("ip")
    if ip is None:
        return False
    told = subprocess.run([ip, "-brief", "link"], capture_output=True, text=True, check=True)
    return f"penstock{slot}@" in told.stdout


def kill(victim: str, run: subprocess.Popen[bytes], guardian: int) -> None:
    if victim == "the guardian":
        os.kill(guardian, signal.SIGKILL)
    if victim == "its whole group":
        os.killpg(run.pid, signal.SIGKILL)
    run.kill()
    run.wait()


@pytest.mark.parametrize("victim", ["the run alone", "its whole group", "the guardian"])
def test_nothing_outlives_a_killed_run(tmp_path: Path, victim: str) -> None:
    real_node = may_make_namespaces()
    told = tmp_path / "told"
    run = start_run(tmp_path, told, real_node=real_node)
    try:
        wait_until("the run is in its test", lambda: told.exists() or run.poll() is not None, 120)
        assert told.exists(), (tmp_path / "run.log").read_text()
        guardian, folder, slot = told.read_text().split()
        below, lines = session_of(int(guardian)), command_lines()
        running = " ".join(lines.get(pid, "") for pid in below)
        wanted = ["minio", "java", "etcd", *(["containerd-shim", "98765"] if real_node else [])]
        assert [word for word in wanted if word not in running] == []
        kill(victim, run, int(guardian))
    finally:
        run.kill()
        run.wait()

    def gone() -> bool:
        now = command_lines()
        return not any(now.get(pid) == lines.get(pid) != "" for pid in below if pid in now)

    wait_until("every process is gone", gone, 30)
    assert not any(folder in line for line in command_lines().values())
    assert not mounts_below(Path(folder))
    assert not in_use(Path(folder))
    # The kernel takes a namespace's devices down some moments after its last process.
    wait_until("the bed's device is gone", lambda: not has_device(slot), 30)
