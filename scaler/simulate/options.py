"""What a simulation is asked, and the jobs that this comes down to. Values only: they may go to another process."""

from __future__ import annotations

import msgspec

from scaler.pools import Fleet, capacity
from scaler.simulate.clues import CluesOptions
from scaler.simulate.trace import Job, Trace, joined


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


def jobs_of(options: SimulationOptions) -> list[Job]:
    """The trace's jobs as pods that fit the pools' nodes."""
    return list(joined(options.trace.jobs, [capacity(pool) for pool in options.fleet.pools]))
