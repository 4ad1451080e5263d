"""The comparison that must hold: on every load, no more energy than CLUES's policy at no worse a p95 of waiting.

The loads are three made-up kinds (`generate`) and one that was recorded from a run on a real API server and scheduler.
"""

from __future__ import annotations

from importlib.resources import files

from msgspec.structs import replace

from scaler.simulate.report import Report
from scaler.simulate.trace import Trace, parse_csv

#: Twenty alike machines of 8 processors, for when no pools are given; all else is the product's default.
EXAMPLE_POOLS: dict[str, object] = {
    "pools": [
        {
            "name": "cpu",
            "hosts": [f"node-{number:02}" for number in range(1, 21)],
            "resources": {"cpu": 8, "memory": "32Gi"},
            "power": {"off": 5, "boot": 150, "idle": 100, "max": 250},
            "boot": 120,
        }
    ]
}


def recorded() -> Trace:
    """The recorded load; how it was made stands in its first lines."""
    text = files("scaler.simulate").joinpath("recorded.csv").read_text(encoding="utf-8")
    lines = text.splitlines()
    about = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    jobs, left_out = parse_csv(lines)
    jobs.sort(key=lambda job: job.submit_ms)
    # What a person started is over in hours; the comparison is of what happens while it lasts.
    first = jobs[0].submit_ms
    moved = tuple(replace(job, submit_ms=job.submit_ms - first) for job in jobs)
    return Trace(name="recorded", jobs=moved, left_out=left_out, about=about)


def shortfalls(report: Report) -> list[str]:
    """Where CLUES's policy did better: on energy, or on the 95th percentile of waiting."""
    ours, theirs = report.of("penstock"), report.of("clues")
    found = []
    if ours.kwh > theirs.kwh:
        found.append(f"{report.trace}: {ours.kwh:.1f} kWh against {theirs.kwh:.1f} of CLUES")
    if ours.wait_p95_s > theirs.wait_p95_s:
        found.append(f"{report.trace}: p95 wait {ours.wait_p95_s:.0f} s against {theirs.wait_p95_s:.0f} s of CLUES")
    return found
