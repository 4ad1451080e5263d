"""How one thing gets into the cache: once, whole, and however many runs ask for it at the same moment.

A build works in a folder beside its final place and is renamed into it at the end, so a folder that has the final name
is complete. A lock per artifact makes a second run wait for the first instead of compiling the same program twice.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.errors import BedError, log_tail
from tests.testbed.paths import cache_folder

Words = list[str | Path]


def say(line: str) -> None:
    """A progress line for the person who waits."""
    sys.stderr.write(f"testbed: {line}\n")
    sys.stderr.flush()


def announce(what: str, seconds: int) -> None:
    """Say what begins, and about how long it takes."""
    usual = f"about {seconds} s" if seconds < 90 else f"about {round(seconds / 60)} min"
    say(f"building {what} ({usual}) ...")


@dataclass(frozen=True)
class Job:
    """What a recipe gets to work with: the folder to fill and a log that is shown if it fails."""

    name: str
    folder: Path
    log: Path

    def run(self, argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        """Run one command at low priority (somebody works on this machine); its output goes to the log."""
        command = ["nice", "-n", "10", *map(str, argv)]
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            done = subprocess.run(
                command,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode != 0:
            raise BedError(
                f"Building {self.name} failed: {argv[0]} ended with {done.returncode}.\n{log_tail(self.log)}"
            )


def output_of(argv: Sequence[str | Path]) -> str:
    """What a command prints; its complaint becomes the error."""
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BedError(f"{argv[0]} ended with {done.returncode}: {done.stderr.strip()[-500:] or done.stdout[-500:]}")
    return done.stdout


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the artifact's lock, saying so if somebody else has it."""
    folder = cache_folder() / ".locks"
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another run is building {name}; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_into_cache(key: str, what: str, seconds: int, recipe: Callable[[Job], None]) -> Path:
    """The finished cache folder `key`, built now if need be."""
    final = cache_folder() / key
    if final.is_dir():
        return final
    with locked(key):
        if final.is_dir():
            return final
        announce(what, seconds)
        started = time.monotonic()
        draft = cache_folder() / f".draft-{key}-{os.getpid()}"
        logs = cache_folder() / ".logs"
        logs.mkdir(exist_ok=True)
        job = Job(key, draft, logs / f"{key}.log")
        job.log.unlink(missing_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            recipe(job)
            draft.rename(final)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        say(f"built {what} in {time.monotonic() - started:.0f} s")
    return final
