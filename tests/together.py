"""Runs the whole suite as `make test` does: three pytest processes side by side, each with a bed of its own.

    python -m tests.together [PYTEST OPTION...]

Tests on real servers mostly wait (for pods, leases, time-outs), so one process would leave the machine idle for most of
an hour. Every test belongs to exactly one part; a test proves it. Lines carry their part's name as they come, and at
the end the parts' summaries stand below one another. The exit code is that of the first part that failed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
#: What installs whole products on a cluster.
INSTALLED = ("production", "production_gateway", "oscar_production", "resident", "helm")
#: Services of ours as processes, between real servers.
SERVICES = ("dispatcher_service", "watcher", "oscar", "gateway", "scaler", "observability")

_WORDS = ("failed", "error", "passed", "skipped", "xfailed", "xpassed")
_COUNT = re.compile(r"(\d+) (failed|errors?|passed|skipped|xfailed|xpassed)\b")


class Part(NamedTuple):
    name: str
    #: pytest's -m
    marks: str
    #: Folders of `tests` that it covers; none = all but those in `apart`.
    folders: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()

    def words(self) -> list[str]:
        paths = [str(HERE / folder) for folder in self.folders if (HERE / folder).is_dir()] or [str(HERE)]
        return ["-m", self.marks, *paths, *(f"--ignore={HERE / folder}" for folder in self.apart)]


class Ended(NamedTuple):
    """How a part ended: exit code and last line."""

    code: int
    line: str


_SERVERS = "components and not endurance"
FAST = Part("fast", "not components and not endurance")
INSTALLS = Part("installed", _SERVERS, INSTALLED)
RUNS = Part("services", _SERVERS, SERVICES)
REST = Part("servers", _SERVERS, apart=(*INSTALLED, *SERVICES))
#: Each lane runs its parts one after the other, beside the other lanes.
LANES = ((INSTALLS,), (RUNS,), (FAST, REST))


def run(lanes: Sequence[Sequence[Part]], options: Sequence[str]) -> int:
    """All lanes at once; returns the exit code."""
    began = time.monotonic()
    ended: dict[str, Ended] = {}
    threads = [threading.Thread(target=_lane, args=(lane, options, ended)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, (_, line) in ended.items():
        say(f"{name:>9} : {line}")
    say(f"==== {together([line for _, line in ended.values()])} in {time.monotonic() - began:.2f}s ====")
    # 5 = no test was selected, which is right for a part that the options leave out.
    return next((code for code, _ in ended.values() if code not in {0, 5}), 0)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def together(lines: Sequence[str]) -> str:
    """pytest's summaries added up: `3 failed, 12 passed`."""
    total: Counter[str] = Counter()
    for line in lines:
        for count, word in _COUNT.findall(line):
            total[word.rstrip("s") if word.startswith("error") else word] += int(count)
    return ", ".join(f"{total[word]} {word}" for word in _WORDS if total[word]) or "no tests ran"


def _lane(parts: Sequence[Part], options: Sequence[str], ended: dict[str, Ended]) -> None:
    for part in parts:
        ended[part.name] = _run(part, options)


def _run(part: Part, options: Sequence[str]) -> Ended:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *part.words()]
    last = "said nothing"
    with subprocess.Popen(
        words, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if text := line.rstrip():
                last = text
                say(f"{part.name:>9} | {text}")
    return Ended(process.returncode, last)


if __name__ == "__main__":
    sys.exit(run(LANES, sys.argv[1:]))
