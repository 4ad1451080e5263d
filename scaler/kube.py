"""From the cluster's pods and nodes to what the engine decides on. Pure.

Only the fields that matter are decoded. What the engine does not model is named (`PodSpec.unmodelled`), so that it
refuses to help such a pod instead of guessing. Amounts are read by the one exact parser; a pod whose amounts it cannot
read is named too, and never ends a look at the world (CLUES's monitor ended at "3920m").
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from penstock.errors import InvalidInput
from penstock.quantity import cpu_millis, memory_bytes
from scaler.demand import Container, effective_request
from scaler.model import Amounts, Pod, PodKind, PodSpec, Requirement, Taint, Toleration
from scaler.observe import Sighting
from scaler.predicates import STEER_TAINT

#: On nodes that this scaler has cordoned, beside the cordon: tells ours from one that a person set.
REMOVING_TAINT = "penstock.dev/removing"
_CORDON_TAINT = "node.kubernetes.io/unschedulable"
GANG_LABEL = "penstock.dev/gang"
GANG_SIZE_LABEL = "penstock.dev/gang-size"
GANG_PER_NODE_LABEL = "penstock.dev/gang-per-node"
_MIRROR = "kubernetes.io/config.mirror"
#: "true" on either: the pod may be evicted when its node is to go.
EVICTABLE = ("penstock.dev/evictable", "cluster-autoscaler.kubernetes.io/safe-to-evict")
_FINISHED = frozenset({"Succeeded", "Failed"})
_NOTHING = PodSpec()


class OwnerObject(msgspec.Struct):
    kind: str = ""
    controller: bool = False


class PodMeta(msgspec.Struct):
    name: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    ownerReferences: list[OwnerObject] = []  # noqa: N815 - here and below: the API's names
    deletionTimestamp: str | None = None  # noqa: N815


class Resources(msgspec.Struct):
    requests: dict[str, str] = {}


class Port(msgspec.Struct):
    hostPort: int = 0  # noqa: N815
    hostIP: str = ""  # noqa: N815
    protocol: str = "TCP"


class ContainerObject(msgspec.Struct):
    resources: Resources = msgspec.field(default_factory=Resources)
    ports: list[Port] = []
    restartPolicy: str = ""  # noqa: N815


class Expression(msgspec.Struct):
    key: str
    operator: str
    values: list[str] = []


class Term(msgspec.Struct):
    matchExpressions: list[Expression] = []  # noqa: N815
    matchFields: list[Expression] = []  # noqa: N815


class Required(msgspec.Struct):
    nodeSelectorTerms: list[Term] = []  # noqa: N815


class NodeAffinity(msgspec.Struct):
    requiredDuringSchedulingIgnoredDuringExecution: Required | None = None  # noqa: N815


class PodAffinity(msgspec.Struct):
    requiredDuringSchedulingIgnoredDuringExecution: list[msgspec.Raw] = []  # noqa: N815


class Affinity(msgspec.Struct):
    nodeAffinity: NodeAffinity | None = None  # noqa: N815
    podAffinity: PodAffinity | None = None  # noqa: N815
    podAntiAffinity: PodAffinity | None = None  # noqa: N815


class TolerationObject(msgspec.Struct):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class Spread(msgspec.Struct):
    whenUnsatisfiable: str = ""  # noqa: N815


class PodSpecObject(msgspec.Struct):
    nodeName: str = ""  # noqa: N815
    containers: list[ContainerObject] = []
    initContainers: list[ContainerObject] = []  # noqa: N815
    overhead: dict[str, str] = {}
    resources: Resources | None = None
    nodeSelector: dict[str, str] = {}  # noqa: N815
    affinity: Affinity | None = None
    tolerations: list[TolerationObject] = []
    topologySpreadConstraints: list[Spread] = []  # noqa: N815
    schedulingGates: list[msgspec.Raw] = []  # noqa: N815
    resourceClaims: list[msgspec.Raw] = []  # noqa: N815


class Condition(msgspec.Struct):
    type: str
    status: str = ""
    reason: str = ""


class PodStatus(msgspec.Struct):
    phase: str = ""
    conditions: list[Condition] = []
    nominatedNodeName: str = ""  # noqa: N815


class PodObject(msgspec.Struct):
    metadata: PodMeta
    spec: PodSpecObject = msgspec.field(default_factory=PodSpecObject)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class BoundSpec(msgspec.Struct):
    nodeName: str = ""  # noqa: N815


class BoundStatus(msgspec.Struct):
    phase: str = ""


class BoundObject(msgspec.Struct):
    """Of a pod only what tells whether its node may go."""

    metadata: PodMeta
    spec: BoundSpec = msgspec.field(default_factory=BoundSpec)
    status: BoundStatus = msgspec.field(default_factory=BoundStatus)


class NodeMeta(msgspec.Struct):
    name: str
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815
    labels: dict[str, str] = {}


class NodeSpec(msgspec.Struct):
    unschedulable: bool = False
    taints: list[Taint] = []


class NodeStatus(msgspec.Struct):
    allocatable: dict[str, str] = {}
    conditions: list[Condition] = []


class NodeObject(msgspec.Struct):
    metadata: NodeMeta
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)


class Mark(msgspec.Struct, frozen=True):
    """What a node object says about this scaler's own doings."""

    uid: str
    version: str
    ready: bool
    #: It has the soft taint.
    steered: bool
    #: We have cordoned it.
    removing: bool


