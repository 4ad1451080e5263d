"""The real service on the real control plane: pods that run without end, nodes by the KWOK driver, lives at will."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from penstock.adapters.kubernetes import Access, ClientSettings, KubernetesClient, from_kubeconfig
from penstock.adapters.kubernetes.watching import Change, Follower, Snapshot
from penstock.errors import AlreadyExists, PenstockError
from penstock.tasks import Supervisor
from scaler.drivers.kwok import KwokProvider
from scaler.kube import NodeObject, PodObject
from scaler.machines import Machines
from scaler.pools import Fleet
from scaler.production import now_ms
from scaler.service import ScalerService
from scaler.store import ConfigMapStore
from scaler.timing import Timing
from scaler.window import Window
from scaler.world import KubernetesWorld

TIMING = Timing(settle_ms=1500, retry_ms=1000)


class CountingClient(KubernetesClient):
    """Counts what is asked for, by method and kind of object; a watch is none of it."""

    def __init__(self, access: Access, settings: ClientSettings | None = None) -> None:
        super().__init__(access, settings)
        self.asked: Counter[str] = Counter()

    async def request(self, method: str, path: str, *args: Any, **options: Any) -> bytes:
        kind = re.sub(r"^/apis?/[^/]+/(v[0-9]+/)?(namespaces/[^/]+/)?", "", path).partition("/")[0]
        self.asked[f"{method} {kind}"] += 1
        return await super().request(method, path, *args, **options)


class Life:
    """One life of the scaler: its own client and views. `kill` ends it in the middle of whatever it does."""

    def __init__(self, kubeconfig: Path, fleet: Fleet, *, namespace: str, driver: str) -> None:
        access = from_kubeconfig(kubeconfig)
        self.client = self._client = CountingClient(access, ClientSettings(attempt_s=5, patience_s=10))
        self._world = KubernetesWorld(self._client, clock=now_ms)
        provider = KwokProvider(self._client, fleet.pools, name=driver)
        self.machines = Machines("kwok", provider, clock=now_ms, changed=self._changed)
        self.service = ScalerService(
            fleet=fleet,
            store=ConfigMapStore(self._client, namespace=namespace, name="scaler"),
            world=self._world,
            drivers=[self.machines],
            clock=now_ms,
            timing=TIMING,
            window=Window(),
        )
        self._supervisor = Supervisor()
        self._running: asyncio.Task[None] | None = None

    def _changed(self) -> None:
        self.service.changed()

    def start(self) -> None:
        for name, loop in self._world.loops().items():
            self._supervisor.start(name, loop)
        self._supervisor.start("scaler", self.service.run())
        self._running = asyncio.create_task(self._supervisor.run(), name="life")

    async def kill(self) -> None:
        """Nothing is said goodbye to: what is stored in the cluster is all that the next life gets."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError, PenstockError):
                await self._running
        await self.service.close()
        await self._client.close()

    def failed(self) -> bool:
        return self._running is not None and self._running.done()


@contextlib.asynccontextmanager
async def life(kubeconfig: Path, fleet: Fleet, *, namespace: str, driver: str) -> AsyncIterator[Life]:
    one = Life(kubeconfig, fleet, namespace=namespace, driver=driver)
    one.start()
    try:
        yield one
    finally:
        await one.kill()


