"""What beds leave behind, and how it is told from what a living bed uses.

A bed that was killed leaves its logs on purpose. Only if the guardian itself was killed as well can more be left:
a folder, and mounts below it. A living bed's folder is locked by its guardian; `clean` takes the others.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from tests.testbed.paths import runs_folder

LOCK = "alive"


def lock_folder(folder: Path) -> int:
    """Mark a bed's folder as in use, for as long as the returned descriptor or a copy of it is open."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def in_use(folder: Path) -> bool:
    """Whether a bed lives in the folder."""
    if not (folder / LOCK).exists():
        return False
    with (folder / LOCK).open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def mounts_below(folder: Path) -> list[Path]:
    """Mounts inside a folder, the innermost first."""
    fields = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = [Path(field[4]) for field in fields]
    return sorted((mount for mount in found if folder in mount.parents), reverse=True)


def remove_old_runs() -> int:
    """Remove the folders of beds that have ended; returns how many."""
    removed = 0
    for folder in runs_folder().iterdir():
        if in_use(folder):
            continue
        for mount in mounts_below(folder):
            subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)
        removed += 1
    return removed
