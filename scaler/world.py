"""The cluster as the service sees and touches it: two watched collections, and a handful of small writes.

Nothing is polled. Each view says how old it is: when the server was last heard on that watch, which a quiet watch
proves every few seconds by ending and beginning anew. A watch that broke makes its view incomplete until it has been
going again for a moment, because what happened meanwhile is still being told then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

import msgspec

from penstock.adapters.kubernetes import KubernetesClient
from penstock.adapters.kubernetes.client import MERGE_PATCH, encode
from penstock.adapters.kubernetes.trouble import DisruptionRefused, Pushback
from penstock.adapters.kubernetes.watching import Change, Follower, Snapshot
from penstock.errors import Conflict, NotFound
from scaler.kube import REMOVING_TAINT, Mark, NodeObject, PodObject, mark_of, pod_of, sighting_of
from scaler.model import Pod, PodSpec, View
from scaler.observe import Sighting
from scaler.predicates import STEER_TAINT
from scaler.reading import PODS, Fresh, NodeReads, PodLists

NODES = "/api/v1/nodes"
#: A quiet watch is renewed this often: half of the age at which the engine stops trusting a view.
WATCH_S = 12
#: What happened during a break is told within this time after the watch goes again.
CATCH_UP_MS = 2_000
_CONFLICTS = 8
#: Distinct pod specs remembered for sharing.
_SPECS = 50_000


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster at one moment."""

    sightings: tuple[Sighting, ...]
    pods: tuple[Pod, ...]
    nodes_view: View
    pods_view: View
    #: By node.
    marks: dict[str, Mark]


class World(Protocol):
    """What the service needs of a cluster. Every write is idempotent and raises Unavailable, Forbidden."""

    def look(self) -> Seen: ...

    def listen(self, changed: Callable[[bool], None]) -> None:
        """Have `changed` called at every change; True = a pod became unschedulable."""
        ...

    async def read(self, name: str) -> Fresh:
        """The pods bound to the node, newer than every write acknowledged so far. Raises Unavailable."""
        ...

    async def cordon(self, name: str) -> None:
        """Soft-taint and cordon, marked as ours. Raises NotFound when there is no such node object."""
        ...

    async def evict(self, pod: Pod) -> bool:
        """Ask for the pod to be evicted; False = a disruption budget does not allow it now."""
        ...

    async def uncordon(self, name: str) -> None:
        """Take our marks and cordon back; a cordon without our mark is left alone."""
        ...

    async def steer(self, name: str, *, on: bool) -> None: ...

    async def forget(self, name: str, mark: Mark) -> None:
        """Delete the node object, if it is still exactly the one that `mark` was taken from."""
        ...


