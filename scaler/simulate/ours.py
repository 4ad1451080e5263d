"""Penstock in the simulation: the real engine on real snapshots, and the real state machine for the records.

Only the timing of decisions is modelled on the service: a batch window after jobs that found no room, at once when a
machine came or went while jobs wait, when a plan says to look again, and a while after the load changed.
"""

from __future__ import annotations

from scaler.engine import decide
from scaler.model import Node, NodeOrder, NodeState, Pod, Reservation, ScalePlan, Snapshot, View
from scaler.pools import Fleet
from scaler.recheck import recheck, recheck_starts
from scaler.simulate.world import Machine, Task, World
from scaler.states import NodeEvent, advance

#: The batch window of C4.
_BATCH_IDLE_MS, _BATCH_MAX_MS = 1_000, 10_000
#: A change of load is looked at this much later at the latest.
_SETTLE_MS = 60_000


class Penstock:
    name = "penstock"

    def __init__(self, fleet: Fleet, *, keep_plans: bool = False) -> None:
        self.next_ms = 0
        self.decisions = 0
        self.plans: list[ScalePlan] = []
        self._keep_plans = keep_plans
        self._fleet = fleet
        self._nodes: dict[str, Node] = {}
        self._pods: dict[str, Pod] = {}
        self._waiting: dict[str, Pod] = {}
        self._reservations: tuple[Reservation, ...] = ()
        self._steered: frozenset[str] = frozenset()
        self._first_wait = 0
        self._world: World

    def begin(self, world: World) -> None:
        self._world = world
        for machine in world.machines:
            if machine.pool.hosts:
                self._nodes[machine.name] = Node(name=machine.name, pool=machine.pool.name)
        self.next_ms = 1

    def waits(self, task: Task) -> None:
        job = task.job
        for number in range(job.tasks):
            uid = f"{job.id}/{number}"
            gang, size = (job.id, job.tasks) if job.tasks > 1 else ("", 0)
            self._waiting[uid] = Pod(uid=uid, spec=task.spec, unschedulable=True, gang=gang, gang_size=size)
        now = self._world.now
        if not self._first_wait:
            self._first_wait = now
        self._soon(min(self._first_wait + _BATCH_MAX_MS, now + _BATCH_IDLE_MS), batch=True)

    def placed(self, task: Task) -> None:
        for number, machine in enumerate(task.placed):
            uid = f"{task.job.id}/{number}"
            self._waiting.pop(uid, None)
            self._pods[uid] = Pod(uid=uid, spec=task.spec, node=machine.name)
            self._see(machine)

    def ended(self, task: Task) -> None:
        for number, machine in enumerate(task.placed):
            del self._pods[f"{task.job.id}/{number}"]
            self._see(machine)

    def switched(self, machine: Machine) -> None:
        self._see(machine)
        if self._waiting:
            self._soon(self._world.now + 1)

    def _see(self, machine: Machine) -> None:
        """What the watch would tell of the machine, through the state machine."""
        node = self._nodes.get(machine.name)
        if node is None:
            return
        if machine.name in self._world.on:
            event = NodeEvent.SEEN_USED if machine.jobs else NodeEvent.SEEN_IDLE
        else:
            event = NodeEvent.SEEN_OFF
        step = advance(node, event, self._world.now, self._fleet.options)
        if not step.changed:
            return
        if step.node.state is NodeState.OFF and machine.pool.made:
            del self._nodes[machine.name]
        else:
            self._nodes[machine.name] = step.node
        self._soon(self._world.now + _SETTLE_MS)

    def _soon(self, time_ms: int, *, batch: bool = False) -> None:
        """Run by then at the latest; a batch window moves on with every job that comes."""
        if batch and self.next_ms and self.next_ms <= self._first_wait + _BATCH_MAX_MS:
            self.next_ms = max(self.next_ms, time_ms) if self.next_ms > self._world.now else time_ms
        elif not self.next_ms or time_ms < self.next_ms:
            self.next_ms = time_ms

    def snapshot(self) -> Snapshot:
        now = self._world.now
        view = View(as_of_ms=now)
        return Snapshot(
            now_ms=now,
            nodes=tuple(self._nodes.values()),
            pods=(*self._pods.values(), *self._waiting.values()),
            reservations=self._reservations,
            steered=self._steered,
            nodes_view=view,
            pods_view=view,
            provider_views={pool.driver: view for pool in self._fleet.pools},
        )

    def run(self) -> None:
        plan = decide(self.snapshot(), self._fleet)
        self.decisions += 1
        if self._keep_plans:
            self.plans.append(plan)
        self._first_wait = 0
        self.next_ms = plan.next_ms
        self._reservations = plan.reservations
        if plan.orders:
            self._obey(plan)
        if plan.steered != self._steered:
            self._steered = plan.steered
            for machine in self._world.machines:
                machine.steered = machine.name in plan.steered

    def _obey(self, plan: ScalePlan) -> None:
        """As in the service: written down, then checked on a fresh look, then sent."""
        world, now = self._world, self._world.now
        wakes = [order for order in plan.orders if order.kind.wakes]
        for order in wakes:
            self._take(order, NodeEvent.ORDER_ON)
        why = recheck_starts(wakes, self.snapshot(), self._fleet) if wakes else {}
        for order in wakes:
            if why[order.key]:
                self._take(order, NodeEvent.NOT_YET)
            else:
                world.power_on(world.by_name[order.node])
        for order in plan.orders:
            if order.kind.wakes:
                continue
            self._take(order, NodeEvent.DRAIN)
            if recheck(order, self.snapshot(), self._fleet, cordoned_ms=now):
                self._take(order, NodeEvent.RELEASE)
            else:
                self._take(order, NodeEvent.POWER_OFF)
                world.power_off(world.by_name[order.node])

    def _take(self, order: NodeOrder, event: NodeEvent) -> None:
        node = self._nodes.get(order.node) or Node(name=order.node, pool=order.pool)
        self._nodes[order.node] = advance(node, event, self._world.now, self._fleet.options).node
