"""Runs the whole suite as `make test` does: several pytest processes side by side, each with a bed of its own.

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


PARTS = (
    Part("fast", "not components"),
    Part("installed", "components", INSTALLED),
    Part("services", "components", SERVICES),
    Part("servers", "components", apart=(*INSTALLED, *SERVICES)),
)


def run(parts: Sequence[Part], options: Sequence[str]) -> int:
    """All parts at once; returns the exit code."""
    began = time.monotonic()
    said: dict[str, list[str]] = {part.name: [] for part in parts}
    running = [(part, _start(part, options)) for part in parts]
    readers = [threading.Thread(target=_follow, args=(part, process, said[part.name])) for part, process in running]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    codes = [process.wait() for _, process in running]
    last = [said[part.name][-1] if said[part.name] else "said nothing" for part in parts]
    for part, line in zip(parts, last, strict=True):
        say(f"{part.name:>9} : {line}")
    say(f"==== {together(last)} in {time.monotonic() - began:.2f}s ====")
    # 5 = no test was selected, which is right for a part that the options leave out.
    return next((code for code in codes if code not in {0, 5}), 0)


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


def _start(part: Part, options: Sequence[str]) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *part.words()]
    return subprocess.Popen(words, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _follow(part: Part, process: subprocess.Popen[str], said: list[str]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            text = line.rstrip()
            if text:
                said.append(text)
                say(f"{part.name:>9} | {text}")


if __name__ == "__main__":
    sys.exit(run(PARTS, sys.argv[1:]))