def amounts(requests: dict[str, str]) -> Amounts:
    """Raises InvalidInput."""
    return _amounts(tuple(sorted(requests.items())))


@lru_cache(maxsize=16_384)
def _amounts(requests: tuple[tuple[str, str], ...]) -> Amounts:
    return tuple((name, cpu_millis(text) if name == "cpu" else memory_bytes(text)) for name, text in requests)


def pod_of(found: PodObject, specs: dict[PodSpec, PodSpec]) -> Pod | None:
    """None when it has finished. `specs` makes pods with equal specs share one value."""
    meta, spec, status = found.metadata, found.spec, found.status
    if status.phase in _FINISHED:
        return None
    made = _spec(spec)
    labels = meta.labels
    return Pod(
        uid=meta.uid,
        name=f"{meta.namespace}/{meta.name}",
        node=spec.nodeName,
        spec=specs.setdefault(made, made),
        kind=_kind(meta),
        unschedulable=not spec.nodeName and _unschedulable(status),
        parked="" if spec.nodeName else _parked(found),
        gang=f"{meta.namespace}/{labels[GANG_LABEL]}" if labels.get(GANG_LABEL) else "",
        gang_size=_count(labels.get(GANG_SIZE_LABEL)),
        gang_per_node=_count(labels.get(GANG_PER_NODE_LABEL)),
    )


def bound_pod(found: BoundObject) -> Pod | None:
    """None when it has finished. What it asks for is left out."""
    if found.status.phase in _FINISHED:
        return None
    meta = found.metadata
    name = f"{meta.namespace}/{meta.name}"
    return Pod(uid=meta.uid, name=name, node=found.spec.nodeName, spec=_NOTHING, kind=_kind(meta))


def _spec(spec: PodSpecObject) -> PodSpec:
    unmodelled = _unmodelled(spec)
    request: Amounts = ()
    try:
        request = effective_request(
            (Container(requests=amounts(one.resources.requests)) for one in spec.containers),
            (
                Container(requests=amounts(one.resources.requests), sidecar=one.restartPolicy == "Always")
                for one in spec.initContainers
            ),
            amounts(spec.overhead),
        )
    except InvalidInput as error:
        unmodelled.append(f"a resource request: {error}")
    if spec.resources is not None and spec.resources.requests:
        unmodelled.append("resources of the pod as a whole")
    return PodSpec(
        requests=request,
        selector=tuple(sorted(spec.nodeSelector.items())),
        affinity=_affinity(spec.affinity),
        tolerations=tuple(Toleration(one.key, one.operator, one.value, one.effect) for one in spec.tolerations),
        host_ports=tuple(
            f"{port.hostIP}:{port.protocol}/{port.hostPort}" if port.hostIP else f"{port.protocol}/{port.hostPort}"
            for container in spec.containers
            for port in container.ports
            if port.hostPort
        ),
        unmodelled=tuple(unmodelled),
    )


