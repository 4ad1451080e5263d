"""What a simulation found, as figures for programs and as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from scaler.simulate.world import World

_HOUR_MS = 3_600_000


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One way of switching machines on one trace. Waits are seconds from submission to start."""

    policy: str
    jobs: int
    #: Jobs that never started.
    unstarted: int
    wait_p50_s: float
    wait_p95_s: float
    wait_max_s: float
    wait_mean_s: float
    #: Share of jobs that waited at all.
    waited_share: float
    node_hours: float
    idle_node_hours: float
    kwh: float
    #: Paid node-hours at the pools' prices plus energy at its price.
    money: float
    power_cycles: int
    cycles_per_node_day: float
    #: 1 - kWh / kWh of the same machines always on.
    saved_share: float = 0.0
    decisions: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    trace: str
    about: str
    jobs: int
    left_out: int
    hours: float
    outcomes: tuple[Outcome, ...]

    def of(self, policy: str) -> Outcome:
        return next(outcome for outcome in self.outcomes if outcome.policy == policy)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed; 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def outcome_of(world: World, jobs: int, *, energy_price: float, decisions: int) -> Outcome:
    waits = sorted(wait / 1000 for wait in world.waits_ms)
    kwh = sum(machine.energy_j for machine in world.machines) / 3.6e6
    paid = sum(world.paid_ms(machine) / _HOUR_MS * machine.pool.price_per_hour for machine in world.machines)
    cycles = sum(machine.boots for machine in world.machines)
    days = max(world.now, 1) / 86_400_000
    return Outcome(
        policy=world.controller.name,
        jobs=len(waits),
        unstarted=jobs - len(waits),
        wait_p50_s=percentile(waits, 0.5),
        wait_p95_s=percentile(waits, 0.95),
        wait_max_s=waits[-1] if waits else 0.0,
        wait_mean_s=sum(waits) / len(waits) if waits else 0.0,
        waited_share=sum(wait > 0 for wait in waits) / len(waits) if waits else 0.0,
        node_hours=sum(machine.on_ms for machine in world.machines) / _HOUR_MS,
        idle_node_hours=sum(machine.idle_ms for machine in world.machines) / _HOUR_MS,
        kwh=kwh,
        money=paid + kwh * energy_price,
        power_cycles=cycles,
        cycles_per_node_day=cycles / len(world.machines) / days,
        decisions=decisions,
    )


_COLUMNS = (
    ("policy", lambda one: one.policy),
    ("p50 wait", lambda one: f"{one.wait_p50_s:.0f} s"),
    ("p95 wait", lambda one: f"{one.wait_p95_s:.0f} s"),
    ("max wait", lambda one: f"{one.wait_max_s:.0f} s"),
    ("waited", lambda one: f"{one.waited_share:.1%}"),
    ("node-hours", lambda one: f"{one.node_hours:,.0f}"),
    ("kWh", lambda one: f"{one.kwh:,.1f}"),
    ("saved", lambda one: f"{one.saved_share:.1%}"),
    ("money", lambda one: f"{one.money:,.2f}"),
    ("cycles", lambda one: f"{one.power_cycles:,}"),
    ("cycles/node-day", lambda one: f"{one.cycles_per_node_day:.2f}"),
)


def table(report: Report) -> str:
    rows = [[name for name, _ in _COLUMNS]]
    rows += [[text(outcome) for _, text in _COLUMNS] for outcome in report.outcomes]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [f"{report.trace}: {report.jobs:,} jobs in {report.hours:,.0f} h. {report.about}"]
    if report.left_out:
        lines.append(f"{report.left_out:,} lines of the trace describe no run and were left out.")
    for row in rows:
        first = row[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join((first, *rest)))
    lines += [
        f"{outcome.policy}: {outcome.unstarted:,} jobs never started"
        for outcome in report.outcomes
        if outcome.unstarted
    ]
    return "\n".join(lines)
