"""A plan in the making: handed from policy to policy within one decision, and seen by nothing else."""

from __future__ import annotations

from scaler.budget import Budget
from scaler.demand import Group, groups
from scaler.model import (
    DRAINING,
    IDLE,
    USED,
    Kept,
    Node,
    NodeOrder,
    OrderKind,
    Reservation,
    ScalePlan,
    Snapshot,
    Unhelped,
)
from scaler.packing import Axes, Bin
from scaler.pools import Fleet, Pool, spare_now
from scaler.safety import Verdict, judge
from scaler.situation import Situation


class Draft:
    def __init__(self, snapshot: Snapshot, fleet: Fleet) -> None:
        self.snapshot = snapshot
        self.fleet = fleet
        self.now = snapshot.now_ms
        self._next_ms = 0
        self.verdict: Verdict = judge(snapshot, fleet)
        self.situation = Situation(snapshot, fleet)
        refused = {}
        backoffs = {record.name: record for record in snapshot.pools}
        for pool in fleet.pools:
            record = backoffs.get(pool.name)
            if reason := self.verdict.wake(pool):
                refused[pool.name] = reason
            elif record is not None and record.backoff_until_ms > self.now:
                self.wait_until(record.backoff_until_ms)
                left = (record.backoff_until_ms - self.now) // 1000
                refused[pool.name] = f"pool {pool.name} waits {left} s after {record.failures} failures ({record.why})"
        self.budget = Budget(self.situation, refused)
        self.groups: list[Group] = groups(snapshot, self.situation.unbound, backlog=not self.verdict.backlog)
        #: Rules on spare room that hold now, of pools that have any.
        self.spares = {pool.name: rules for pool in fleet.pools if (rules := spare_now(pool, self.now))}
        asked = {name for rules in self.spares.values() for rule in rules for name, _ in rule.amounts}
        if any(rule.percent for rules in self.spares.values() for rule in rules):
            asked |= {name for pool in fleet.pools for name, _ in pool.resources}
        self.axes = Axes((group.spec for group in self.groups), asked)
        #: Nodes that are on, coming or could be taken back, with what is left on them; filled when first needed.
        self.bins: dict[str, Bin] = {}
        self.orders: dict[str, NodeOrder] = {}
        self.kept: dict[str, Kept] = {}
        self.unhelped: list[Unhelped] = []
        self.reservations: dict[str, Reservation] = {}
        #: Nodes ordered to be made in this plan: they have no record yet.
        self.opened: dict[str, str] = {}
        self.spared: dict[str, str] = {}
        self.steered: frozenset[str] = frozenset()
        self.alarms: list[str] = []

    def wait_until(self, time_ms: int) -> None:
        """Something changes by itself then."""
        if time_ms > self.now and (not self._next_ms or time_ms < self._next_ms):
            self._next_ms = time_ms

    def keep(self, node: Node, reason: str, until_ms: int = 0) -> None:
        self.kept[node.name] = Kept(node=node.name, reason=reason, until_ms=until_ms)
        self.wait_until(until_ms)

    def order(self, kind: OrderKind, node: Node, reason: str) -> None:
        self.orders[node.name] = NodeOrder(
            kind=kind,
            node=node.name,
            pool=node.pool,
            key=f"{node.name}/{node.generation + (0 if kind is OrderKind.RELEASE else 1)}",
            provider_id=node.provider_id,
            reason=reason,
        )

    def wake(self, pool: Pool, names: list[str], reason: str) -> None:
        """Order nodes on that the budget has handed out."""
        records = {node.name: node for node in self.situation.of_pool[pool.name]}
        for name in names:
            node = records.get(name) or Node(name=name, pool=pool.name)
            self.opened[name] = pool.name
            self.order(OrderKind.ADD if pool.made else OrderKind.START, node, reason)

    def release(self, node: Node, reason: str) -> None:
        self.order(OrderKind.RELEASE, node, reason)

    def staying(self, pool: Pool) -> list[Node]:
        """Nodes of the pool that are ready and not on their way out, after the orders so far."""
        return [
            node
            for node in self.situation.of_pool[pool.name]
            if node.state is IDLE or node.state is USED or (node.state is DRAINING and node.name in self.orders)
        ]

    def bin_of(self, node: Node, pool: Pool) -> Bin:
        found = self.bins.get(node.name)
        if found is None:
            found = self.bins[node.name] = self.situation.bin(node, pool, self.axes)
        return found

    def plan(self) -> ScalePlan:
        return ScalePlan(
            now_ms=self.now,
            orders=tuple(self.orders.values()),
            kept=tuple(self.kept.values()),
            unhelped=tuple(self.unhelped),
            reservations=tuple(self.reservations.values()),
            steered=self.steered,
            alarms=tuple(self.alarms),
            next_ms=self._next_ms,
        )
