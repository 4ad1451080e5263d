"""From what is seen to what the records say: one step of every node's state machine per look at the world. Pure.

The order in which sources are believed: a node that is ready in the cluster is on; one that is not is off only when a
complete provider list, taken after the last change, says so; otherwise it is unknown. Without complete and fresh node
and pod lists nothing is concluded at all, time-outs included: an outage of the API must not make a booting node a
failed one.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from penstock.ports import ProviderNode, ProviderState
from scaler.model import Amounts, Labels, Node, NodeState, Pod, PodKind, Snapshot, Taint, View
from scaler.pools import Fleet, Options, Pool
from scaler.states import NodeEvent, Step, advance

POOL_LABEL = "penstock.dev/pool"
_OFF = frozenset({ProviderState.OFF, ProviderState.SUSPENDED})
_CORE = frozenset({"cpu", "memory", "pods", "ephemeral-storage"})


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A node object of the cluster."""

    name: str
    ready: bool
    labels: Labels = ()
    taints: tuple[Taint, ...] = ()
    allocatable: Amounts = ()


class Observed(msgspec.Struct, frozen=True):
    nodes: tuple[Node, ...]
    #: Every transition that happened, for hooks, metrics and events.
    steps: tuple[Step, ...] = ()
    #: Machines of a provider that no pool knows: reported, never touched.
    strangers: tuple[str, ...] = ()


def fresh(view: View | None, now_ms: int, options: Options) -> bool:
    """Complete and recent enough to act on. A view from the future (a clock jumped) is not trusted either."""
    return view is not None and view.complete and -options.fresh_ms <= now_ms - view.as_of_ms <= options.fresh_ms


def working_nodes(pods: Iterable[Pod]) -> set[str]:
    """Names of nodes that hold a pod other than their own daemons and static pods."""
    return {pod.node for pod in pods if pod.node and pod.kind is PodKind.WORK}


def observe(snapshot: Snapshot, sightings: Iterable[Sighting], fleet: Fleet) -> Observed:
    """Advance every record of the snapshot by what was seen. Returns them unchanged when the view is not to be
    trusted.
    """
    now, options = snapshot.now_ms, fleet.options
    if not (fresh(snapshot.nodes_view, now, options) and fresh(snapshot.pods_view, now, options)):
        return Observed(snapshot.nodes)
    seen = {sighting.name: sighting for sighting in sightings}
    machines = {machine.name: machine for machine in snapshot.provider}
    known, strangers = _with_new(snapshot, seen, machines, fleet)
    work = working_nodes(snapshot.pods)
    nodes: list[Node] = []
    steps: list[Step] = []
    for node in known:
        pool = fleet.by_name.get(node.pool)
        if pool is None:
            nodes.append(node)
            continue
        machine, sighting = machines.get(node.name), seen.get(node.name)
        view = snapshot.provider_views.get(pool.driver)
        listed = view if fresh(view, now, options) else None
        event = _event(node, pool, sighting, machine, listed=listed, works=node.name in work)
        step = advance(_sighted(node, sighting, machine), event, now, options) if event else Step(node, changed=False)
        if step.changed:
            steps.append(step)
        late = _late(step.node, pool, now)
        if late:
            step = advance(step.node, NodeEvent.TIMEOUT, now, options)
            steps.append(step)
        if not (step.node.state is NodeState.OFF and pool.made and step.node.enabled):
            nodes.append(step.node)
    return Observed(tuple(nodes), tuple(steps), strangers)


def _event(
    node: Node, pool: Pool, sighting: Sighting | None, machine: ProviderNode | None, *, listed: View | None, works: bool
) -> NodeEvent | None:
    if sighting is not None and sighting.ready:
        if node.state is NodeState.STARTING and not _initialised(sighting, pool):
            return None
        return NodeEvent.SEEN_USED if works else NodeEvent.SEEN_IDLE
    if node.state is NodeState.STARTING and _failed(machine, listed, node):
        # Its provider gave it up: no need to wait for the time-out.
        return NodeEvent.REFUSED
    # A pod that is bound there may run on behind a broken network: such a node is not off, whatever a list says.
    if listed is not None and listed.as_of_ms > node.since_ms and not works:
        gone = machine is None and pool.made and node.state is not NodeState.STARTING
        if gone or (machine is not None and machine.state in _OFF):
            return NodeEvent.SEEN_OFF
    return NodeEvent.NOT_SEEN


def _failed(machine: ProviderNode | None, listed: View | None, node: Node) -> bool:
    newer = listed is not None and listed.as_of_ms > node.since_ms
    return newer and machine is not None and machine.state is ProviderState.FAILED


def _initialised(sighting: Sighting, pool: Pool) -> bool:
    """Set up: start-up taints gone and every extended resource of the template registered (C5)."""
    if any(taint.key in {other.key for other in pool.startup_taints} for taint in sighting.taints):
        return False
    present = dict(sighting.allocatable)
    return all(present.get(name, 0) > 0 for name, amount in pool.resources if name not in _CORE and amount)


def _sighted(node: Node, sighting: Sighting | None, machine: ProviderNode | None) -> Node:
    changes: dict[str, object] = {}
    if sighting is not None and sighting.ready:
        shape = (sighting.allocatable, sighting.labels, sighting.taints)
        if shape != (node.allocatable, node.labels, node.taints):
            changes = {"allocatable": shape[0], "labels": shape[1], "taints": shape[2]}
    if machine is not None and machine.id != node.provider_id:
        changes["provider_id"] = machine.id
    return replace(node, **changes) if changes else node


def _late(node: Node, pool: Pool, now_ms: int) -> bool:
    """The present state has lasted longer than its time-out allows."""
    if node.state is NodeState.STARTING:
        return now_ms - node.since_ms > pool.boot_timeout_ms
    if node.state in {NodeState.STOPPING, NodeState.DRAINING}:
        return now_ms - node.since_ms > pool.stop_timeout_ms
    return False


def _with_new(
    snapshot: Snapshot, seen: dict[str, Sighting], machines: dict[str, ProviderNode], fleet: Fleet
) -> tuple[list[Node], tuple[str, ...]]:
    """The records plus hosts that are configured, nodes that joined and machines of ours that have none yet."""
    nodes = list(snapshot.nodes)
    known = {node.name for node in nodes}
    now = snapshot.now_ms
    for pool in fleet.pools:
        for host in pool.hosts:
            if host not in known:
                machine = machines.get(host)
                off = machine is not None and machine.state in _OFF
                state = NodeState.OFF if off else NodeState.UNKNOWN
                nodes.append(Node(name=host, pool=pool.name, state=state, since_ms=now - 1, dark_since_ms=0))
                known.add(host)
    for sighting in seen.values():
        owner = dict(sighting.labels).get(POOL_LABEL, "")
        if sighting.name not in known and owner in fleet.by_name:
            nodes.append(Node(name=sighting.name, pool=owner, state=NodeState.UNKNOWN, since_ms=now - 1))
            known.add(sighting.name)
    strangers = []
    for machine in machines.values():
        if machine.name in known:
            continue
        if machine.ours and machine.pool in fleet.by_name:
            # An order whose answer was lost: the boot time-out runs from when the machine was made.
            since = min(machine.created_ms or now, now)
            nodes.append(
                Node(
                    name=machine.name,
                    pool=machine.pool,
                    state=NodeState.STARTING,
                    provider_id=machine.id,
                    since_ms=since,
                    paid_since_ms=since,
                )
            )
        else:
            strangers.append(machine.name)
    return nodes, tuple(strangers)
