"""A node without a machine, whose pods end as their labels say: with an exit code, a reason, or not at all.

A KWOK of its own beside the bed's (which ends every pod of a Job with 0) keeps the node alive and plays the pods that
ask for it. Most tests want the kubelet's part under their own control and at once: `Kubelet` plays it. The node is
tainted, so that no other test's pods land there.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

from dispatcher.kubernetes.facts import Pod
from penstock.adapters.kubernetes import KubernetesClient
from penstock.adapters.kubernetes.client import encode
from penstock.adapters.kubernetes.watching import Follower, Snapshot
from penstock.errors import NotFound
from penstock.model import JobPlan
from tests.kubernetes.plans import plan
from tests.testbed.bed import Bed
from tests.testbed.building import Words
from tests.testbed.component import Member
from tests.testbed.kwok import ANNOTATION, Kwok
from tests.testbed.lookup import obtain
from tests.testbed.probe import http_ok

NODE = "plays-exits"
MARK = "penstock.test/node"
EXIT, REASON, HOLD, BY = (f"penstock.test/{word}" for word in ("exit", "reason", "hold", "by"))

#: Settings of a runner whose pods go there.
THERE: dict[str, Any] = {
    "node_selector": {MARK: "exits"},
    "tolerations": ({"key": MARK, "operator": "Exists", "effect": "NoSchedule"},),
    "grace_s": 1,
}

STAGES = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: pod-starts
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchLabels: {penstock.test/by: kwok}
    matchExpressions:
    - {key: '.status.phase', operator: In, values: [Pending]}
  next:
    statusTemplate: |
      {{ $now := Now }}
      containerStatuses:
      {{ range .spec.containers }}
      - image: {{ .image | Quote }}
        name: {{ .name | Quote }}
        ready: true
        restartCount: 0
        state:
          running:
            startedAt: {{ $now | Quote }}
      {{ end }}
      phase: Running
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: pod-ends-as-labelled
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchLabels: {penstock.test/by: kwok}
    matchExpressions:
    - {key: '.status.phase', operator: In, values: [Running]}
  next:
    statusTemplate: |
      {{ $now := Now }}
      {{ $labels := .metadata.labels }}
      {{ $code := or (index $labels "penstock.test/exit") "0" }}
      {{ $reason := or (index $labels "penstock.test/reason") "Completed" }}
      containerStatuses:
      {{ range .spec.containers }}
      - image: {{ .image | Quote }}
        name: {{ .name | Quote }}
        ready: false
        restartCount: 0
        state:
          terminated:
            {{ if eq .name "oscar-container" }}
            exitCode: {{ $code }}
            reason: {{ $reason | Quote }}
            {{ else }}
            exitCode: 0
            reason: Completed
            {{ end }}
            finishedAt: {{ $now | Quote }}
            startedAt: {{ $now | Quote }}
      {{ end }}
      phase: {{ if eq $code "0" }}Succeeded{{ else }}Failed{{ end }}
"""


class PlayedExits(Kwok):
    """The second KWOK."""

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self.folder = bed.folder / "kwok-exits"
        self.data = self.folder / "data"

    async def prepare(self) -> list[Member]:
        await self.bed.kubernetes.start()
        program = obtain("kwok")
        stage = self.folder / "stage.yaml"
        stage.write_text(STAGES)
        usual = sorted(program.parent.glob("node-*.yaml"))
        argv: Words = [
            program,
            f"--kubeconfig={self.bed.kubernetes.kubeconfig}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-annotation-selector={ANNOTATION}=exits",
            "--node-lease-duration-seconds=0",
            f"--server-address={self._server}",
            *(f"--config={file}" for file in [*usual, stage]),
        ]

        async def ready() -> bool:
            return await http_ok(f"http://{self._server}/healthz")

        return [Member("kwok-exits", argv, ready, grace=3)]

    async def add_node(self) -> None:
        """The one node, with room for everything these tests make."""
        capacity = {"cpu": "1000", "memory": "4000Gi", "pods": "2000"}
        document = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE, "annotations": {ANNOTATION: "exits"}, "labels": {MARK: "exits"}},
            "spec": {"taints": [{"key": MARK, "value": "exits", "effect": "NoSchedule"}]},
            "status": {"capacity": capacity, "allocatable": capacity},
        }
        async with self.bed.kubernetes.api() as api:
            await api.create("/api/v1/nodes", document)

            async def ready() -> bool:
                found = await api.get(f"/api/v1/nodes/{NODE}")
                return ("Ready", "True") in {(c["type"], c["status"]) for c in found["status"].get("conditions", ())}

            await api.until("the played node is Ready", ready)


class Kubelet:
    """Starts and ends the pods of one namespace on the played node, as their labels say."""

    def __init__(self, api: KubernetesClient, namespace: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._pods: Follower[Pod] = Follower(api, self._path, Pod)

    async def run(self) -> None:
        async for news in self._pods.follow():
            for pod in news.items if isinstance(news, Snapshot) else [] if news.deleted else [news.item]:
                await self.play(pod)

    async def play(self, pod: Pod) -> None:
        marks = pod.metadata.labels
        if not pod.spec.nodeName or BY in marks:
            return
        name = pod.metadata.name
        if pod.metadata.deletionTimestamp is not None:
            await self._status(name, _containers({"terminated": {"exitCode": 143, "reason": "Error"}}), "Failed")
            options = encode({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
            with contextlib.suppress(NotFound):
                await self._api.request("DELETE", f"{self._path}/{name}", options)
        elif pod.status.phase == "Pending":
            await self._status(name, _containers({"running": {"startedAt": _now()}}), "Running")
        elif pod.status.phase == "Running" and HOLD not in marks:
            code = int(marks.get(EXIT, "0"))
            ended = {
                "exitCode": code,
                "reason": marks.get(REASON, "Completed"),
                "startedAt": _now(),
                "finishedAt": _now(),
            }
            await self._status(name, _containers({"terminated": ended}), "Failed" if code else "Succeeded")

    async def _status(self, name: str, containers: list[dict[str, Any]], phase: str) -> None:
        body = {"status": {"phase": phase, "containerStatuses": containers, "startTime": _now()}}
        with contextlib.suppress(NotFound):
            await self._api.send(
                "PATCH", f"{self._path}/{name}/status", body, content_type="application/merge-patch+json"
            )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _containers(state: dict[str, Any]) -> list[dict[str, Any]]:
    rest = {"image": "i", "imageID": "", "ready": False, "restartCount": 0}
    return [{"name": name, "state": state, **rest} for name in ("input", "output", "oscar-container")]


def ends(
    name: str, code: int = 0, *, reason: str = "", hold: bool = False, by: str = "", count: int = 1, **changes: Any
) -> JobPlan:
    """A plan whose pod is played to end like this; `hold` = it runs until it is deleted."""
    labels = (
        {EXIT: str(code)}
        | ({REASON: reason} if reason else {})
        | ({HOLD: "1"} if hold else {})
        | ({BY: by} if by else {})
    )
    return plan(name, count, labels=labels, **changes)
