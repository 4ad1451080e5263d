"""What the scaler must not forget, and what each step of an order makes of it. Pure.

One frozen value holds everything that survives a restart (C3): the nodes with their clocks and counts, the orders with
what became of them, promises, requests, and which nodes a person wants gone. An order is in it before it is sent; the
key of an order is the node's name and generation, so that after a crash the same order is sent again with the same key
and no driver does it twice.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from penstock.errors import Conflict
from penstock.ports import OrderAnswer, Outcome
from scaler.backoff import pool_failed, pool_worked
from scaler.model import (
    Node,
    NodeOrder,
    NodeState,
    OrderKind,
    PoolRecord,
    Request,
    Reservation,
    ScalePlan,
)
from scaler.pools import Fleet, Pool
from scaler.states import NodeEvent, Step, advance

#: A driver that says "not yet" is asked again after this long, unless the pool's billing knows better.
NOT_YET_MS = 60_000
_FAILED = frozenset({NodeState.FAILED_ON, NodeState.FAILED_OFF})
_UNDER_WAY = frozenset({NodeState.STARTING, NodeState.DRAINING, NodeState.STOPPING})
#: Outcomes after which the same order is sent again with the same key.
AGAIN = frozenset({Outcome.TRANSIENT, Outcome.CONFLICT})


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """An order that was written down and is not over."""

    order: NodeOrder
    written_ms: int
    #: When the driver was last asked; 0 = never.
    tried_ms: int = 0
    tries: int = 0
    #: The driver took it: it is not sent again.
    accepted: bool = False
    message: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is stored."""

    nodes: tuple[Node, ...] = ()
    pools: tuple[PoolRecord, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    steered: frozenset[str] = frozenset()
    requests: tuple[Request, ...] = ()
    #: By node.
    orders: dict[str, Pending] = {}
    #: Nodes that a person ordered off while they had work: they go when it ends.
    leaving: frozenset[str] = frozenset()

    def node(self, name: str) -> Node | None:
        position = _positions(self.nodes).get(name)
        return None if position is None else self.nodes[position]


def with_node(state: State, node: Node) -> State:
    """The record replaced, or added."""
    positions = _positions(state.nodes)
    position = positions.get(node.name)
    if position is None:
        return replace(state, nodes=(*state.nodes, node))
    nodes = (*state.nodes[:position], node, *state.nodes[position + 1 :])
    _memo[0] = (nodes, positions)
    return replace(state, nodes=nodes)


def _positions(nodes: tuple[Node, ...]) -> dict[str, int]:
    """Where each name stands. Remembered for the tuple asked about last: a thousand answers to one call change one node
    after the other, and looking through all of them for each would take the square of their number.
    """
    known, positions = _memo[0]
    if known is not nodes:
        positions = {node.name: position for position, node in enumerate(nodes)}
        _memo[0] = (nodes, positions)
    return positions


#: One entry, replaced as a whole, so that threads never see half of it.
_memo: list[tuple[tuple[Node, ...], dict[str, int]]] = [((), {})]


def step(state: State, name: str, event: NodeEvent, now_ms: int, fleet: Fleet) -> State:
    """One event for one node. Raises Conflict when it has no record, IllegalTransition."""
    node = state.node(name)
    if node is None:
        raise Conflict(f"node {name} has no record")
    return with_node(state, advance(node, event, now_ms, fleet.options).node)


def current(node: Node, order: NodeOrder) -> bool:
    """The order is this node's present one."""
    generation = node.generation + (1 if node.state in _FAILED else 0)
    return order.key == f"{node.name}/{generation}"


def stands(state: State, order: NodeOrder) -> bool:
    """It was not overtaken or withdrawn."""
    node = state.node(order.node)
    return node is not None and current(node, order) and order.node in state.orders


def order_off(node: Node, pool: Pool, reason: str) -> NodeOrder:
    """The order to take one node out, beside any plan."""
    return NodeOrder(
        kind=OrderKind.REMOVE if pool.made else OrderKind.STOP,
        node=node.name,
        pool=node.pool,
        key=f"{node.name}/{node.generation + 1}",
        provider_id=node.provider_id,
        reason=reason,
    )


def planned(state: State, plan: ScalePlan, fleet: Fleet) -> State:
    """Write the plan's orders down; what was written and is under way is not written twice."""
    nodes = {node.name: node for node in state.nodes}
    orders = dict(state.orders)
    now = plan.now_ms
    for order in plan.orders:
        node = nodes.get(order.node) or Node(name=order.node, pool=order.pool)
        if order.kind.wakes:
            nodes[order.node] = advance(node, NodeEvent.ORDER_ON, now, fleet.options).node
        elif order.kind is OrderKind.RELEASE:
            nodes[order.node] = advance(node, NodeEvent.RELEASE, now, fleet.options).node
            orders.pop(order.node, None)
            continue
        elif node.state is NodeState.IDLE:
            nodes[order.node] = advance(node, NodeEvent.DRAIN, now, fleet.options).node
        known = orders.get(order.node)
        if known is None or known.order.key != order.key:
            orders[order.node] = Pending(order=order, written_ms=now)
    return replace(
        state,
        nodes=tuple(nodes.values()),
        orders=orders,
        reservations=plan.reservations,
        steered=plan.steered,
        requests=tuple(request for request in state.requests if request.until_ms > now),
    )


def observed(state: State, nodes: Iterable[Node], steps: Iterable[Step]) -> State:
    """Take over what was seen. The state must be the one that the look was made from."""
    kept = tuple(nodes)
    names = {node.name for node in kept}
    return pruned(replace(state, nodes=kept, pools=_worked(state.pools, steps), leaving=state.leaving & names))


def _worked(pools: tuple[PoolRecord, ...], steps: Iterable[Step]) -> tuple[PoolRecord, ...]:
    up = {one.node.pool for one in steps if one.node.state in {NodeState.IDLE, NodeState.USED} and not one.unexpected}
    return tuple(pool_worked(pool) if pool.name in up and pool.failures else pool for pool in pools)


def pruned(state: State) -> State:
    """Without orders that are over."""
    nodes = {node.name: node for node in state.nodes}
    orders = {}
    for name, pending in state.orders.items():
        node = nodes.get(name)
        if node is not None and node.state in _UNDER_WAY | _FAILED and current(node, pending.order):
            orders[name] = pending
    return state if orders.keys() == state.orders.keys() else replace(state, orders=orders)


def powering_off(state: State, order: NodeOrder, now_ms: int, fleet: Fleet) -> State:
    """The last write before a power-off or deletion. Raises Conflict when the order was overtaken."""
    node = state.node(order.node)
    if node is None or not stands(state, order):
        raise Conflict(f"the order {order.key} was overtaken")
    if node.state is NodeState.STOPPING:
        return state
    return step(state, order.node, NodeEvent.POWER_OFF, now_ms, fleet)


def released(state: State, order: NodeOrder, now_ms: int, fleet: Fleet, *, hold_ms: int = 0) -> State:
    """A removal is taken back before the power-off; nothing happens when it is no longer under way.

    The node is not picked again for `hold_ms`.
    """
    node = state.node(order.node)
    if node is None or not current(node, order) or node.state is NodeState.STOPPING:
        return state
    if node.state is NodeState.DRAINING:
        node = advance(node, NodeEvent.RELEASE, now_ms, fleet.options).node
        if hold_ms:
            node = replace(node, not_yet_until_ms=now_ms + hold_ms)
        state = replace(with_node(state, node), leaving=state.leaving - {node.name})
    return dropped(state, order)


def called_off(state: State, order: NodeOrder, now_ms: int, fleet: Fleet, *, why: str, hold_ms: int = 0) -> State:
    """An order to go on that was never sent is taken back; with `hold_ms` it is not given again before."""
    node = state.node(order.node)
    if node is None or not current(node, order) or node.state is not NodeState.STARTING:
        return state
    pool = fleet.by_name.get(node.pool)
    node = advance(node, NodeEvent.NOT_YET, now_ms, fleet.options).node
    pools = state.pools
    if hold_ms and (pool is None or pool.made):
        # Another name would be tried at once: the pool waits.
        record = next((one for one in pools if one.name == node.pool), PoolRecord(name=node.pool))
        record = replace(record, backoff_until_ms=max(record.backoff_until_ms, now_ms + hold_ms), why=why[:200])
        pools = (*(one for one in pools if one.name != node.pool), record)
    elif hold_ms:
        node = replace(node, backoff_until_ms=now_ms + hold_ms)
    return dropped(replace(with_node(state, node), pools=pools), order)


def dropped(state: State, order: NodeOrder) -> State:
    """The order is over whatever became of it."""
    pending = state.orders.get(order.node)
    if pending is not None and pending.order.key == order.key:
        orders = dict(state.orders)  # a copy costs a tenth of looking through all, which a thousand in a row would
        del orders[order.node]
        return replace(state, orders=orders)
    return replace(state, orders={name: one for name, one in state.orders.items() if one.order.key != order.key})


def tried(state: State, orders: Iterable[NodeOrder], now_ms: int) -> State:
    """The driver was asked and its answer was lost, or it asked to come again."""
    keys = {order.key for order in orders}
    changed = {
        name: replace(one, tried_ms=now_ms, tries=one.tries + 1) if one.order.key in keys else one
        for name, one in state.orders.items()
    }
    return replace(state, orders=changed)


def answered(
    state: State, order: NodeOrder, answer: OrderAnswer, now_ms: int, fleet: Fleet, *, of_pool: bool = True
) -> State:
    """What the driver's answer makes of node, order and pool. `of_pool` False: it says nothing about the pool."""
    node = state.node(order.node)
    if node is None or not current(node, order):
        return state
    pending = state.orders.get(order.node)
    if answer.outcome in AGAIN:
        return _noted(tried(state, [order], now_ms), order, answer.message)
    if answer.outcome is Outcome.ACCEPTED:
        if answer.id and answer.id != node.provider_id:
            node = replace(node, provider_id=answer.id)
        orders = dict(state.orders)
        if pending is not None:
            orders[order.node] = replace(pending, accepted=True, tried_ms=now_ms, tries=pending.tries + 1)
        state = with_node(replace(state, orders=orders), node)
        if order.kind.wakes and answer.name and answer.name != order.node:
            return _renamed(state, node, answer.name, now_ms, fleet)
        return state
    if answer.outcome is Outcome.NOT_YET and order.kind.wakes:
        return called_off(state, order, now_ms, fleet, why=answer.message or "not yet", hold_ms=NOT_YET_MS)
    if answer.outcome is Outcome.NOT_YET:
        node = advance(node, NodeEvent.NOT_YET, now_ms, fleet.options).node
        return dropped(with_node(state, replace(node, not_yet_until_ms=now_ms + NOT_YET_MS)), order)
    node = advance(node, NodeEvent.REFUSED, now_ms, fleet.options).node
    state = dropped(with_node(state, node), order)
    return _pool_refused(state, order.pool, answer.outcome, now_ms, fleet) if of_pool else state


def _noted(state: State, order: NodeOrder, message: str) -> State:
    pending = state.orders.get(order.node)
    if pending is None:
        return state
    return replace(state, orders={**state.orders, order.node: replace(pending, message=message[:200])})


def _pool_refused(state: State, pool: str, outcome: Outcome, now_ms: int, fleet: Fleet) -> State:
    """One failure of the pool, however many nodes one call named: they all have the same time."""
    records = {record.name: record for record in state.pools}
    record = records.get(pool) or PoolRecord(name=pool)
    if record.backoff_until_ms > now_ms:
        return state
    changed = pool_failed(record, outcome, now_ms, fleet.options)
    if changed is record:
        return state
    records[pool] = changed
    return replace(state, pools=tuple(records.values()))


def _renamed(state: State, node: Node, name: str, now_ms: int, fleet: Fleet) -> State:
    """The driver acted on another machine than the one named, and that is the one that comes (C20: real name)."""
    other = state.node(name)
    orders = {key: one for key, one in state.orders.items() if key != node.name}
    if other is None:
        nodes = tuple(replace(node, name=name) if one.name == node.name else one for one in state.nodes)
    else:
        taken = other
        if other.state is NodeState.OFF:
            taken = advance(other, NodeEvent.ORDER_ON, now_ms, fleet.options).node
        back = advance(node, NodeEvent.NOT_YET, now_ms, fleet.options).node
        changed = {name: taken, node.name: replace(back, provider_id="")}
        nodes = tuple(changed.get(one.name, one) for one in state.nodes)
    reservations = tuple(
        replace(one, node=name) if one.node == node.name else one for one in state.reservations if one.node != name
    )
    return replace(state, nodes=nodes, orders=orders, reservations=reservations)
