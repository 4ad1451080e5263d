"""What a machine had no time for: how long something waited for a processor or for the disk, as Linux counts it.

A tail of milliseconds on a machine that others use too says little by itself. If something waited for a processor all
the while, the tail is the company's; if nothing did, it is ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PLACE = Path("/proc/pressure")


class Pressure(NamedTuple):
    """Milliseconds since the start of the machine in which at least one task waited."""

    processor: float
    disk: float

    def since(self, before: Pressure) -> Pressure:
        return Pressure(self.processor - before.processor, self.disk - before.disk)


def pressure(place: Path = PLACE) -> Pressure | None:
    """None = this kernel does not count it."""
    try:
        return Pressure(_waited(place / "cpu"), _waited(place / "io"))
    except OSError:
        return None


def _waited(file: Path) -> float:
    """From `some avg10=0.00 avg60=0.00 avg300=0.00 total=123`, in microseconds."""
    some = next(line for line in file.read_text(encoding="ascii").splitlines() if line.startswith("some "))
    return int(some.rpartition("total=")[2]) / 1000
