"""One simulation from options to report: every policy on the same trace, machines and power model, over the same
time.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from msgspec.structs import replace

from scaler.simulate.chart import chart
from scaler.simulate.options import SimulationOptions, jobs_of
from scaler.simulate.ours import Penstock
from scaler.simulate.report import Outcome, Report, outcome_of
from scaler.simulate.worker import Baselines, Worker, seldom_collected
from scaler.simulate.world import World

#: After the last job, long enough for idle nodes to go.
_TAIL_MS = 2 * 3_600_000
#: With fewer jobs a second process costs more than it saves.
PARALLEL_FROM = 20_000


def simulate(options: SimulationOptions) -> Report:
    """Run always on, CLUES and Penstock on the trace. Deterministic: the same options give the same report."""
    return simulate_with_chart(options)[0]


def simulate_with_chart(options: SimulationOptions) -> tuple[Report, str]:
    """The report, and an SVG if the options ask for it (else "")."""
    jobs = jobs_of(options)
    with ExitStack() as stack:
        stack.enter_context(seldom_collected())
        baselines: Baselines | Worker
        # Started first, so that it runs beside the other.
        if len(jobs) >= PARALLEL_FROM and (os.cpu_count() or 1) > 1:
            baselines = stack.enter_context(Worker(options))
        else:
            baselines = Baselines(options, jobs)
        ours = Penstock(options.fleet)
        world = World(options.fleet, jobs, ours, pack=options.pack)
        world.run_out()
        # Energy is compared over the same time, until the slowest has done everything and its machines have gone.
        end = max(jobs[-1].submit_ms, baselines.run_out(), world.last_end_ms) + _TAIL_MS
        world.run_until(end)
        clues, always = baselines.finish(end)
    mine = outcome_of(world, len(jobs), energy_price=options.energy_price, decisions=ours.decisions)
    outcomes = (mine, clues.outcome, always.outcome)
    report = Report(
        trace=options.trace.name,
        about=options.trace.about,
        jobs=len(jobs),
        left_out=options.trace.left_out,
        hours=end / 3_600_000,
        outcomes=tuple(_with_savings(outcome, always.outcome.kwh) for outcome in outcomes),
    )
    if not options.chart:
        return report, ""
    samples = (world.samples, clues.samples, always.samples)
    series = [(outcome.policy, line) for outcome, line in zip(outcomes, samples, strict=True)]
    return report, chart(f"{options.trace.name}: machines not off", series, end)


def _with_savings(outcome: Outcome, baseline_kwh: float) -> Outcome:
    return replace(outcome, saved_share=1 - outcome.kwh / baseline_kwh if baseline_kwh else 0.0)
