"""Penstock is killed with SIGKILL, anywhere: every item gets one success, nothing runs on, extra runs are bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.directory import DirectoryStore
from penstock.model import SYSTEM_BUCKET
from penstock.model.objects import log_key
from tests.process_runner.support import eventually, is_alive, left_over, left_running

#: Jobs at once in the host.
SLOTS = 2


class Lives:
    """The host program and what it left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.process_runner.crash_host", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.crashes = 0

    def start(self, die_before: int = 0) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{die_before}\n")
        self.process.stdin.flush()
        return int(self._word("started"))

    def wait(self) -> int:
        code = int(self._word("ended"))
        self.crashes += code == -signal.SIGKILL
        return code

    def _word(self, wanted: str) -> str:
        assert self.process.stdout is not None
        word, value = self.process.stdout.readline().split()
        assert word == wanted
        return value

    def records(self) -> list[dict[str, Any]]:
        path = self.folder / "records"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def runs(self) -> list[str]:
        path = self.folder / "runs"
        return path.read_text().split() if path.exists() else []

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    made = Lives(tmp_path)
    yield made
    made.close()
    for line in left_running(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line.split()[0]), signal.SIGKILL)


async def fill(folder: Path, items: int) -> list[str]:
    store = DirectoryStore(folder / "buckets", settle_s=0)
    for bucket in ("pictures", "results"):
        await store.create_bucket(bucket)
    keys = [f"p{number:02}" for number in range(items)]
    for key in keys:
        await store.write("pictures", key, key.encode())
    await store.close()
    return keys


async def check(lives: Lives, keys: list[str]) -> None:
    """What must hold however often it was killed."""
    successes = {(record["invocation"], record["attempt"]) for record in lives.records() if record["error"] is None}
    assert sorted(invocation for invocation, _ in successes) == keys
    failures = {str(record["error"]) for record in lives.records()} - {"None", "lost"}
    assert failures == set()
    store = DirectoryStore(lives.folder / "buckets", settle_s=0)
    for key in keys:
        content = b"".join([chunk async for chunk in store.read("results", f"out/{key}")])
        assert content == key.encode()
    attempts = {record["invocation"]: record for record in lives.records() if record["error"] is None}
    for key in keys:
        record = attempts[key]
        assert [output[0] for output in record["outputs"]] == [f"out/{key}"]
        kept = store.read(SYSTEM_BUCKET, log_key("u", key, record["attempt"]))
        log = b"".join([chunk async for chunk in kept])
        assert log == f"log of {key}\n".encode()
    await store.close()
    runs = Counter(lives.runs())
    assert sorted(runs) == keys
    assert runs.total() - len(keys) <= lives.crashes * SLOTS
    await eventually(lambda: left_running(lives.folder) == [])
    assert left_over(lives.folder) == []


async def test_a_kill_before_any_change_to_the_disk_loses_nothing(lives: Lives) -> None:
    """One life after the other, each killed some changes later than the one before: together they cover every step."""
    keys = await fill(lives.folder, 12)
    step = 1
    while lives.start(step) and lives.wait() != 0:
        step += 2 if step < 60 else 7
        assert lives.crashes < 200
    assert lives.crashes >= 20
    await check(lives, keys)
    # The launchers outlive the host, so what ran was adopted: nothing had to run again.
    assert len(lives.runs()) - len(keys) <= SLOTS


@pytest.mark.parametrize("all_die", [False, True], ids=["host-alone", "scripts-too"])
async def test_kills_at_random_moments_lose_nothing(lives: Lives, *, all_die: bool) -> None:
    keys = await fill(lives.folder, 60)
    chance = random.Random(7)
    while True:
        pid = lives.start()
        if lives.crashes < 15:
            await asyncio.sleep(chance.uniform(0.02, 0.2))  # the moment of the kill is what is varied
            victims = [int(line.split()[0]) for line in left_running(lives.folder)] if all_die else []
            for victim in (pid, *victims):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            # What is still dying when the next life looks would be adopted and then be found killed.
            await eventually(lambda victims=victims: not any(map(is_alive, victims)))  # type: ignore[misc]
        if lives.wait() == 0:
            break
    assert lives.crashes >= 8
    await check(lives, keys)
