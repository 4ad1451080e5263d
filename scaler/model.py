"""What the scaler decides on and what it answers: frozen values without behaviour of their own.

The snapshot is everything a decision may look at. Each part says how old it is and whether it is complete, because the
worst thing a scaler can do is to take "could not read" for "empty". Times are milliseconds since the epoch, 0 = never.
"""

from __future__ import annotations

import enum

import msgspec

from penstock.model import FunctionDemand
from penstock.ports import ProviderNode

#: Amounts of resources in whole units (cpu: thousandths of a core), in order of name; hashable.
Amounts = tuple[tuple[str, int], ...]
Labels = tuple[tuple[str, str], ...]


class Taint(msgspec.Struct, frozen=True, cache_hash=True):
    key: str
    value: str = ""
    effect: str = "NoSchedule"


class Toleration(msgspec.Struct, frozen=True, cache_hash=True):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class Requirement(msgspec.Struct, frozen=True, cache_hash=True):
    """One expression of a node selector term; operator In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class PodSpec(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """What decides where a pod fits. Pods with equal specs are one group: share the value, it hashes once."""

    #: Effective request (`scaler.demand.effective_request`).
    requests: Amounts = ()
    selector: Labels = ()
    #: Required node affinity: any term, all of its requirements.
    affinity: tuple[tuple[Requirement, ...], ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    #: As "protocol/port", with the address before it if one is given: "TCP/80", "10.0.0.1:TCP/80".
    host_ports: tuple[str, ...] = ()
    #: Constraints the engine does not model, in words: it refuses to help such a pod rather than guess.
    unmodelled: tuple[str, ...] = ()


class PodKind(enum.StrEnum):
    WORK = "work"
    DAEMON = "daemon"  # comes and goes with its node: no demand, no obstacle
    MIRROR = "mirror"  # static pod of the kubelet
    #: Its owner said that it may be evicted: demand like any other, and no obstacle where it fits on another node.
    MOVABLE = "movable"


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that has not finished."""

    uid: str
    spec: PodSpec
    name: str = ""
    #: Where it is bound; "" = nowhere yet.
    node: str = ""
    kind: PodKind = PodKind.WORK
    #: The scheduler tried and found no room (condition PodScheduled=False, reason Unschedulable).
    unschedulable: bool = False
    #: Why it is no demand although unbound: "gated", "suspended", "terminating", "nominated"; "" = it is.
    parked: str = ""
    #: All or nothing with the pods of the same name; "" = alone.
    gang: str = ""
    gang_size: int = 0
    gang_per_node: int = 0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Room asked for by a person or program, before any pod exists (CLUES's request). All tasks or none."""

    id: str
    spec: PodSpec
    tasks: int = 1
    #: Most tasks on one node; 0 = no limit.
    per_node: int = 0
    until_ms: int


class NodeState(enum.StrEnum):
    OFF = "off"  # read back from the provider, or never made
    STARTING = "starting"  # ordered on
    IDLE = "idle"  # ready, no work
    USED = "used"  # ready, with work
    DRAINING = "draining"  # picked to go: tainted and cordoned, power still on; can be taken back
    STOPPING = "stopping"  # power-off sent; must become off before it can come back
    FAILED_ON = "failed_on"  # told to go on and did not; power not known to be off
    FAILED_OFF = "failed_off"  # told to go off and is still on
    UNKNOWN = "unknown"  # was there and is not seen: never the same as off


# For loops over thousands of nodes and pods: a member looked up in its class costs ten times a global.
OFF, STARTING, IDLE, USED = NodeState.OFF, NodeState.STARTING, NodeState.IDLE, NodeState.USED
DRAINING, UNKNOWN = NodeState.DRAINING, NodeState.UNKNOWN


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """The scaler's record of a node. All of it is stored, so a restart loses no clock, count or order."""

    name: str
    pool: str
    state: NodeState = NodeState.OFF
    provider_id: str = ""
    #: False: no policy touches it; its free room still counts while it is on.
    enabled: bool = True
    #: Start of the present state; of being on; of being without work; of not being seen; of the paid time.
    since_ms: int = 0
    on_since_ms: int = 0
    idle_since_ms: int = 0
    dark_since_ms: int = 0
    paid_since_ms: int = 0
    #: What it was before it went dark.
    before_dark: NodeState | None = None
    #: Failures in a row of going on and of going off, and when the next try is due.
    failures_on: int = 0
    failures_off: int = 0
    backoff_until_ms: int = 0
    #: The driver said "not yet" until then (C10); no failure.
    not_yet_until_ms: int = 0
    #: Grows with each order; with the name it makes the order's key.
    generation: int = 0
    cycles: int = 0
    #: As last seen in the cluster; empty = use the pool's template.
    allocatable: Amounts = ()
    labels: Labels = ()
    taints: tuple[Taint, ...] = ()


class PoolRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a pool between decisions."""

    name: str
    failures: int = 0
    backoff_until_ms: int = 0
    why: str = ""


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """A node promised to pods or requests that wait (C9). Over when `until_ms` is past or no owner waits.

    Negative: the node was ready until the promise was over, at that time, and nobody used it.
    """

    node: str
    owners: tuple[str, ...]
    until_ms: int


class View(msgspec.Struct, frozen=True, kw_only=True):
    """How far one part of a snapshot can be trusted."""

    as_of_ms: int
    complete: bool = True


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    now_ms: int
    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    requests: tuple[Request, ...] = ()
    backlog: tuple[FunctionDemand, ...] = ()
    provider: tuple[ProviderNode, ...] = ()
    pools: tuple[PoolRecord, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    #: Soft-tainted by an earlier plan: schedulers fill them last.
    steered: frozenset[str] = frozenset()
    nodes_view: View
    pods_view: View
    #: None = nothing publishes a backlog here.
    backlog_view: View | None = None
    #: One per driver; a pool whose driver is missing has no complete view.
    provider_views: dict[str, View] = {}


class OrderKind(enum.StrEnum):
    START = "start"
    ADD = "add"
    #: Take out (C13): taint, cordon, re-check, evict, then power off or delete.
    STOP = "stop"
    REMOVE = "remove"
    #: Take a draining node back into service.
    RELEASE = "release"

    @property
    def removes(self) -> bool:
        return self in {OrderKind.STOP, OrderKind.REMOVE}

    @property
    def wakes(self) -> bool:
        return self in {OrderKind.START, OrderKind.ADD}


class NodeOrder(msgspec.Struct, frozen=True, kw_only=True):
    kind: OrderKind
    node: str
    pool: str
    #: The same order has the same key, also after a restart.
    key: str
    provider_id: str = ""
    reason: str


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Why a node that is on and idle, or that a person might expect to change, stays as it is."""

    node: str
    reason: str
    #: When this reason ends by itself; 0 = by an event only.
    until_ms: int = 0


class Unhelped(msgspec.Struct, frozen=True, kw_only=True):
    """Demand that no order of this plan serves. Alike pods share one entry."""

    owners: tuple[str, ...]
    count: int
    reason: str
    #: True: no node this scaler can bring would ever serve it as things are configured.
    hopeless: bool = False


class ScalePlan(msgspec.Struct, frozen=True, kw_only=True):
    now_ms: int
    orders: tuple[NodeOrder, ...] = ()
    kept: tuple[Kept, ...] = ()
    unhelped: tuple[Unhelped, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    steered: frozenset[str] = frozenset()
    #: Sentences for people: frozen removals, machines nobody knows, nodes that went dark.
    alarms: tuple[str, ...] = ()
    #: Decide again then even if nothing changes; 0 = only on a change.
    next_ms: int = 0
