"""When the engine must not act: stale or incomplete views, and too many nodes lost at once (C1). Pure."""

from __future__ import annotations

import msgspec

from scaler.model import UNKNOWN, Snapshot
from scaler.observe import fresh
from scaler.pools import Fleet, Pool
from scaler.states import READY


class Verdict(msgspec.Struct, frozen=True):
    """What is forbidden now, each with its reason; "" = allowed."""

    #: Any order at all.
    all: str = ""
    #: Any order to a pool of this driver.
    drivers: dict[str, str] = {}
    #: Every removal.
    removals: str = ""
    #: The backlog must not be used.
    backlog: str = ""

    def wake(self, pool: Pool) -> str:
        return self.all or self.drivers.get(pool.driver, "")

    def remove(self, pool: Pool) -> str:
        return self.wake(pool) or self.removals


def judge(snapshot: Snapshot, fleet: Fleet) -> Verdict:
    now, options = snapshot.now_ms, fleet.options
    limit = options.fresh_ms // 1000
    lists = (("node list", snapshot.nodes_view), ("pod list", snapshot.pods_view))
    stale = [part for part, view in lists if not fresh(view, now, options)]
    everything = f"the {' and the '.join(stale)} is incomplete or older than {limit} s" if stale else ""
    drivers = {
        driver: f"the machine list of driver {driver!r} is incomplete or older than {limit} s"
        for driver in sorted({pool.driver for pool in fleet.pools})
        if not fresh(snapshot.provider_views.get(driver), now, options)
    }
    backlog = ""
    if snapshot.backlog_view is not None and not fresh(snapshot.backlog_view, now, options):
        backlog = f"the backlog is incomplete or older than {limit} s"
    return Verdict(everything, drivers, _lost(snapshot, fleet) or backlog, backlog)


def _lost(snapshot: Snapshot, fleet: Fleet) -> str:
    options = fleet.options
    since = snapshot.now_ms - options.loss_window_ms
    dark = len([node for node in snapshot.nodes if node.state is UNKNOWN and node.dark_since_ms > since])
    if dark <= options.loss_nodes:
        return ""
    on = sum(node.state in READY for node in snapshot.nodes)
    if dark <= max(options.loss_nodes, (dark + on) * options.loss_percent / 100):
        return ""
    return f"{dark} of {dark + on} nodes went dark within {options.loss_window_ms // 1000} s"
