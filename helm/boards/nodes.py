"""Whether there is room, what the scaler does, and whether it sees everything."""

from __future__ import annotations

from helm.boards.queries import NS, highest, per_second, spread, total
from helm.panels import Dashboard, Panel


def dashboard() -> Dashboard:
    return Dashboard(
        uid="penstock-nodes",
        title="Penstock / Nodes and energy",
        rows={
            "Room": _room(),
            "Decisions": _decisions(),
            "Energy and cost": _energy(),
            "Health": _health(),
        },
    )


def _room() -> list[Panel]:
    return [
        Panel(
            title="Processors in use",
            why="Of what may be in use by Jobs.",
            queries={
                f"{total('penstock_cpu_millis_used')} / 1000": "in use",
                f"{total('penstock_cpu_millis')} / 1000": "may be in use",
            },
            width=12,
        ),
        Panel(
            title="Nodes by state",
            why="on and idle cost power; off and absent do not.",
            queries={total("penstock_scaler_nodes", "state"): "{{state}}"},
            width=12,
            stack=True,
        ),
    ]


def _decisions() -> list[Panel]:
    return [
        Panel(
            title="Orders to drivers",
            why="What was ordered, and how it was answered. lost = no answer.",
            queries={per_second("penstock_scaler_orders_total", "kind, outcome"): "{{kind}} {{outcome}}"},
            unit="ops",
        ),
        Panel(
            title="Work that no order serves",
            why="hopeless = no pool has a node that it would fit on.",
            queries={total("penstock_scaler_unhelped", "hopeless"): "hopeless: {{hopeless}}"},
        ),
        Panel(
            title="Time of a decision",
            why="With looking and writing.",
            queries=spread("penstock_scaler_decision_seconds"),
            unit="s",
        ),
    ]


def _energy() -> list[Panel]:
    return [
        Panel(
            title="Power",
            why="By the power models of the pools. Beside it: the same pools always on.",
            queries={
                per_second("penstock_scaler_energy_joules_total", "pool"): "{{pool}}",
                per_second("penstock_scaler_baseline_energy_joules_total"): "always on",
            },
            unit="watt",
            width=12,
        ),
        Panel(
            title="Cost per hour",
            why="At the prices of the pools, and what the same pools would cost always on.",
            queries={
                f"{per_second('penstock_scaler_money_total', 'pool')} * 3600": "{{pool}}",
                f"{per_second('penstock_scaler_baseline_money_total')} * 3600": "always on",
            },
            width=12,
        ),
    ]


def _health() -> list[Panel]:
    return [
        Panel(
            title="Age of what is seen",
            why="Old or incomplete: the scaler switches nothing off until that ends. -1 = never seen.",
            queries={highest("penstock_scaler_view_age_seconds", "view"): "{{view}}"},
            unit="s",
        ),
        Panel(
            title="Complete views",
            why="1 = all of it is seen.",
            queries={f"min by (view) (penstock_scaler_view_complete{{{NS}}})": "{{view}}"},
        ),
        Panel(
            title="Alarms, and failures of pools in a row",
            why="An alarm freezes removals. A pool that fails is backed off from.",
            queries={
                highest("penstock_scaler_alarms"): "alarms",
                highest("penstock_scaler_pool_failures", "pool"): "{{pool}}",
            },
        ),
    ]