class _Watched:
    """How much one view can be trusted."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._heard_ms = 0
        self._listed = False
        self._broken = False
        self._again_ms = 0

    def heard(self, alive: bool) -> None:
        now = self._clock()
        if not alive:
            self._broken = True
            return
        if self._broken:
            self._broken, self._again_ms = False, now + CATCH_UP_MS
        self._heard_ms = now

    def listed(self) -> None:
        self._listed, self._again_ms = True, 0

    def view(self) -> View:
        complete = self._listed and not self._broken and self._clock() >= self._again_ms
        return View(as_of_ms=self._heard_ms, complete=complete)


class KubernetesWorld:
    """`clock` is wall time in milliseconds, the same as the service's."""

    def __init__(self, client: KubernetesClient, *, clock: Callable[[], int], watch_s: int = WATCH_S) -> None:
        self._client = client
        self._clock = clock
        self._nodes_watch, self._pods_watch = _Watched(clock), _Watched(clock)
        self._nodes = Follower(client, NODES, NodeObject, watch_s=watch_s, heard=self._nodes_watch.heard)
        self._pods = Follower(client, PODS, PodObject, watch_s=watch_s, heard=self._pods_watch.heard)
        self._sightings: dict[str, Sighting] = {}
        self._marks: dict[str, Mark] = {}
        self._bodies: dict[str, Pod] = {}
        self._specs: dict[PodSpec, PodSpec] = {}
        self._changed: Callable[[bool], None] = _nobody
        self._decode_node = msgspec.json.Decoder(NodeObject).decode
        self._reads = NodeReads(PodLists(client, watched=self._known), clock=clock)

    def listen(self, changed: Callable[[bool], None]) -> None:
        """As `World.listen`."""
        self._changed = changed

    def _known(self) -> Iterable[Pod]:
        return self._bodies.values()

    def loops(self) -> dict[str, Coroutine[Any, Any, None]]:
        """The endless loops that keep the views; whoever composes the service runs them."""
        return {"watch nodes": self._follow_nodes(), "watch pods": self._follow_pods()}

    async def _follow_nodes(self) -> None:
        async for told in self._nodes.follow():
            if isinstance(told, Snapshot):
                self._sightings = {one.metadata.name: sighting_of(one) for one in told.items}
                self._marks = {one.metadata.name: mark_of(one) for one in told.items}
                self._nodes_watch.listed()
                self._changed(False)
            else:
                self._node_changed(told)

    def _node_changed(self, told: Change[NodeObject]) -> None:
        name = told.item.metadata.name
        if told.deleted:
            self._sightings.pop(name, None)
            self._marks.pop(name, None)
            self._changed(False)
            return
        before, sighting = self._sightings.get(name), sighting_of(told.item)
        self._marks[name] = mark_of(told.item)
        # Heartbeats change nothing that matters.
        if sighting != before:
            self._sightings[name] = sighting
            self._changed(False)

    async def _follow_pods(self) -> None:
        async for told in self._pods.follow():
            if isinstance(told, Snapshot):
                self._specs.clear()
                pods = (pod_of(one, self._specs) for one in told.items)
                self._bodies = {pod.uid: pod for pod in pods if pod is not None}
                self._pods_watch.listed()
                self._changed(any(pod.unschedulable for pod in self._bodies.values()))
            else:
                self._pod_changed(told)

    def _pod_changed(self, told: Change[PodObject]) -> None:
        uid = told.item.metadata.uid
        if len(self._specs) > _SPECS:
            self._specs.clear()  # of pods that are long gone, mostly
        pod = None if told.deleted else pod_of(told.item, self._specs)
        before = self._bodies.get(uid)
        if pod == before:
            return
        if pod is None:
            del self._bodies[uid]
        else:
            self._bodies[uid] = pod
        self._changed(pod is not None and pod.unschedulable and not (before is not None and before.unschedulable))

    def look(self) -> Seen:
        """As `World.look`."""
        return Seen(
            sightings=tuple(self._sightings.values()),
            pods=tuple(self._bodies.values()),
            nodes_view=self._nodes_watch.view(),
            pods_view=self._pods_watch.view(),
            marks=self._marks.copy(),
        )

    async def read(self, name: str) -> Fresh:
        """As `World.read`."""
        return await self._reads.read(name)

    async def _node(self, name: str) -> NodeObject | None:
        try:
            return self._decode_node(await self._client.request("GET", f"{NODES}/{name}"))
        except NotFound:
            return None

    async def cordon(self, name: str) -> None:
        """As `World.cordon`."""
        soft = {"key": STEER_TAINT, "effect": "PreferNoSchedule"}
        hard = {"key": REMOVING_TAINT, "effect": "NoSchedule"}
        await self._change(name, add=[soft, hard], unschedulable=True, drop={STEER_TAINT, REMOVING_TAINT})

    async def uncordon(self, name: str) -> None:
        """As `World.uncordon`."""
        found = await self._node(name)
        if found is None or not mark_of(found).removing:
            return
        # A soft taint that steering gave goes too; the next plan gives it back if it is still wanted.
        await self._change(name, add=[], unschedulable=False, drop={STEER_TAINT, REMOVING_TAINT})

    async def evict(self, pod: Pod) -> bool:
        """As `World.evict`."""
        namespace, _, name = pod.name.partition("/")
        metadata = {"name": name, "namespace": namespace}
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": metadata,
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
        try:
            await self._client.send("POST", path, body)
        except DisruptionRefused:
            return False
        except (NotFound, Conflict):
            return True  # gone, or another pod of that name by now
        return True

    async def steer(self, name: str, *, on: bool) -> None:
        """As `World.steer`."""
        soft = [{"key": STEER_TAINT, "effect": "PreferNoSchedule"}] if on else []
        await self._change(name, add=soft, unschedulable=None, drop={STEER_TAINT})

    async def _change(
        self, name: str, *, add: list[dict[str, str]], unschedulable: bool | None, drop: set[str]
    ) -> None:
        """Taints are one list that others write too: replaced only in exactly the version that was read."""
        path = f"{NODES}/{name}"
        for _ in range(_CONFLICTS):
            try:
                found = await self._client.get(path)
                kept = [taint for taint in found["spec"].get("taints") or () if taint["key"] not in drop]
                spec: dict[str, Any] = {"taints": [*kept, *add]}
                if unschedulable is not None:
                    spec["unschedulable"] = unschedulable
                body = encode({"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}, "spec": spec})
                await self._client.request("PATCH", path, body, content_type=MERGE_PATCH)
            except Conflict:
                continue
            except NotFound:
                if add:
                    raise
                return
            else:
                return
        raise Pushback(f"node {name} changes faster than its taints can be set")

    async def forget(self, name: str, mark: Mark) -> None:
        """As `World.forget`."""
        body = encode({"preconditions": {"uid": mark.uid, "resourceVersion": mark.version}})
        with contextlib.suppress(NotFound, Conflict):  # gone, or another by now: the watch tells
            await self._client.request("DELETE", f"{NODES}/{name}", body)


def _nobody(_: bool) -> None:
    """Before anybody listens."""
