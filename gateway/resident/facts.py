"""What is read of Deployments and pods, and what it means. Pure.

A pod's own probe decides when runs are sent to it, not the kubelet's, which looks once a second; of the API server only
the address is needed, and whether the pod is leaving.
"""

from __future__ import annotations

import msgspec

from dispatcher.kubernetes.manifest import LABEL_GENERATION, LABEL_UID
from dispatcher.sidecar.calls import PORT


class Meta(msgspec.Struct, frozen=True):
    name: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    resourceVersion: str = ""  # noqa: N815 - the API's name
    deletionTimestamp: str | None = None  # noqa: N815


class _Waiting(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""


class _State(msgspec.Struct, frozen=True):
    waiting: _Waiting | None = None


class _Container(msgspec.Struct, frozen=True):
    name: str
    state: _State = _State()


class _Condition(msgspec.Struct, frozen=True):
    type: str
    status: str = ""
    reason: str = ""
    message: str = ""


class _PodStatus(msgspec.Struct, frozen=True):
    phase: str = ""
    podIP: str = ""  # noqa: N815
    conditions: list[_Condition] = []
    containerStatuses: list[_Container] = []  # noqa: N815


class Pod(msgspec.Struct, frozen=True):
    metadata: Meta
    status: _PodStatus = _PodStatus()


class _DeploymentSpec(msgspec.Struct, frozen=True):
    replicas: int = 0


class Deployment(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: _DeploymentSpec = _DeploymentSpec()


#: What a container waits for in the usual course of its start.
_USUAL = frozenset({"", "ContainerCreating", "PodInitializing"})


def uid_of(meta: Meta) -> str:
    return meta.labels.get(LABEL_UID, "")


def generation_of(meta: Meta) -> int:
    text = meta.labels.get(LABEL_GENERATION, "")
    return int(text) if text.isdigit() else 0


def address_of(pod: Pod) -> str:
    """`http://IP:PORT` of a pod that may be asked, "" = there is none yet or no longer."""
    address = pod.status.podIP
    if not address or pod.metadata.deletionTimestamp or pod.status.phase in {"Succeeded", "Failed"}:
        return ""
    return f"http://[{address}]:{PORT}" if ":" in address else f"http://{address}:{PORT}"


def trouble_of(pod: Pod) -> str:
    """Why it does not start, "" = nothing is known to be wrong."""
    for container in pod.status.containerStatuses:
        waits = container.state.waiting
        if waits is not None and waits.reason not in _USUAL:
            return f"the container {container.name} waits: {waits.reason} {waits.message[:300]}".rstrip()
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"there is no node for it: {condition.message[:300]}".rstrip()
    return ""
