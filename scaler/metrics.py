"""What the scaler counts. One registry per process, handed around."""

from __future__ import annotations

from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from scaler.model import NodeOrder, NodeState, ScalePlan, Snapshot, View
from scaler.pools import Fleet


class ScalerMetrics:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.decisions = Counter("penstock_scaler_decisions", "Decisions made.", registry=registry)
        self.decision_seconds = Histogram(
            "penstock_scaler_decision_seconds",
            "How long one decision took, with looking and writing.",
            registry=registry,
            buckets=(0.005, 0.025, 0.1, 0.5, 1, 2.5, 10),
        )
        self.orders = Counter(
            "penstock_scaler_orders", "Orders answered by drivers.", ("kind", "pool", "outcome"), registry=registry
        )
        self.nodes = Gauge("penstock_scaler_nodes", "Nodes by pool and state.", ("pool", "state"), registry=registry)
        self.waiting = Gauge(
            "penstock_scaler_unhelped", "Pods and units of backlog that no order serves, by hopeless.", ("hopeless",),
            registry=registry,
        )  # fmt: skip
        self.view_age = Gauge(
            "penstock_scaler_view_age_seconds", "Age of each view that decisions are made on.", ("view",),
            registry=registry,
        )  # fmt: skip
        self.view_complete = Gauge(
            "penstock_scaler_view_complete", "1 when the view is complete.", ("view",), registry=registry
        )
        self.alarms = Gauge("penstock_scaler_alarms", "Alarms that stand now.", registry=registry)
        self.pool_backoff = Gauge(
            "penstock_scaler_pool_failures", "Failures in a row of each pool.", ("pool",), registry=registry
        )
        self.leader = Gauge("penstock_scaler_leader", "1 when this process may act.", registry=registry)
        with suppress(ValueError):  # no /proc on this system
            ProcessCollector(registry=registry)

    def order_answered(self, order: NodeOrder, outcome: str) -> None:
        """Count one answer; outcome "lost" = there was none."""
        self.orders.labels(order.kind.value, order.pool, outcome).inc()

    def decided(self, snapshot: Snapshot, plan: ScalePlan, fleet: Fleet, seconds: float) -> None:
        self.decisions.inc()
        self.decision_seconds.observe(seconds)
        counts = {(pool.name, state): 0 for pool in fleet.pools for state in NodeState}
        for node in snapshot.nodes:
            counts[node.pool, node.state] = counts.get((node.pool, node.state), 0) + 1
        for (pool, state), count in counts.items():
            self.nodes.labels(pool, state.value).set(count)
        for hopeless in (False, True):
            count = sum(one.count for one in plan.unhelped if one.hopeless is hopeless)
            self.waiting.labels(str(hopeless).lower()).set(count)
        failures = {pool.name: 0 for pool in fleet.pools} | {one.name: one.failures for one in snapshot.pools}
        for name, count in failures.items():
            self.pool_backoff.labels(name).set(count)
        for name, view in views(snapshot).items():
            self.view_age.labels(name).set(max(0, snapshot.now_ms - view.as_of_ms) / 1000 if view.as_of_ms else -1)
            self.view_complete.labels(name).set(view.complete)

    def text(self) -> bytes:
        """What `/metrics` answers."""
        return generate_latest(self.registry)


def views(snapshot: Snapshot) -> dict[str, View]:
    """All views of a snapshot by name, as people read them."""
    found = {"nodes": snapshot.nodes_view, "pods": snapshot.pods_view}
    if snapshot.backlog_view is not None:
        found["backlog"] = snapshot.backlog_view
    return found | {f"driver {name}": view for name, view in snapshot.provider_views.items()}
