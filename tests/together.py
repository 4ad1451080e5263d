"""Runs the whole suite as `make test` does: three pytest processes side by side, each with a bed of its own.

    python -m tests.together [PYTEST OPTION...]

Tests on real servers mostly wait (for pods, leases, time-outs), so one process would leave the machine idle for most of
an hour. Every test belongs to exactly one part; a test proves it. Lines carry their part's name as they come, and at
the end the parts' summaries stand below one another. The exit code is that of the first part that failed.

Time-outs of real servers are hit now and then by nothing but the company on a small machine. So when all lanes have
ended, the few tests that failed run once more, by themselves. One that fails again is a failure; one that passes is
named at the end, and is a race to look into if it is named often.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
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

#: More failures than this are no accident and are not run again.
AGAIN = 12
#: pytest's exit code for tests that failed, and for none that were selected: right for a part the options leave out.
_FAILED, _NONE = 1, 5

_WORDS = ("failed", "error", "passed", "skipped", "xfailed", "xpassed")
_NAMED = re.compile(r"(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$")
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
    """How a part ended: exit code, last line, and the names of the tests that failed."""

    code: int
    line: str
    failed: tuple[str, ...] = ()


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
    with tempfile.TemporaryDirectory(prefix="penstock-suite-") as kept:
        threads = [threading.Thread(target=_lane, args=(lane, options, kept, ended)) for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        again = _alone([part for lane in lanes for part in lane], options, kept, ended)
    for name, one in ended.items():
        say(f"{name:>9} : {one.line}")
    for name, one in again.items():
        say(f"{name:>9} : {one.line} (again, alone)")
        for test in ended[name].failed:
            say(f"{name:>9} : {'FAILED TWICE' if test in one.failed else 'passed alone'} {test}")
    say(f"==== {together([one.line for one in ended.values()])} in {time.monotonic() - began:.2f}s ====")
    last = ended | again
    return next((one.code for one in last.values() if one.code not in {0, _NONE}), 0)


def _alone(parts: Sequence[Part], options: Sequence[str], kept: str, ended: dict[str, Ended]) -> dict[str, Ended]:
    """What failed, once more, one part after the other; by part."""
    wanted = [part for part in parts if ended[part.name].code == _FAILED]
    if sum(len(ended[part.name].failed) for part in wanted) > AGAIN:
        return {}
    for part in wanted:
        say(f"{part.name:>9} : {len(ended[part.name].failed)} failed in company; once more, alone")
    only = ["--last-failed", "--last-failed-no-failures", "none"]
    return {part.name: _run(part, [*options, *only], kept) for part in wanted}


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


def _lane(parts: Sequence[Part], options: Sequence[str], kept: str, ended: dict[str, Ended]) -> None:
    for part in parts:
        ended[part.name] = _run(part, options, kept)


def _run(part: Part, options: Sequence[str], kept: str) -> Ended:
    """`kept` = where pytest remembers what failed."""
    memory = ["-o", f"cache_dir={kept}/{part.name}"]
    words = [sys.executable, "-m", "pytest", "-q", *memory, *options, *part.words()]
    last, failed = "said nothing", []
    with subprocess.Popen(
        words, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if text := line.rstrip():
                last = text
                failed += _NAMED.findall(text)
                say(f"{part.name:>9} | {text}")
    return Ended(process.returncode, last, tuple(dict.fromkeys(failed)))


if __name__ == "__main__":
    sys.exit(run(LANES, sys.argv[1:]))
