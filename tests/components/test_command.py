"""The command and the fixtures as people meet them, each in a process of its own."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.components.helpers import until
from tests.testbed.catalog import ARTIFACTS, PARTS
from tests.testbed.links import Address
from tests.testbed.lookup import artifact_named, find
from tests.testbed.paths import REPOSITORY
from tests.testbed.probe import connects, http_ok

QUICK_SECONDS = 5.0


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.testbed", *words]
    return subprocess.run(
        argv, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def up(part: str, env: Path, log: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.testbed", "up", part, "--env", str(env)]
    with log.open("wb") as output:
        return subprocess.Popen(argv, cwd=REPOSITORY, stdout=output, stderr=output)


def run_pytest(folder: Path, test: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(test)
    argv = [sys.executable, "-m", "pytest", "-rs", "-p", "tests.testbed.fixtures", "-p", "no:cacheprovider"]
    options = ["-o", "asyncio_mode=auto", "-c", os.devnull, f"--rootdir={folder}", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.run(argv + options, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)


def test_doctor_says_yes_exactly_when_every_part_is_present() -> None:
    wanted = [artifact_named(name) for part in PARTS.values() for name in part.artifacts]
    missing = [one.name for one in wanted if one is not None and find(one) is None]
    done = run("doctor")
    assert done.returncode == (1 if missing else 0), done.stdout
    for name in missing:
        assert f"no {name}: " in done.stdout


def test_doctor_tells_how_to_get_what_is_missing(tmp_path: Path) -> None:
    done = run("doctor", "minio", PENSTOCK_TESTBED_CACHE=str(tmp_path), PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "minio",
        "  no minio: it is built once these are there: go (install Go 1.26 or newer)",
        "1 missing",
    ]


def test_an_unknown_part_is_refused_with_the_list_of_parts() -> None:
    done = run("build", "nothing")
    assert done.returncode == 2
    assert "there is no part nothing; there are minio, kafka" in done.stderr


@pytest.mark.components
def test_a_second_build_takes_no_time() -> None:
    assert run("build").returncode == 0
    times = []
    # The best of three: work of others on the machine only ever adds to a time.
    for _ in range(3):
        started = time.monotonic()
        assert run("build").returncode == 0
        times.append(time.monotonic() - started)
    assert min(times) < QUICK_SECONDS


@pytest.mark.components
async def test_up_stays_until_it_is_interrupted(tmp_path: Path) -> None:
    env, log = tmp_path / "env", tmp_path / "up.log"
    process = up("minio", env, log)

    async def written() -> bool:
        assert process.poll() is None, log.read_text()
        return env.exists() and "PASSWORD" in env.read_text()

    await until("the environment is written", written)
    told = dict(line.split("=", 1) for line in shlex.split(env.read_text()))
    url = told["PENSTOCK_TEST_MINIO_URL"]
    assert await http_ok(f"{url}/minio/health/live")
    process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(process.wait, 20) == 0
    host, port = url.removeprefix("http://").split(":")
    assert not await connects(Address(host, int(port)))


@pytest.mark.components
def test_a_missing_part_skips_a_test_with_one_line(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path, "def test_it(minio): pass\n", PENSTOCK_TESTBED_CACHE=str(tmp_path / "cache"), PATH=str(tmp_path)
    )
    assert done.returncode == 0
    assert "minio: the Go toolchain is missing: install Go 1.26 or newer." in done.stdout


@pytest.mark.components
def test_a_part_that_does_not_start_fails_a_test_and_keeps_its_logs(tmp_path: Path) -> None:
    broken = tmp_path / "minio"
    broken.write_text("#!/bin/sh\necho the disk is on fire; exit 4\n")
    broken.chmod(0o755)
    done = run_pytest(tmp_path, "def test_it(minio): pass\n", PENSTOCK_TEST_MINIO=str(broken))
    assert done.returncode == 1
    assert "minio ended with 4 while starting" in done.stdout
    assert "the disk is on fire" in done.stdout
    kept = done.stdout.partition("last lines of ")[2].split()[0]
    assert Path(kept).read_text() == "the disk is on fire\n"


@pytest.mark.components
def test_a_test_that_needs_one_part_starts_one_part(tmp_path: Path) -> None:
    # The namespaces are the bed's network, which MinIO listens on for pods.
    test = """
def test_it(bed, minio):
    assert {log.stem for log in bed.logs.iterdir()} - {"namespaces"} == {"guardian", "minio"}
"""
    done = run_pytest(tmp_path, test)
    assert done.returncode == 0, done.stdout


@pytest.mark.components
def test_without_privileges_all_but_the_node_runs(tmp_path: Path) -> None:
    """As root without any capability, which is what a normal user has."""
    test = """
def test_plain(minio, kafka, kwok, prometheus):
    assert minio.bed.run(minio.bed.uplink()) is None
    names = minio.bed.run(kwok.add_nodes(2))
    assert len(names) == 2

def test_node(node):
    pass
"""
    (tmp_path / "test_it.py").write_text(test)
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    argv = [*without, sys.executable, "-m", "pytest", "-rs", "-p", "tests.testbed.fixtures", "-p", "no:cacheprovider"]
    options = ["-o", "asyncio_mode=auto", "-c", os.devnull, f"--rootdir={tmp_path}", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(argv + options, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert "1 passed, 1 skipped" in done.stdout, done.stdout
    how = ARTIFACTS["root"].how
    assert f"node: root with network namespaces is missing: {how}." in done.stdout
