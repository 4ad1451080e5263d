"""What all benchmarks share: the machine's description, a table for people, one JSON line for programs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.deadlines import Stalled


@dataclass(frozen=True)
class Figure:
    """One measured number and what it is held against."""

    key: str
    value: float
    unit: str = ""
    #: What the product promises, as text: ">= 0.9", "< 50".
    target: str = ""
    #: The limit or peer measured in the same run, in words.
    beside: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the promise holds; None = nothing was promised."""
        if not self.target:
            return None
        word, bound = self.target.split()
        tests: dict[str, Callable[[float, float], bool]] = {
            ">=": lambda value, limit: value >= limit,
            "<=": lambda value, limit: value <= limit,
            "<": lambda value, limit: value < limit,
            "=": lambda value, limit: value == limit,
        }
        return tests[word](self.value, float(bound))


@dataclass
class Report:
    benchmark: str
    small: bool
    #: Leave out what needs a million of something, which takes most of the time.
    skip_million: bool = False
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, key: str, value: float, unit: str = "", *, target: str = "", beside: str = "") -> None:
        figure = Figure(key, round(value, 4), unit, target, beside)
        self.figures.append(figure)
        print(f"  {figure.key:32} {figure.value:>12g} {unit:10} {verdict(figure)}  {beside}", flush=True)

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(f"  {text}", flush=True)

    def as_json(self) -> str:
        return json.dumps(
            {
                "benchmark": self.benchmark,
                "machine": machine(),
                "small": self.small,
                "figures": {figure.key: figure.value for figure in self.figures},
                "targets": {figure.key: figure.target for figure in self.figures if figure.target},
                "units": {figure.key: figure.unit for figure in self.figures},
                "beside": {figure.key: figure.beside for figure in self.figures if figure.beside},
                "notes": self.notes,
            }
        )


def verdict(figure: Figure) -> str:
    if figure.met is None:
        return ""
    return f"{'met' if figure.met else 'MISSED'} ({figure.target})"


def machine() -> dict[str, object]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processors": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "model": _processor(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main(name: str, run: Callable[[Report], None]) -> None:
    """Run one benchmark from the command line: a table, then one JSON object as the last line."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--small", action="store_true", help="a quick run: the same steps on less")
    parser.add_argument("--skip-million", action="store_true", help="leave out the figures with a million items")
    options = parser.parse_args()
    report = Report(name, small=options.small, skip_million=options.skip_million)
    print(f"{name}{' (small)' if options.small else ''}: {machine()}", flush=True)
    try:
        run(report)
    except Stalled as error:
        sys.exit(f"the benchmark {name} was given up: {error}")
    print(report.as_json(), flush=True)
    sys.exit(0)


def median(values: list[float]) -> float:
    return statistics.median(values)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
