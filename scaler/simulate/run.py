"""One simulation from options to report: every policy on the same trace, machines and power model, over the same
time.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from msgspec.structs import replace

from scaler.simulate.always_on import AlwaysOn
from scaler.simulate.chart import chart
from scaler.simulate.options import SimulationOptions, jobs_of
from scaler.simulate.ours import Penstock
from scaler.simulate.report import Outcome, Report, outcome_of
from scaler.simulate.worker import CluesRun, Worker, seldom_collected
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
        theirs: CluesRun | Worker
        # Started first, so that it runs beside the others.
        if len(jobs) >= PARALLEL_FROM and (os.cpu_count() or 1) > 1:
            theirs = stack.enter_context(Worker(options))
        else:
            theirs = CluesRun(options)
        ours, always = Penstock(options.fleet), AlwaysOn()
        worlds = [World(options.fleet, jobs, one, pack=options.pack) for one in (ours, always)]
        for world in worlds:
            world.run_out()
        # Energy is compared over the same time, until the slowest has done everything and its machines have gone.
        last = max(jobs[-1].submit_ms, theirs.run_out(), *(world.last_end_ms for world in worlds))
        end = last + _TAIL_MS
        for world in worlds:
            world.run_until(end)
        answer = theirs.finish(end)
    price = options.energy_price
    mine, baseline = (
        outcome_of(world, len(jobs), energy_price=price, decisions=decisions)
        for world, decisions in zip(worlds, (ours.decisions, 0), strict=True)
    )
    report = Report(
        trace=options.trace.name,
        about=options.trace.about,
        jobs=len(jobs),
        left_out=options.trace.left_out,
        hours=end / 3_600_000,
        outcomes=tuple(_with_savings(outcome, baseline.kwh) for outcome in (mine, answer.outcome, baseline)),
    )
    if not options.chart:
        return report, ""
    series = [(ours.name, worlds[0].samples), (answer.outcome.policy, answer.samples), (always.name, worlds[1].samples)]
    return report, chart(f"{options.trace.name}: machines not off", series, end)


def _with_savings(outcome: Outcome, baseline_kwh: float) -> Outcome:
    return replace(outcome, saved_share=1 - outcome.kwh / baseline_kwh if baseline_kwh else 0.0)
