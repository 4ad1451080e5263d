"""The settings of the scaler as a service. What it scales is in the file of pools. Apart only because of the length."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from penstock.settings_production import ProductionGroup


class ScalerGroup(ProductionGroup):
    """`python -m scaler`: how nodes come and go."""

    pools: Path = Path("/etc/penstock/pools.yaml")
    """The file of pools, options and drivers (docs/how-to/node-drivers.md)."""
    state: str = "penstock-scaler"
    """Name of the ConfigMap that holds the scaler's state, and of its Lease; in the Leases' namespace."""
    lease: bool = True
    """Hold a Lease while acting, so that a second scaler stands by. Off saves one write each 2 s where there is one."""
    backlog: bool = True
    """Read the dispatcher's backlog (needs kafka.servers), so that nodes start before pods pile up. Off = only pods."""
    listen: str = ""
    """Host and port of the REST interface for nodes, which the gateway asks. Empty = there is none."""
    token_file: Path | None = None
    """File with the word that callers of that interface must show. Read again whenever it is asked for."""
    batch_idle_s: float = Field(default=1.0, gt=0)
    """Seconds without a further unschedulable pod after which is decided: a burst is one decision."""
    batch_max_s: float = Field(default=10.0, gt=0)
    """Seconds from the first unschedulable pod after which is decided at the latest."""
    settle_s: float = Field(default=3.0, ge=1)
    """Seconds from a cordon to the last look: longer than a scheduler needs to hear of the cordon."""
    evict_s: float = Field(default=120.0, ge=0)
    """Seconds for which evictions that disruption budgets refuse are tried; then the node stays."""
    ledger: bool = True
    """Keep the books of energy and money, in a ConfigMap of their own."""
    energy_price: float = Field(default=0.0, ge=0)
    """Price of a kWh, for the books. 0: they then count energy and the pools' own prices alone."""
