"""A trace from a live cluster: every pod that ends, with when it came, how long it ran and what it reserved.

The pods are followed, not polled, because a Job's pods may be deleted a second after they end. What is deleted while it
runs counts until then. Daemons and static pods come with their nodes and are no load; pods that never ran are none.
"""

from __future__ import annotations

import asyncio
import csv
import signal
from contextlib import suppress
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import msgspec

from penstock.adapters.kubernetes import Access, KubernetesClient
from penstock.adapters.kubernetes.watching import Change, Follower, Snapshot
from penstock.errors import InvalidInput
from penstock.quantity import cpu_millis, format_bytes, format_cpu, memory_bytes
from scaler.demand import Container, effective_request
from scaler.model import Amounts

_DAEMONS = frozenset({"DaemonSet", "Node"})


class _Resources(msgspec.Struct):
    requests: dict[str, str] = {}


class _Container(msgspec.Struct):
    resources: _Resources = msgspec.field(default_factory=_Resources)
    restartPolicy: str = ""  # noqa: N815 - the API's name


class _Spec(msgspec.Struct):
    containers: list[_Container] = []
    initContainers: list[_Container] = []  # noqa: N815
    overhead: dict[str, str] = {}


class _Owner(msgspec.Struct):
    kind: str = ""


class _Meta(msgspec.Struct):
    uid: str
    name: str = ""
    namespace: str = ""
    creationTimestamp: datetime | None = None  # noqa: N815
    deletionTimestamp: datetime | None = None  # noqa: N815
    ownerReferences: list[_Owner] = []  # noqa: N815


class _Ended(msgspec.Struct):
    startedAt: datetime | None = None  # noqa: N815
    finishedAt: datetime | None = None  # noqa: N815


class _State(msgspec.Struct):
    terminated: _Ended | None = None


class _ContainerStatus(msgspec.Struct):
    state: _State = msgspec.field(default_factory=_State)


class _Status(msgspec.Struct):
    phase: str = ""
    startTime: datetime | None = None  # noqa: N815
    containerStatuses: list[_ContainerStatus] = []  # noqa: N815


class Pod(msgspec.Struct):
    """What of a pod a trace needs."""

    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class Ran(msgspec.Struct, frozen=True):
    """One line of a trace."""

    id: str
    submit: datetime
    runtime_s: float
    requests: Amounts


