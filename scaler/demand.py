"""What is wanted: pods, requests and backlog turned into groups of alike units. Pure.

A thousand alike pods are one group and cost one decision (C7). Which pods count follows C5: unbound, not parked (gated,
suspended, terminating, nominated), not daemons or static pods; only those the scheduler found no room for wake nodes,
the others merely keep the nodes they are about to use.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from penstock.model import FunctionDemand
from scaler.model import Amounts, Pod, PodKind, PodSpec, Snapshot, Toleration

#: Come and go with their node.
_FIXED = frozenset({PodKind.DAEMON, PodKind.MIRROR})


class Container(msgspec.Struct, frozen=True, kw_only=True):
    requests: Amounts = ()
    #: An init container with restartPolicy Always: started in its turn, runs beside the others (sidecar).
    sidecar: bool = False


def effective_request(
    containers: Iterable[Container], init: Iterable[Container] = (), overhead: Amounts = ()
) -> Amounts:
    """What the scheduler reserves for a pod, per resource, plus one of "pods".

    The larger of: everything that runs beside each other (containers and sidecars), and the most that the start needs
    (an init container with the sidecars started before it); plus the overhead of its runtime class.
    """
    running: dict[str, int] = {}
    peak: dict[str, int] = {}
    for one in init:
        if one.sidecar:
            _add(running, one.requests)
            continue
        for name, amount in one.requests:
            peak[name] = max(peak.get(name, 0), amount + running.get(name, 0))
    for one in containers:
        _add(running, one.requests)
    total = {name: max(running.get(name, 0), peak.get(name, 0)) for name in running.keys() | peak.keys()}
    _add(total, overhead)
    total["pods"] = 1
    return tuple(sorted((name, amount) for name, amount in total.items() if amount))


def _add(total: dict[str, int], amounts: Amounts) -> None:
    for name, amount in amounts:
        total[name] = total.get(name, 0) + amount


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Alike units of demand."""

    spec: PodSpec
    count: int
    #: Pods' uids, a request's id or a function's uid; one per unit only for pods.
    owners: tuple[str, ...]
    #: May wake nodes; False: only keeps those it will soon use.
    wakes: bool = True
    #: All units or none, at most `per_node` on one node (0 = no limit).
    gang: bool = False
    per_node: int = 0
    #: In words, for reasons.
    title: str = ""


def groups(snapshot: Snapshot, unbound: Iterable[Pod], *, backlog: bool) -> list[Group]:
    """Everything that waits, alike units together: of the snapshot's pods those that are bound nowhere, its requests
    and its backlog. `backlog` False: the backlog's view is stale and is left out.
    """
    alike: dict[tuple[PodSpec, bool], list[str]] = {}
    gangs: dict[str, list[Pod]] = {}
    for pod in unbound:
        if pod.parked or pod.kind in _FIXED:
            continue
        if pod.gang:
            gangs.setdefault(pod.gang, []).append(pod)
        else:
            alike.setdefault((pod.spec, pod.unschedulable), []).append(pod.uid)
    found = [
        Group(spec=spec, count=len(uids), owners=tuple(uids), wakes=wakes, title=_pods(len(uids)))
        for (spec, wakes), uids in alike.items()
    ]
    bound = _bound_of(snapshot, gangs) if gangs else {}
    found.extend(_gang(name, pods, bound.get(name, 0)) for name, pods in gangs.items())
    found.extend(
        Group(
            spec=request.spec,
            count=request.tasks,
            owners=(request.id,),
            gang=True,
            per_node=request.per_node,
            title=f"request {request.id}",
        )
        for request in snapshot.requests
        if request.until_ms > snapshot.now_ms
    )
    if backlog:
        found.extend(group for demand in snapshot.backlog if (group := _of_function(demand)) is not None)
    return found


def _bound_of(snapshot: Snapshot, gangs: dict[str, list[Pod]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for pod in snapshot.pods:
        if pod.node and pod.gang in gangs:
            counts[pod.gang] = counts.get(pod.gang, 0) + 1
    return counts


def _gang(name: str, pods: list[Pod], bound: int) -> Group:
    # Members that do not exist yet are wanted as well: a gang that is started in part helps nobody.
    size = max(len(pods), max(pod.gang_size for pod in pods) - bound)
    spec = pods[0].spec
    if any(pod.spec != spec for pod in pods):
        spec = replace(spec, unmodelled=(*spec.unmodelled, "a gang of unlike pods"))
    return Group(
        spec=spec,
        count=size,
        owners=tuple(pod.uid for pod in pods),
        wakes=any(pod.unschedulable for pod in pods),
        gang=True,
        per_node=pods[0].gang_per_node,
        title=f"gang {name} of {size}",
    )


def _of_function(demand: FunctionDemand) -> Group | None:
    """The Jobs that the dispatcher will create for what is queued, as many as may still run at once."""
    jobs = -(-demand.queued // max(1, demand.items_per_job))
    if demand.concurrency:
        jobs = min(jobs, demand.concurrency - demand.running)
    if jobs <= 0:
        return None
    requests = {"cpu": demand.cpu_millis, "memory": demand.memory_bytes, "pods": 1}
    if demand.gpu_resource:
        requests[demand.gpu_resource] = demand.gpu
    spec = PodSpec(
        requests=tuple(sorted((name, amount) for name, amount in requests.items() if amount)),
        selector=tuple(sorted(demand.node_selector.items())),
        tolerations=tuple(
            Toleration(*(str(one.get(field) or usual) for field, usual in _TOLERATION)) for one in demand.tolerations
        ),
    )
    owner = f"function/{demand.function_uid}"
    return Group(spec=spec, count=jobs, owners=(owner,), title=f"{jobs} jobs queued for function {demand.function}")


#: Fields of a toleration as in a pod's spec, each with what it means when it is not there.
_TOLERATION = (("key", ""), ("operator", "Equal"), ("value", ""), ("effect", ""))


def _pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"
