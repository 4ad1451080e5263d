"""The snapshot, counted: what each node holds, what each pool occupies, what may still be ordered. Pure; one per
decision.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

from scaler.model import Node, NodeState, PodKind, PodSpec, Snapshot
from scaler.packing import Axes, Bin
from scaler.pools import Fleet, Pool, capacity


class Situation:
    def __init__(self, snapshot: Snapshot, fleet: Fleet) -> None:
        self.snapshot = snapshot
        self.fleet = fleet
        self.now = snapshot.now_ms
        #: Alike pods per node: everything bound, and of that the work.
        self.bound: defaultdict[str, defaultdict[PodSpec, int]] = defaultdict(lambda: defaultdict(int))
        self.work: defaultdict[str, int] = defaultdict(int)
        self._daemons: defaultdict[str, defaultdict[PodSpec, int]] = defaultdict(lambda: defaultdict(int))
        #: Bound pods that may be evicted.
        self.movable: defaultdict[str, list[PodSpec]] = defaultdict(list)
        bound, work, kind = self.bound, self.work, PodKind.WORK
        for pod in snapshot.pods:
            if pod.node:
                bound[pod.node][pod.spec] += 1
                if pod.kind is kind:
                    work[pod.node] += 1
                elif pod.kind is PodKind.MOVABLE:
                    self.movable[pod.node].append(pod.spec)
                else:
                    self._daemons[pod.node][pod.spec] += 1
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
        total: defaultdict[str, int] = defaultdict(int)
        daemons = self._daemons.get(node.name) if not node.allocatable else None
        for spec, count in held.items():
            count -= daemons.get(spec, 0) if daemons else 0  # noqa: PLW2901 - the count that matters here
            for name, amount in spec.requests:
                total[name] += amount * count
        return total

    def offers(self, node: Node, pool: Pool) -> dict[str, int]:
        """What the node has for pods, not to be changed: its own figures once seen, else the template's."""
        if node.allocatable and node.state is not NodeState.STARTING:
            return dict(node.allocatable)
        return capacity(pool)

    def bin(self, node: Node, pool: Pool, axes: Axes) -> Bin:
        used = self.used(node)
        offers = self.offers(node, pool)
        if used:
            free = [offers.get(name, 0) - used.get(name, 0) for name in axes.names]
            ports = [port for spec in self.bound.get(node.name, ()) for port in spec.host_ports]
        else:
            free, ports = axes.vector(offers), []
        seen = bool(node.allocatable)
        return Bin(node.name, free, node.labels if seen else pool.labels, node.taints if seen else pool.taints, ports)

    def eligible(self, pool: Pool) -> list[Node]:
        """Hosts that may be started for demand, those that failed least and started least often first."""
        found = self._eligible.get(pool.name)
        if found is None:
            tries = self.fleet.options.tries
            found = [
                node
                for node in self.of_pool[pool.name]
                if node.state is NodeState.OFF
                and node.enabled
                and node.backoff_until_ms <= self.now
                and node.failures_on < tries
            ]
            found.sort(key=lambda node: (node.failures_on, node.cycles, node.since_ms))
            self._eligible[pool.name] = found
        return found

    @cached_property
    def taken_names(self) -> frozenset[str]:
        """Names that a machine to be made must not get."""
        machines = (machine.name for machine in self.snapshot.provider)
        return frozenset((*(node.name for node in self.snapshot.nodes), *machines))
