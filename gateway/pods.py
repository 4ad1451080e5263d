"""What the gateway reads of a cluster: running scripts' output from their pods, and nodes and pods for the status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from dispatcher.kubernetes.client import SELECTOR
from dispatcher.kubernetes.logs import written
from dispatcher.kubernetes.manifest import LABEL_JOB, NOTE_ITEMS, USER, decode_items
from gateway.cluster import ClusterFacts, NodeFacts
from penstock.adapters.kubernetes.client import KubernetesClient
from penstock.errors import Forbidden, NotFound
from penstock.quantity import cpu_millis, memory_bytes

_POLL_S = 0.5
#: Seconds that what the API server said of the cluster is used again.
KEEP_S = 5.0
#: Values of a node's label `type` by which another system behind a kubelet of its own is known.
_VIRTUAL = frozenset({"virtual-kubelet", "interlink"})
_ENDED = {"Succeeded", "Failed"}
GPU = "nvidia.com/gpu"


class PodLogs:
    """A `LiveLogs` over the API server."""

    def __init__(self, client: KubernetesClient, namespace: str) -> None:
        self._client = client
        self._pods = f"/api/v1/namespaces/{namespace}/pods"

    async def log(self, name: str, invocation: str, *, offset: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        """Of a Job with one item; a list of items shares one stream, which tells nobody's output apart.

        Raises NotFound (no pod of this Job), Unavailable.
        """
        pod = await self._started(name, invocation, wait=follow)
        if not pod:
            return
        params = {"container": USER} | ({"follow": "true"} if follow else {})
        async for chunk in written(self._client.stream(f"{self._pods}/{pod}/log", params, silence_s=0), offset):
            yield chunk

    async def _started(self, name: str, invocation: str, *, wait: bool) -> str:
        """The pod's name once the script's container has started; "" = it has not, or never will."""
        while True:
            found = await self._client.get(self._pods, labelSelector=f"{LABEL_JOB}={name}")
            pods = found.get("items") or []
            if not pods:
                raise NotFound(f"there is no pod of the Job {name}")
            newest = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
            if not _alone(newest, invocation):
                raise NotFound(f"the Job {name} runs several items, whose output is told apart when they have ended")
            state = _state(newest)
            if "running" in state or "terminated" in state:
                return str(newest["metadata"]["name"])
            if not wait or newest.get("status", {}).get("phase") in _ENDED:
                return ""
            await asyncio.sleep(_POLL_S)


def _state(pod: dict[str, Any]) -> dict[str, Any]:
    """Of the user's container."""
    told = pod.get("status", {}).get("containerStatuses") or ()
    return next((one.get("state") or {} for one in told if one["name"] == USER), {})


def _alone(pod: dict[str, Any], invocation: str) -> bool:
    notes = pod["metadata"].get("annotations") or {}
    if NOTE_ITEMS not in notes:
        return False  # a list too long for the pod's annotations
    items = decode_items(notes[NOTE_ITEMS])
    return [item.invocation for item in items] == [invocation]


class KubernetesCluster:
    """A `ClusterView` over the API server, asked at most once in a while whoever looks."""

    def __init__(self, client: KubernetesClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._version = ""
        self._known: ClusterFacts | None = None
        self._asked = float("-inf")
        self._lock = asyncio.Lock()

    async def facts(self) -> ClusterFacts:
        async with self._lock:
            if self._known is None or time.monotonic() - self._asked > KEEP_S:
                self._known = await self._ask()
                self._asked = time.monotonic()
            return self._known

    async def _ask(self) -> ClusterFacts:
        if not self._version:
            self._version = str((await self._client.get("/version")).get("gitVersion", ""))
        try:
            nodes = (await self._client.get("/api/v1/nodes")).get("items") or []
            everywhere = (await self._client.get("/api/v1/pods")).get("items") or []
        except Forbidden:
            # An installation that gave no right over the whole cluster: what is ours is shown, nodes are not.
            nodes, everywhere = [], []
        pods = await self._client.get(f"/api/v1/namespaces/{self._namespace}/pods", labelSelector=SELECTOR)
        return facts_of(nodes, everywhere, pods.get("items") or [], version=self._version, namespace=self._namespace)


def facts_of(
    nodes: list[dict[str, Any]],
    everywhere: list[dict[str, Any]],
    ours: list[dict[str, Any]],
    *,
    version: str,
    namespace: str,
) -> ClusterFacts:
    """Pure. Use is not measured here, so it counts as what is requested."""
    requested: dict[str, list[int]] = {}
    for pod in everywhere:
        node = pod.get("spec", {}).get("nodeName", "")
        if node and pod.get("status", {}).get("phase") not in _ENDED:
            cpu, memory = _requests(pod)
            sums = requested.setdefault(node, [0, 0])
            sums[0] += cpu
            sums[1] += memory
    phases: dict[str, int] = {}
    for pod in ours:
        phase = str(pod.get("status", {}).get("phase", "Unknown"))
        phases[phase] = phases.get(phase, 0) + 1
    return ClusterFacts(
        nodes=tuple(_node(node, requested) for node in nodes),
        pods=phases,
        kubernetes_version=version,
        namespace=namespace,
    )


def _requests(pod: dict[str, Any]) -> tuple[int, int]:
    cpu = memory = 0
    for container in pod.get("spec", {}).get("containers") or ():
        asked = (container.get("resources") or {}).get("requests") or {}
        cpu += cpu_millis(str(asked.get("cpu", "0")))
        memory += memory_bytes(str(asked.get("memory", "0")))
    return cpu, memory


def _node(node: dict[str, Any], requested: dict[str, list[int]]) -> NodeFacts:
    name = str(node["metadata"]["name"])
    room = node.get("status", {}).get("allocatable") or {}
    conditions = tuple(
        (str(one["type"]), one.get("status") == "True") for one in node.get("status", {}).get("conditions") or ()
    )
    cpu, memory = requested.get(name, [0, 0])
    labels = node["metadata"].get("labels") or {}
    return NodeFacts(
        name=name,
        ready=dict(conditions).get("Ready", False),
        cpu_millis=cpu_millis(str(room.get("cpu", "0"))),
        memory_bytes=memory_bytes(str(room.get("memory", "0"))),
        cpu_millis_used=cpu,
        memory_bytes_used=memory,
        cpu_millis_requested=cpu,
        memory_bytes_requested=memory,
        gpus=int(room.get(GPU, 0)),
        virtual=labels.get("type") in _VIRTUAL,
        conditions=conditions,
    )
