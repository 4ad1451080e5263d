"""`penstock simulate`: what a trace of jobs would cost, in waiting, energy and money, under a configuration of pools.

A discrete-event simulation in which the real decision engine switches the machines, beside the same machines always on
and beside a model of CLUES's default policy.
"""

from scaler.simulate.options import SimulationOptions
from scaler.simulate.report import Outcome, Report, table
from scaler.simulate.run import simulate, simulate_with_chart
from scaler.simulate.trace import Job, Trace, read_trace

__all__ = [
    "Job",
    "Outcome",
    "Report",
    "SimulationOptions",
    "Trace",
    "read_trace",
    "simulate",
    "simulate_with_chart",
    "table",
]
