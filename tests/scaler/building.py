"""Small valid snapshots; every value that a test cares about is named by the test."""

from __future__ import annotations

from typing import Any

from scaler.model import Node, NodeOrder, NodeState, OrderKind, Pod, PodSpec, ScalePlan, Snapshot, View
from scaler.pools import Fleet, Options, Pool, PowerModel

NOW = 1_800_000_000_000
MINUTE = 60_000
HOUR = 60 * MINUTE
GIB = 1 << 30


def make_pool(name: str = "cpu", **changes: Any) -> Pool:
    fields: dict[str, Any] = {
        "name": name,
        "name_pattern": f"{name}-{{n}}" if "hosts" not in changes else "",
        "max": 10,
        "resources": (("cpu", 8000), ("memory", 32 * GIB), ("pods", 110)),
        "power": PowerModel(off=5, boot=150, idle=100, max=250),
        "idle_ms": 5 * MINUTE,
    }
    return Pool(**(fields | changes))


def make_fleet(*pools: Pool, **options: Any) -> Fleet:
    return Fleet(pools=pools or (make_pool(),), options=Options(**options))


def make_node(name: str = "cpu-1", state: NodeState = NodeState.IDLE, **changes: Any) -> Node:
    """On since two hours, and idle as long if it is idle."""
    long_ago = NOW - 2 * HOUR
    fields: dict[str, Any] = {"name": name, "pool": name.rsplit("-", 1)[0], "state": state, "since_ms": long_ago}
    if state is not NodeState.OFF:
        fields |= {"on_since_ms": long_ago, "paid_since_ms": long_ago, "provider_id": f"id-{name}"}
    if state in {NodeState.IDLE, NodeState.DRAINING}:
        fields["idle_since_ms"] = long_ago
    if state is NodeState.UNKNOWN:
        fields |= {"dark_since_ms": NOW - MINUTE, "before_dark": NodeState.USED}
    return Node(**(fields | changes))


def make_spec(cpu: int = 1000, memory: int = GIB, **changes: Any) -> PodSpec:
    fields: dict[str, Any] = {"requests": (("cpu", cpu), ("memory", memory), ("pods", 1))}
    return PodSpec(**(fields | changes))


def make_pod(uid: str = "p1", spec: PodSpec | None = None, **changes: Any) -> Pod:
    """Unschedulable unless it is bound to a node or says otherwise."""
    fields: dict[str, Any] = {"uid": uid, "spec": spec or make_spec(), "unschedulable": not changes.get("node")}
    return Pod(**(fields | changes))


def make_pods(count: int, spec: PodSpec | None = None, prefix: str = "p", **changes: Any) -> tuple[Pod, ...]:
    return tuple(make_pod(f"{prefix}{number}", spec, **changes) for number in range(count))


def make_snapshot(*nodes: Node, **changes: Any) -> Snapshot:
    """Fresh and complete unless the test says otherwise."""
    now = changes.get("now_ms", NOW)
    fields: dict[str, Any] = {
        "now_ms": now,
        "nodes": nodes,
        "nodes_view": View(as_of_ms=now),
        "pods_view": View(as_of_ms=now),
        "provider_views": {"simulated": View(as_of_ms=now)},
    }
    return Snapshot(**(fields | changes))


def orders(plan: ScalePlan, *kinds: OrderKind) -> list[str]:
    return [order.node for order in plan.orders if not kinds or order.kind in kinds]


def woken(plan: ScalePlan) -> list[str]:
    return orders(plan, OrderKind.START, OrderKind.ADD)


def removed(plan: ScalePlan) -> list[str]:
    return orders(plan, OrderKind.STOP, OrderKind.REMOVE)


def why_kept(plan: ScalePlan, node: str) -> str:
    return next((kept.reason for kept in plan.kept if kept.node == node), "")


def make_order(kind: OrderKind, node: str, key: str = "", pool: str = "cpu") -> NodeOrder:
    return NodeOrder(kind=kind, node=node, pool=pool, key=key or f"{node}/1", reason="test")