class Recorder:
    """Pods as they are seen, in; lines of a trace, out. Pure but for `now`, which is an argument."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[Pod, datetime]] = {}
        self.ran: dict[str, Ran] = {}

    def see(self, pod: Pod, now: datetime) -> None:
        """The pod as it is."""
        meta, status = pod.metadata, pod.status
        kinds = {owner.kind for owner in meta.ownerReferences}
        if kinds & _DAEMONS or meta.creationTimestamp is None or meta.uid in self.ran:
            return
        if status.phase in {"Succeeded", "Failed"}:
            known = self._running.pop(meta.uid, None)
            first, ended = _span(status)
            # The node is taken from when its kubelet took the pod, pulling of images included.
            begun = status.startTime or (known[1] if known else first)
            if begun is not None:
                self._end(pod, begun, ended or now)
        elif status.phase == "Running" and meta.uid not in self._running:
            self._running[meta.uid] = (pod, status.startTime or now)

    def gone(self, pod: Pod, now: datetime) -> None:
        """The pod was deleted; `pod` is its last state."""
        self.see(pod, now)
        running = self._running.pop(pod.metadata.uid, None)
        if running is not None:
            self._end(running[0], running[1], now)

    def present(self, pods: list[Pod], now: datetime) -> None:
        """All pods that there are: what ran and is not among them was deleted meanwhile."""
        for pod in pods:
            self.see(pod, now)
        left = {pod.metadata.uid for pod in pods}
        for uid in self._running.keys() - left:
            pod, begun = self._running.pop(uid)
            self._end(pod, begun, now)

    def _end(self, pod: Pod, begun: datetime, ended: datetime) -> None:
        meta = pod.metadata
        assert meta.creationTimestamp is not None
        runtime = (ended - begun).total_seconds()
        if runtime > 0:
            self.ran[meta.uid] = Ran(
                f"{meta.namespace}/{meta.name}", meta.creationTimestamp, runtime, requests_of(pod.spec)
            )


def _span(status: _Status) -> tuple[datetime | None, datetime | None]:
    """From the first container's start to the last one's end, as far as they are told."""
    ended = [one.state.terminated for one in status.containerStatuses if one.state.terminated is not None]
    starts = [one.startedAt for one in ended if one.startedAt is not None]
    ends = [one.finishedAt for one in ended if one.finishedAt is not None]
    return min(starts, default=None), max(ends, default=None)


def requests_of(spec: _Spec) -> Amounts:
    """What the scheduler reserves for the pod."""
    return effective_request(
        [Container(requests=_amounts(one.resources.requests)) for one in spec.containers],
        [
            Container(requests=_amounts(one.resources.requests), sidecar=one.restartPolicy == "Always")
            for one in spec.initContainers
        ],
        _amounts(spec.overhead),
    )


def _amounts(requests: dict[str, str]) -> Amounts:
    read = ((name, cpu_millis(text) if name == "cpu" else memory_bytes(text)) for name, text in requests.items())
    return tuple(sorted(read))


def as_csv(ran: list[Ran], *, about: str = "") -> str:
    """The text of a trace, in order of submission, seconds from the first one. Memory without a request is empty."""
    ordered = sorted(ran, key=lambda one: (one.submit, one.id))
    resources = sorted({name for one in ordered for name, _ in one.requests} - {"cpu", "memory", "pods"})
    out = StringIO()
    if about:
        out.write(f"# {about}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "submit", "runtime", "cpu", "memory", *resources])
    for one in ordered:
        amounts = dict(one.requests)
        since = (one.submit - ordered[0].submit).total_seconds()
        memory = format_bytes(amounts["memory"]) if amounts.get("memory") else ""
        rest = [str(amounts[name]) if name in amounts else "" for name in resources]
        writer.writerow(
            [one.id, f"{since:g}", f"{one.runtime_s:.3f}", format_cpu(amounts.get("cpu", 0)), memory, *rest]
        )
    return out.getvalue()


async def record(
    access: Access, target: Path, *, seconds: float, namespace: str = "", stop: asyncio.Event | None = None
) -> int:
    """Follow the pods for so long, or until `stop` or an interrupt, and write the trace; returns the number of jobs.

    Raises InvalidInput when nothing ended meanwhile or the file cannot be written, and as the client of Kubernetes.
    """
    path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
    recorder, done = Recorder(), stop or asyncio.Event()
    client = KubernetesClient(access)
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError, RuntimeError):  # not the main thread: then only the time ends it
        loop.add_signal_handler(signal.SIGINT, done.set)
    following = asyncio.create_task(_follow(client, path, recorder), name="record")
    waiting = asyncio.create_task(done.wait(), name="stop recording")
    try:
        await asyncio.wait({following, waiting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
    finally:
        with suppress(NotImplementedError, RuntimeError):
            loop.remove_signal_handler(signal.SIGINT)
        for task in (following, waiting):
            task.cancel()
        await asyncio.wait({following, waiting})
        await client.close()
    if not recorder.ran:
        raise InvalidInput("no pod ended while it was recorded; record for longer", where=str(target))
    await asyncio.to_thread(_write, target, as_csv(list(recorder.ran.values())))
    return len(recorder.ran)


def _write(target: Path, text: str) -> None:
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", where=str(target)) from error


async def _follow(client: KubernetesClient, path: str, recorder: Recorder) -> None:
    async for event in Follower(client, path, Pod).follow():
        now = datetime.now(UTC)
        if isinstance(event, Snapshot):
            recorder.present(event.items, now)
        elif isinstance(event, Change):
            (recorder.gone if event.deleted else recorder.see)(event.item, now)