def _affinity(affinity: Affinity | None) -> tuple[tuple[Requirement, ...], ...]:
    node = affinity.nodeAffinity if affinity is not None else None
    required = node.requiredDuringSchedulingIgnoredDuringExecution if node is not None else None
    if required is None:
        return ()
    return tuple(
        tuple(Requirement(one.key, one.operator, tuple(one.values)) for one in term.matchExpressions)
        for term in required.nodeSelectorTerms
    )


def _unmodelled(spec: PodSpecObject) -> list[str]:
    found = []
    if affinity := spec.affinity:
        if affinity.podAffinity and affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution:
            found.append("pod affinity")
        if affinity.podAntiAffinity and affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution:
            found.append("pod anti-affinity")
        required = affinity.nodeAffinity and affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution
        if required and any(term.matchFields for term in required.nodeSelectorTerms):
            found.append("node affinity by fields")
    if any(one.whenUnsatisfiable == "DoNotSchedule" for one in spec.topologySpreadConstraints):
        found.append("topology spread")
    if spec.resourceClaims:
        found.append("resource claims")
    return found


def _kind(meta: PodMeta) -> PodKind:
    if _MIRROR in meta.annotations:
        return PodKind.MIRROR
    if any(owner.controller and owner.kind == "DaemonSet" for owner in meta.ownerReferences):
        return PodKind.DAEMON
    if any(meta.annotations.get(name) == "true" for name in EVICTABLE):
        return PodKind.MOVABLE
    return PodKind.WORK


def _unschedulable(status: PodStatus) -> bool:
    return any(
        (one.type, one.status, one.reason) == ("PodScheduled", "False", "Unschedulable") for one in status.conditions
    )


def _parked(found: PodObject) -> str:
    if found.metadata.deletionTimestamp is not None:
        return "terminating"
    if found.spec.schedulingGates:
        return "gated"
    return "nominated" if found.status.nominatedNodeName else ""


def _count(text: str | None) -> int:
    """A label's whole number; 0 for what is none, as for a label that is missing."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,6}", text) else 0


def sighting_of(found: NodeObject) -> Sighting:
    """Our own taints are left out: they are told by the record's state, and room on a node that is about to be taken
    back must not look barred.
    """
    ours = {REMOVING_TAINT, STEER_TAINT}
    if _removing(found):
        ours.add(_CORDON_TAINT)
    try:
        allocatable = amounts(found.status.allocatable)
    except InvalidInput:
        allocatable = ()
    return Sighting(
        name=found.metadata.name,
        ready=_ready(found),
        labels=tuple(sorted(found.metadata.labels.items())),
        taints=tuple(taint for taint in found.spec.taints if taint.key not in ours),
        allocatable=allocatable,
    )


def mark_of(found: NodeObject) -> Mark:
    return Mark(
        uid=found.metadata.uid,
        version=found.metadata.resourceVersion,
        ready=_ready(found),
        steered=any(taint.key == STEER_TAINT for taint in found.spec.taints),
        removing=_removing(found),
    )


def _removing(found: NodeObject) -> bool:
    return any(taint.key == REMOVING_TAINT for taint in found.spec.taints)


def _ready(found: NodeObject) -> bool:
    return any((one.type, one.status) == ("Ready", "True") for one in found.status.conditions)
