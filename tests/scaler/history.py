"""A small world with a truth of its own, for random histories: what is seen of it may be old, partial or flapping.

The scaler's side is what the service will do: observe, decide, write orders down, send each after a fresh re-check, and
after a restart know nothing but what was written. The truth is asserted where an order meets it.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from penstock.ports import ProviderNode, ProviderState
from scaler.engine import decide
from scaler.model import Node, NodeOrder, NodeState, OrderKind, Pod, ScalePlan, Snapshot, View
from scaler.observe import Sighting, fresh, observe
from scaler.pools import Fleet, Pool
from scaler.recheck import recheck
from scaler.states import NodeEvent, advance
from tests.scaler.building import NOW, make_pod, make_spec

_SPECS = (make_spec(1000), make_spec(3000), make_spec(8000))
_SECOND = 1000


class Machine(msgspec.Struct):
    pool: str
    power: str = "booting"
    since_ms: int = 0
    cordoned: bool = False
    ready: bool = True
    #: Its next boot or stop never ends.
    stuck: bool = False


class Stored(msgspec.Struct):
    """Everything that survives a restart."""

    nodes: tuple[Node, ...] = ()
    plan: ScalePlan | None = None


class History:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.now = NOW
        self.machines: dict[str, Machine] = {}
        for pool in fleet.pools:
            for host in pool.hosts:
                self.machines[host] = Machine(pool.name, "off")
        self.pods: dict[str, Pod] = {}
        self.stored = Stored()
        self.outbox: list[NodeOrder] = []
        self.api_down = ""
        self.provider_down = ""
        self._seen: tuple[tuple[Sighting, ...], tuple[Pod, ...], int] = ((), (), NOW)
        self._listed: tuple[tuple[ProviderNode, ...], int] = ((), NOW)
        self.serial = 0
        self.powered_off = 0
        self.removals = 0

    # What happens in the world

    def submit(self, count: int) -> None:
        for _ in range(count % 6 + 1):
            self.serial += 1
            uid = f"p{self.serial}"
            self.pods[uid] = make_pod(uid, _SPECS[self.serial % 3], unschedulable=False)

    def finish(self, which: int) -> None:
        bound = [uid for uid, pod in self.pods.items() if pod.node]
        for uid in bound[which % 3 :: 2] if which % 4 else bound:
            del self.pods[uid]

    def lose(self, which: int) -> None:
        """A pod vanishes, bound or not."""
        if self.pods:
            del self.pods[list(self.pods)[which % len(self.pods)]]

    def flap(self, which: int) -> None:
        on = [machine for machine in self.machines.values() if machine.power == "on"]
        for machine in on[which % 2 :: 2] if which % 5 else on:
            machine.ready = not machine.ready

    def stick(self, which: int) -> None:
        if self.machines:
            machine = list(self.machines.values())[which % len(self.machines)]
            machine.stuck = not machine.stuck

    def cut_api(self, which: int) -> None:
        self.api_down = "" if self.api_down else ("stale", "partial", "empty")[which % 3]

    def cut_provider(self, which: int) -> None:
        self.provider_down = "" if self.provider_down else ("stale", "partial", "empty")[which % 3]

    def heal(self, _: int) -> None:
        self.api_down = self.provider_down = ""
        for machine in self.machines.values():
            machine.stuck, machine.ready = False, True

    def wait(self, seconds: int) -> None:
        self.now += (1 + seconds**2) * _SECOND
        for name, machine in list(self.machines.items()):
            took = self.now - machine.since_ms
            if machine.stuck:
                continue
            if machine.power == "booting" and took > 60 * _SECOND:
                machine.power, machine.ready = "on", True
            elif machine.power == "stopping" and took > 10 * _SECOND:
                self.powered_off += 1
                if self._pool(machine).made:
                    del self.machines[name]
                else:
                    machine.power = "off"
        self._schedule()

    def _schedule(self) -> None:
        free = {}
        for name, machine in self.machines.items():
            if machine.power == "on" and machine.ready and not machine.cordoned:
                used = sum(pod.spec.requests[0][1] for pod in self.pods.values() if pod.node == name)
                free[name] = 8000 - used
        for uid, pod in self.pods.items():
            if not pod.node:
                node = next((name for name, room in free.items() if room >= pod.spec.requests[0][1]), "")
                if node:
                    free[node] -= pod.spec.requests[0][1]
                self.pods[uid] = replace(pod, node=node, unschedulable=not node)

    def _pool(self, machine: Machine) -> Pool:
        return self.fleet.by_name[machine.pool]

    # What is seen of it

    def snapshot(self) -> Snapshot:
        if not self.api_down:
            sightings = tuple(
                Sighting(name=name, ready=machine.ready, labels=(("penstock.dev/pool", machine.pool),))
                for name, machine in self.machines.items()
                if machine.power == "on"
            )
            self._seen = (sightings, tuple(self.pods.values()), self.now)
        if not self.provider_down:
            self._listed = (tuple(self._machine(name, one) for name, one in self.machines.items()), self.now)
        sightings, pods, seen_at = self._seen
        view = View(as_of_ms=seen_at)
        if self.api_down in {"partial", "empty"}:
            pods = () if self.api_down == "empty" else pods[::2]
            view = View(as_of_ms=self.now, complete=False)
        machines, listed_at = self._listed
        provider_view = View(as_of_ms=listed_at)
        if self.provider_down in {"partial", "empty"}:
            machines = () if self.provider_down == "empty" else machines[::2]
            provider_view = View(as_of_ms=self.now, complete=False)
        plan = self.stored.plan
        snapshot = Snapshot(
            now_ms=self.now,
            nodes=self.stored.nodes,
            pods=pods,
            provider=machines,
            reservations=plan.reservations if plan else (),
            steered=plan.steered if plan else frozenset(),
            nodes_view=view,
            pods_view=view,
            provider_views={"simulated": provider_view},
        )
        nodes = observe(snapshot, () if self.api_down == "empty" else sightings, self.fleet).nodes
        self.stored.nodes = nodes
        return replace(snapshot, nodes=nodes)

    @staticmethod
    def _machine(name: str, machine: Machine) -> ProviderNode:
        state = {"booting": "starting", "on": "on", "stopping": "stopping", "off": "off"}[machine.power]
        return ProviderNode(
            id=f"id-{name}",
            name=name,
            pool=machine.pool,
            state=ProviderState(state),
            ours=True,
            created_ms=machine.since_ms,
        )

    # What the scaler does

    def tick(self, _: int) -> None:
        before = self.snapshot()
        for node in before.nodes:
            # Back in service after a removal that did not happen: the cordon is lifted.
            if node.state in {NodeState.IDLE, NodeState.USED} and node.name in self.machines:
                self.machines[node.name].cordoned = False
        plan = decide(before, self.fleet)
        self.check(before, plan)
        self._write(plan)

    def _write(self, plan: ScalePlan) -> None:
        nodes = {node.name: node for node in self.stored.nodes}
        for order in plan.orders:
            node = nodes.get(order.node) or Node(name=order.node, pool=order.pool)
            if order.kind.wakes:
                nodes[order.node] = advance(node, NodeEvent.ORDER_ON, self.now, self.fleet.options).node
            elif order.kind is OrderKind.RELEASE:
                nodes[order.node] = advance(node, NodeEvent.RELEASE, self.now, self.fleet.options).node
                self.outbox = [other for other in self.outbox if other.node != order.node]
            elif node.state is NodeState.IDLE:
                nodes[order.node] = advance(node, NodeEvent.DRAIN, self.now, self.fleet.options).node
        self.stored = Stored(tuple(nodes.values()), plan)
        self.outbox.extend(order for order in plan.orders if order.kind is not OrderKind.RELEASE)

    def send(self, _: int) -> None:
        """Send what was written, each after a fresh look."""
        orders, self.outbox = self.outbox, []
        for order in orders:
            if order.kind.removes and order.node in self.machines:
                self.machines[order.node].cordoned = True
            snapshot = self.snapshot()
            node = next((one for one in snapshot.nodes if one.name == order.node), None)
            if order.kind.wakes:
                if node is not None and node.state is NodeState.STARTING and not recheck(order, snapshot, self.fleet):
                    self._power_on(order)
            elif node is not None and node.state is NodeState.STOPPING:
                self._power_off(order)  # sent again after a restart: it was checked when that was written
            elif recheck(order, snapshot, self.fleet, cordoned_ms=self.now):
                self._release(order.node)
            else:
                self._advance(order.node, NodeEvent.POWER_OFF)
                self._power_off(order)

    def _power_on(self, order: NodeOrder) -> None:
        machine = self.machines.get(order.node)
        if machine is None:
            self.machines[order.node] = Machine(order.pool, "booting", self.now)
        elif machine.power == "off":
            machine.power, machine.since_ms, machine.cordoned = "booting", self.now, False
        on = sum(machine.power != "off" and machine.pool == order.pool for machine in self.machines.values())
        assert on <= self.fleet.by_name[order.pool].max, f"{on} machines of pool {order.pool} are not off"

    def _power_off(self, order: NodeOrder) -> None:
        self.removals += 1
        working = [uid for uid, pod in self.pods.items() if pod.node == order.node]
        assert not working, f"{order.node} was powered off with {working} on it"
        machine = self.machines.get(order.node)
        if machine is not None and machine.power in {"on", "booting"}:
            machine.power, machine.since_ms = "stopping", self.now

    def _release(self, name: str) -> None:
        node = next((one for one in self.stored.nodes if one.name == name), None)
        if node is not None and node.state is NodeState.DRAINING:
            self._advance(name, NodeEvent.RELEASE)
        if name in self.machines:
            self.machines[name].cordoned = False

    def _advance(self, name: str, event: NodeEvent) -> None:
        self.stored.nodes = tuple(
            advance(node, event, self.now, self.fleet.options).node if node.name == name else node
            for node in self.stored.nodes
        )

    def restart(self, _: int) -> None:
        """All that is left is what was written: orders that were not sent are found by the state of their node."""
        self.stored = msgspec.json.decode(msgspec.json.encode(self.stored), type=Stored)
        self.outbox = []
        for node in self.stored.nodes:
            pool = self.fleet.by_name[node.pool]
            key = f"{node.name}/{node.generation}"
            if node.state is NodeState.STARTING:
                kind = OrderKind.ADD if pool.made else OrderKind.START
            elif node.state in {NodeState.DRAINING, NodeState.STOPPING}:
                kind = OrderKind.REMOVE if pool.made else OrderKind.STOP
            else:
                continue
            self.outbox.append(NodeOrder(kind=kind, node=node.name, pool=node.pool, key=key, reason="after a restart"))

    # What must hold

    def check(self, before: Snapshot, plan: ScalePlan) -> None:
        options = self.fleet.options
        views = (before.nodes_view, before.pods_view, before.provider_views["simulated"])
        if not all(fresh(view, before.now_ms, options) for view in views):
            assert plan.orders == (), "an order on incomplete data"
        states = {node.name: node.state for node in before.nodes}
        bound = {pod.node for pod in before.pods}
        names = [order.node for order in plan.orders]
        assert len(names) == len(set(names)), "two orders to one node"
        for order in plan.orders:
            assert order.reason
            if order.kind.removes:
                assert order.node not in bound, "an order to take out a node with work"
                assert states[order.node] in {NodeState.IDLE, NodeState.FAILED_ON, NodeState.FAILED_OFF}
        for pool in self.fleet.pools:
            self._check_bounds(before, plan, pool)

    @staticmethod
    def _check_bounds(before: Snapshot, plan: ScalePlan, pool: Pool) -> None:
        nodes = [node for node in before.nodes if node.pool == pool.name]
        woken = sum(order.kind.wakes and order.pool == pool.name for order in plan.orders)
        taken = {order.node for order in plan.orders if order.kind.removes}
        occupied = sum(node.state is not NodeState.OFF for node in nodes)
        assert not woken or occupied + woken <= pool.max, "more than the maximum"
        booting = sum(node.state is NodeState.STARTING for node in nodes)
        assert not woken or not pool.max_booting or booting + woken <= pool.max_booting, "more than may start at once"
        ready = [node.name for node in nodes if node.state in {NodeState.IDLE, NodeState.USED}]
        left = [name for name in ready if name not in taken]
        assert len(left) == len(ready) or len(left) >= pool.min, "less than the minimum"
