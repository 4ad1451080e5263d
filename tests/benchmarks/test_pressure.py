"""What the machine's own count of waiting says."""

from __future__ import annotations

from pathlib import Path

from benchmarks.pressure import Pressure, pressure


def test_what_the_kernel_writes_is_read_in_milliseconds(tmp_path: Path) -> None:
    line = "{} avg10=0.00 avg60=1.50 avg300=0.10 total={}\n"
    (tmp_path / "cpu").write_text(line.format("some", 2_500) + line.format("full", 0))
    (tmp_path / "io").write_text(line.format("some", 1_000_000) + line.format("full", 900_000))
    assert pressure(tmp_path) == Pressure(2.5, 1000.0)


def test_a_kernel_that_does_not_count_it_says_nothing(tmp_path: Path) -> None:
    assert pressure(tmp_path / "pressure") is None


def test_what_came_since_is_the_difference() -> None:
    assert Pressure(10.0, 5.0).since(Pressure(4.0, 5.0)) == Pressure(6.0, 0.0)
