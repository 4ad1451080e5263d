"""The last look before an order is sent, on a snapshot read after it was decided (C2, C6, C13). Pure.

A plan is a few seconds old when its orders go out, and a removal takes minutes from the cordon to the power-off.
Whatever changed meanwhile is found here: an answer other than "" means that the order must not be sent, and why.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scaler.budget import Budget
from scaler.model import Node, NodeOrder, NodeState, OrderKind, PodKind, Snapshot
from scaler.pools import Fleet, Pool
from scaler.safety import judge
from scaler.situation import Situation

_STAYING = frozenset({NodeState.IDLE, NodeState.USED})
_REMOVABLE = frozenset({NodeState.DRAINING, NodeState.FAILED_ON, NodeState.FAILED_OFF})


def recheck(order: NodeOrder, snapshot: Snapshot, fleet: Fleet, *, cordoned_ms: int = 0) -> str:
    """Why the order must not be sent now; "" = send it.

    A removal is asked about after the cordon, just before the power-off. `cordoned_ms` is when the cordon was
    acknowledged: a list read before it cannot show a pod that was bound in between, however fresh it is.
    """
    pool = fleet.by_name.get(order.pool)
    if pool is None:
        return f"pool {order.pool} is no longer configured"
    verdict = judge(snapshot, fleet)
    if reason := (verdict.remove(pool) if order.kind.removes else verdict.wake(pool)):
        return reason
    node = next((one for one in snapshot.nodes if one.name == order.node), None)
    if order.kind.removes:
        if min(snapshot.nodes_view.as_of_ms, snapshot.pods_view.as_of_ms) < cordoned_ms:
            return f"node {order.node} was cordoned after the lists were read"
        return _removal(order, node, pool, snapshot)
    if order.kind is OrderKind.RELEASE:
        draining = node is not None and node.state is NodeState.DRAINING
        return "" if draining else f"node {order.node} is not on its way out"
    return _start(order, node, pool, snapshot, fleet)


def recheck_starts(orders: Sequence[NodeOrder], snapshot: Snapshot, fleet: Fleet) -> dict[str, str]:
    """As `recheck`, by key, for many orders to go on that were written down together: counted once, bounds shared."""
    keys = {order.node: order.key for order in orders}
    nodes = {node.name: node for node in snapshot.nodes}
    written = {
        name
        for name, key in keys.items()
        if (node := nodes.get(name)) is not None
        and node.state is NodeState.STARTING
        and key == f"{name}/{node.generation}"
    }
    others = tuple(node for node in snapshot.nodes if node.name not in written)
    budget = _budget(replace(snapshot, nodes=others), fleet)
    verdict, why = judge(snapshot, fleet), {}
    for order in orders:
        pool, node = fleet.by_name.get(order.pool), nodes.get(order.node)
        if pool is None:
            why[order.key] = f"pool {order.pool} is no longer configured"
        elif reason := verdict.wake(pool):
            why[order.key] = reason
        elif node is None or order.node not in written:
            why[order.key] = f"node {order.node} is {node.state.value if node is not None else 'no longer wanted'}"
        elif not node.enabled:
            why[order.key] = f"node {node.name} was disabled"
        else:
            allowed, stop = budget.allow_host(pool)
            why[order.key] = stop
            if allowed:
                budget.spend_host(pool)
    return why


def _removal(order: NodeOrder, node: Node | None, pool: Pool, snapshot: Snapshot) -> str:
    if node is None:
        return f"node {order.node} has no record"
    if not node.enabled:
        return f"node {node.name} was disabled"
    if node.state not in _REMOVABLE:
        return f"node {node.name} is {node.state.value}"
    if count := sum(pod.node == node.name and pod.kind is PodKind.WORK for pod in snapshot.pods):
        return f"{count} pods run on node {node.name}"
    for reservation in snapshot.reservations:
        # A node that did not come up keeps no promise: it is switched off for certain, then another serves.
        promised = node.state is NodeState.DRAINING and reservation.node == node.name
        if promised and reservation.until_ms > snapshot.now_ms:
            return f"node {node.name} was promised to {len(reservation.owners)} waiting"
    if node.state is NodeState.DRAINING and pool.min:
        left = sum(other.pool == pool.name and other.state in _STAYING for other in snapshot.nodes)
        if left < pool.min:
            return f"pool {pool.name} would fall below its minimum of {pool.min} nodes"
    return ""


def _start(order: NodeOrder, node: Node | None, pool: Pool, snapshot: Snapshot, fleet: Fleet) -> str:
    if node is not None and not node.enabled:
        return f"node {node.name} was disabled"
    state = node.state if node is not None else NodeState.OFF
    if state is NodeState.STARTING and node is not None and order.key == f"{node.name}/{node.generation}":
        # Written down before it is sent: it is counted already, and must not be counted twice.
        others = tuple(one for one in snapshot.nodes if one.name != order.node)
        snapshot = replace(snapshot, nodes=others)
    elif state is not NodeState.OFF:
        return f"node {order.node} is {state.value}"
    _, stop = _budget(snapshot, fleet).allow_host(pool)
    return stop


def _budget(snapshot: Snapshot, fleet: Fleet) -> Budget:
    """Bounds ask nothing of pods, of which there are many."""
    return Budget(Situation(replace(snapshot, pods=()), fleet), {})
