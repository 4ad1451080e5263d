"""One simulation from options to report: every policy on the same trace, machines and power model, over the same
time.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from scaler.pools import Fleet, capacity
from scaler.simulate.always_on import AlwaysOn
from scaler.simulate.chart import chart
from scaler.simulate.clues import CluesOptions
from scaler.simulate.ours import Penstock
from scaler.simulate.report import Outcome, Report, outcome_of
from scaler.simulate.theirs import Clues
from scaler.simulate.trace import Trace, joined
from scaler.simulate.world import World

#: After the last job, long enough for idle nodes to go.
_TAIL_MS = 2 * 3_600_000


class SimulationOptions(msgspec.Struct, frozen=True, kw_only=True):
    trace: Trace
    fleet: Fleet
    clues: CluesOptions = CluesOptions()
    #: Per kWh, added to what the machines cost.
    energy_price: float = 0.0
    #: The scheduler packs nodes rather than spreading over them.
    pack: bool = False
    #: Draw a chart too.
    chart: bool = False


def simulate(options: SimulationOptions) -> Report:
    """Run always on, CLUES and Penstock on the trace. Deterministic: the same options give the same report."""
    return simulate_with_chart(options)[0]


def simulate_with_chart(options: SimulationOptions) -> tuple[Report, str]:
    """The report, and an SVG if the options ask for it (else "")."""
    jobs = list(joined(options.trace.jobs, [capacity(pool) for pool in options.fleet.pools]))
    ours, theirs = Penstock(options.fleet), Clues(options.clues)
    worlds = [World(options.fleet, jobs, one, pack=options.pack) for one in (ours, theirs, AlwaysOn())]
    for world in worlds:
        world.run_out()
    # Energy is compared over the same time, until the slowest has done everything and its machines have gone.
    last_submit = jobs[-1].submit_ms
    end = max(last_submit, *(world.last_end_ms for world in worlds)) + _TAIL_MS
    for world in worlds:
        world.run_until(end)
    decisions = {ours.name: ours.decisions, theirs.name: theirs.passes}
    outcomes = [
        outcome_of(
            world,
            len(jobs),
            energy_price=options.energy_price,
            decisions=decisions.get(world.controller.name, 0),
        )
        for world in worlds
    ]
    report = Report(
        trace=options.trace.name,
        about=options.trace.about,
        jobs=len(jobs),
        left_out=options.trace.left_out,
        hours=end / 3_600_000,
        outcomes=tuple(_with_savings(outcome, outcomes[-1].kwh) for outcome in outcomes),
    )
    if not options.chart:
        return report, ""
    series = [(world.controller.name, world.samples) for world in worlds]
    return report, chart(f"{options.trace.name}: machines not off", series, end)


def _with_savings(outcome: Outcome, baseline_kwh: float) -> Outcome:
    return replace(outcome, saved_share=1 - outcome.kwh / baseline_kwh if baseline_kwh else 0.0)