class Watcher:
    """An outsider that sees every node and pod: when each was made, whether a running pod's node was ever deleted."""

    def __init__(self, client: KubernetesClient, *, namespace: str, driver: str) -> None:
        self._pods = Follower(client, f"/api/v1/namespaces/{namespace}/pods", PodObject)
        self._nodes = Follower(client, "/api/v1/nodes", NodeObject, selector=f"penstock.dev/driver={driver}")
        #: By pod: name of its node; pods that are gone are gone.
        self.bound: dict[str, str] = {}
        self.pods: dict[str, PodObject] = {}
        self.nodes: dict[str, str] = {}
        self.unschedulable_at: dict[str, float] = {}
        self.made_at: dict[str, float] = {}
        self.ever: set[str] = set()
        self.killed: list[str] = []

    async def follow_pods(self) -> None:
        async for told in self._pods.follow():
            if isinstance(told, Snapshot):
                self.pods = {one.metadata.uid: one for one in told.items}
                self.bound = {one.metadata.uid: one.spec.nodeName for one in told.items if one.spec.nodeName}
                continue
            self._pod(told)

    def _pod(self, told: Change[PodObject]) -> None:
        pod = told.item
        uid = pod.metadata.uid
        if told.deleted:
            self.pods.pop(uid, None)
            self.bound.pop(uid, None)
            return
        self.pods[uid] = pod
        if pod.spec.nodeName:
            self.bound[uid] = pod.spec.nodeName
        elif any(one.reason == "Unschedulable" for one in pod.status.conditions):
            self.unschedulable_at.setdefault(uid, time.monotonic())

    async def follow_nodes(self) -> None:
        async for told in self._nodes.follow():
            if isinstance(told, Snapshot):
                before, self.nodes = self.nodes, {one.metadata.name: one.metadata.uid for one in told.items}
                self.ever |= set(self.nodes.values())
                self._gone(before.keys() - self.nodes.keys())
                continue
            name, uid = told.item.metadata.name, told.item.metadata.uid
            if told.deleted:
                self.nodes.pop(name, None)
                self._gone({name})
            else:
                self.nodes[name] = uid
                self.ever.add(uid)
                self.made_at.setdefault(uid, time.monotonic())

    def _gone(self, names: set[str]) -> None:
        self.killed += [pod for pod, node in self.bound.items() if node in names]


@contextlib.asynccontextmanager
async def watching(kubeconfig: Path, *, namespace: str, driver: str) -> AsyncIterator[Watcher]:
    client = KubernetesClient(from_kubeconfig(kubeconfig))
    watcher = Watcher(client, namespace=namespace, driver=driver)
    tasks = [asyncio.create_task(one, name="outsider") for one in (watcher.follow_pods(), watcher.follow_nodes())]
    try:
        yield watcher
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await client.close()


def pod(
    name: str, *, cpu: str = "1", memory: str = "1Gi", labels: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    """A pod that no owner stands behind and that runs until it is deleted."""
    resources = {"requests": {"cpu": cpu, "memory": memory}}
    container = {"name": "main", "image": "none", "resources": resources}
    tolerations = [{"key": "penstock.test/scaler", "operator": "Exists"}]
    chosen = {"penstock.test/scaled": "yes"}
    body = {"containers": [container], "tolerations": tolerations, "nodeSelector": chosen, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}}, "spec": body}


async def create_pods(client: KubernetesClient, namespace: str, count: int, *, prefix: str = "p", **spec: Any) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"

    async def create(number: int) -> None:
        with contextlib.suppress(AlreadyExists):
            await client.send("POST", path, pod(f"{prefix}-{number}", **spec))

    for start in range(0, count, 500):
        await asyncio.gather(*(create(number) for number in range(start, min(count, start + 500))))


async def delete_pods(client: KubernetesClient, namespace: str, *, selector: str = "") -> None:
    """All of them, or those that a label selector names, some hundreds per call: listing thousands before the first is
    deleted outlasts a call.
    """
    body = b'{"gracePeriodSeconds": 0, "propagationPolicy": "Background"}'
    path = f"/api/v1/namespaces/{namespace}/pods"
    chosen = {"labelSelector": selector} if selector else {}
    while (await client.get(path, limit="1", **chosen)).get("items"):
        await client.request("DELETE", path, body, params={"limit": "500", **chosen}, patience_s=300)


async def until(what: str, check: Callable[[], bool | Awaitable[bool]], *, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < deadline, f"still not so after {seconds:.0f} s: {what}"
        await asyncio.sleep(0.1)
