"""An append is synced to disk before it is acknowledged: looked at from outside, in the system calls of a process."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.adapters.sqlite import SqliteEventLog
from penstock.ports import LogEntry

APPENDS = 25
#: With -y, strace names the file behind each descriptor: pwrite64(5</data/log.db-wal>, ...) = 4096.
_CALL = re.compile(r"(?P<call>\w+)\((?P<fd>\d+)<(?P<file>[^>]*)>(?P<rest>.*)")


async def append_and_acknowledge(path: str) -> None:
    log = await SqliteEventLog.open(path)
    for number in range(APPENDS):
        await log.append("topic", [LogEntry("key", b"value %d" % number)])
        sys.stdout.write(f"ACK {number}\n")
        sys.stdout.flush()
    await log.close()


def traced(folder: Path) -> list[str]:
    strace = shutil.which("strace")
    if strace is None:
        pytest.fail("strace is not installed: this test needs it to see when the log is synced")
    trace = folder / "trace"
    calls = "trace=fsync,fdatasync,write,pwrite64"
    command = [strace, "-f", "-y", "-s", "32", "-e", calls, "-o", str(trace), sys.executable, "-m", __name__]
    done = subprocess.run([*command, str(folder / "log.db")], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"ACK {number}" for number in range(APPENDS)]
    return trace.read_text(errors="replace").splitlines()


def test_the_log_is_synced_between_each_append_and_its_acknowledgement(tmp_path: Path) -> None:
    written = synced = False
    acknowledged = 0
    for line in traced(tmp_path):
        call = _CALL.search(line)
        if call is None:
            continue
        name, file = call["call"], call["file"]
        if name == "pwrite64" and file.endswith("log.db-wal"):
            written, synced = True, False
        elif name in {"fsync", "fdatasync"} and file.endswith("log.db-wal"):
            synced = True
        elif name == "write" and f'"ACK {acknowledged}\\n"' in call["rest"]:
            assert written, f"append {acknowledged} was acknowledged before it was written"
            assert synced, f"append {acknowledged} was acknowledged before it was synced"
            acknowledged += 1
            written = synced = False
    assert acknowledged == APPENDS


def test_the_name_of_a_new_log_is_synced_too(tmp_path: Path) -> None:
    assert any("sync(" in line and f"<{tmp_path}>" in line for line in traced(tmp_path))


if __name__ == "__main__":
    asyncio.run(append_and_acknowledge(sys.argv[1]))
