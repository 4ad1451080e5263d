"""The snapshot, counted: what each node holds, what each pool occupies, what may still be ordered. Pure; one per
decision.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property, lru_cache, partial

from scaler.model import OFF, STARTING, Node, Pod, PodKind, PodSpec, Snapshot
from scaler.packing import Axes, Bin, Need
from scaler.pools import Fleet, Pool, capacity

#: A member looked up in its class costs ten times a global.
_WORK, _MOVABLE = PodKind.WORK, PodKind.MOVABLE
_counts: partial[defaultdict[PodSpec, int]] = partial(defaultdict, int)


@lru_cache(maxsize=16_384)
def _sum(held: tuple[tuple[PodSpec, int], ...]) -> dict[str, int]:
    """What these pods take together. From one decision to the next most nodes hold the same."""
    total: dict[str, int] = {}
    for spec, count in held:
        for name, amount in spec.requests:
            total[name] = total.get(name, 0) + amount * count
    return total


class Situation:
    def __init__(self, snapshot: Snapshot, fleet: Fleet) -> None:
        self.snapshot = snapshot
        self.fleet = fleet
        self.now = snapshot.now_ms
        #: Alike pods per node: everything bound, and of that the work.
        self.bound: defaultdict[str, defaultdict[PodSpec, int]] = defaultdict(_counts)
        self.work: defaultdict[str, int] = defaultdict(int)
        self._daemons: defaultdict[str, defaultdict[PodSpec, int]] = defaultdict(_counts)
        #: Bound pods that may be evicted.
        self.movable: defaultdict[str, list[PodSpec]] = defaultdict(list)
        #: Pods that are bound nowhere.
        self.unbound: list[Pod] = []
        bound, work, unbound = self.bound, self.work, self.unbound
        for pod in snapshot.pods:
            name = pod.node
            if not name:
                unbound.append(pod)
                continue
            bound[name][pod.spec] += 1
            if pod.kind is _WORK:
                work[name] += 1
            elif pod.kind is _MOVABLE:
                self.movable[name].append(pod.spec)
            else:
                self._daemons[name][pod.spec] += 1
        self._eligible: dict[str, list[Node]] = {}
        self._used: dict[str, dict[str, int]] = {}
        self.of_pool: dict[str, list[Node]] = {pool.name: [] for pool in fleet.pools}
        for node in snapshot.nodes:
            nodes = self.of_pool.get(node.pool)
            if nodes is not None:
                nodes.append(node)

    def used(self, node: Node) -> dict[str, int]:
        """Amounts that bound pods take on the node, not to be changed. Daemons count only where their node's own
        figures are known: the template has them taken off already.
        """
        found = self._used.get(node.name)
        if found is None:
            found = self._used[node.name] = self._count(node)
        return found

    def _count(self, node: Node) -> dict[str, int]:
        held = self.bound.get(node.name)
        if not held:
            return {}
        daemons = self._daemons.get(node.name) if not node.allocatable else None
        if daemons:
            return _sum(tuple((spec, count - daemons.get(spec, 0)) for spec, count in held.items()))
        return _sum(tuple(held.items()))

    def offers(self, node: Node, pool: Pool) -> dict[str, int]:
        """What the node has for pods, not to be changed: its own figures once seen, else the template's."""
        if node.allocatable and node.state is not STARTING:
            return dict(node.allocatable)
        return capacity(pool)

    def bin(self, node: Node, pool: Pool, axes: Axes) -> Bin:
        return self._bin(node, pool, self._free(node, pool, axes))

    def bin_with_room(self, node: Node, pool: Pool, axes: Axes, least: Need) -> Bin | None:
        """None when nothing that needs at least this much would fit: most nodes of a busy cluster are full."""
        free = self._free(node, pool, axes)
        for position, amount in least:
            if free[position] < amount:
                return None
        return self._bin(node, pool, free)

    def _free(self, node: Node, pool: Pool, axes: Axes) -> list[int]:
        used = self.used(node)
        if node.allocatable and node.state is not STARTING:
            free = axes.vector(dict(node.allocatable))
        else:
            free = list(axes.of_pool(pool))
        if used:
            for position, name in enumerate(axes.names):
                if name in used:
                    free[position] -= used[name]
        return free

    def _bin(self, node: Node, pool: Pool, free: list[int]) -> Bin:
        ports: list[str] = []
        for spec in self.bound.get(node.name, ()):
            if spec.host_ports:
                ports.extend(spec.host_ports)
        if node.allocatable:
            return Bin(node.name, free, node.labels, node.taints, ports)
        return Bin(node.name, free, pool.labels, pool.taints, ports)

    def eligible(self, pool: Pool) -> list[Node]:
        """Hosts that may be started for demand, those that failed least and started least often first."""
        found = self._eligible.get(pool.name)
        if found is None:
            tries = self.fleet.options.tries
            found = [
                node
                for node in self.of_pool[pool.name]
                if node.state is OFF and node.enabled and node.backoff_until_ms <= self.now and node.failures_on < tries
            ]
            found.sort(key=lambda node: (node.failures_on, node.cycles, node.since_ms))
            self._eligible[pool.name] = found
        return found

    @cached_property
    def taken_names(self) -> frozenset[str]:
        """Names that a machine to be made must not get."""
        machines = (machine.name for machine in self.snapshot.provider)
        return frozenset((*(node.name for node in self.snapshot.nodes), *machines))
