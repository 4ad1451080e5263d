"""A cluster and a cloud in memory with a clock of their own, and the real service over them.

Nothing of the service is replaced: its journal, sender, tidier, engine and the simulated driver run as in production.
What is made up is the cluster's answers (`PlayedCluster`), the store (`MemoryStore`) and time. Both can break at any
call, and the whole process can die at any call: `Crash` is raised out of the call, either before or after its effect,
and the next life has only what was stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from penstock.errors import NotFound, Unavailable
from penstock.ports import NodeAdd, NodeTarget, OrderAnswer, ProviderNode, ProviderState, StopHow
from scaler.control import Hooks
from scaler.drivers.simulated import SimulatedProvider
from scaler.kube import Mark
from scaler.machines import Machines
from scaler.model import Pod, PodKind, View
from scaler.observe import POOL_LABEL, Sighting
from scaler.pools import Fleet
from scaler.reading import Fresh
from scaler.records import State
from scaler.service import ScalerService
from scaler.store import packed, unpacked
from scaler.timing import Timing
from scaler.world import Seen
from tests.scaler.building import NOW, make_pod, make_spec

CPU = 8000
_SPECS = (make_spec(1000), make_spec(3000), make_spec(8000))


class Crash(BaseException):
    """The process is killed."""


class Trap:
    """Counts calls into the outside; kills at the one that was chosen, before or after its effect."""

    def __init__(self) -> None:
        self.calls = 0
        self.at = 0
        self.after = False

    def before(self) -> None:
        self.calls += 1
        if self.calls == self.at and not self.after:
            raise Crash

    def behind(self) -> None:
        if self.calls == self.at and self.after:
            raise Crash


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


class MemoryStore:
    """Keeps bytes, as the real one does."""

    def __init__(self, trap: Trap) -> None:
        self.data = b""
        self.down = False
        self.writes = 0
        self._trap = trap

    async def load(self) -> State:
        if self.down:
            raise Unavailable("the store is down")
        return unpacked(self.data) if self.data else State()

    async def save(self, state: State) -> None:
        self._trap.before()
        if self.down:
            raise Unavailable("the store is down")
        self.data = packed(state)
        self.writes += 1
        self._trap.behind()


class CrashingProvider:
    """The simulated driver, which may lose an answer or take the process with it."""

    def __init__(self, inner: SimulatedProvider, cloud: PlayedCloud) -> None:
        self._inner, self._cloud = inner, cloud
        self.capabilities = inner.capabilities

    def _call(self) -> None:
        self._cloud.trap.before()
        if self._cloud.down:
            raise Unavailable("the provider does not answer")

    async def add(self, nodes: Sequence[NodeAdd]) -> list[OrderAnswer]:
        self._call()
        answers = await self._inner.add(nodes)
        return self._told(answers)

    async def remove(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        self._call()
        self._cloud.powering_off([node.name for node in nodes])
        return self._told(await self._inner.remove(nodes))

    async def start(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        self._call()
        return self._told(await self._inner.start(nodes))

    async def stop(self, nodes: Sequence[NodeTarget], *, how: StopHow = StopHow.SOFT) -> list[OrderAnswer]:
        self._call()
        self._cloud.powering_off([node.name for node in nodes])
        return self._told(await self._inner.stop(nodes, how=how))

    def _told(self, answers: list[OrderAnswer]) -> list[OrderAnswer]:
        self._cloud.check_bounds()
        self._cloud.trap.behind()
        if self._cloud.loses_answers:
            raise Unavailable("the answer was lost")
        return answers

    async def close(self) -> None:
        await self._inner.close()

    async def list(self) -> list[ProviderNode]:
        if self._cloud.down:
            raise Unavailable("the provider does not answer")
        listed = await self._inner.list()
        stuck = self._cloud.stuck
        return [replace(one, state=ProviderState.STARTING) if one.name in stuck else one for one in listed]


class PlayedCloud:
    """The machines, which outlive the scaler, and what must never happen to them."""

    def __init__(self, fleet: Fleet, clock: Clock, trap: Trap) -> None:
        self.fleet, self.trap = fleet, trap
        self.machines = SimulatedProvider(fleet.pools, clock=clock)
        self.down = self.loses_answers = False
        self.stuck: set[str] = set()
        self.working: Callable[[str], list[str]] = lambda _: []
        self.removals = 0

    def powering_off(self, names: Sequence[str]) -> None:
        self.removals += len(names)
        for name in names:
            assert not self.working(name), f"{name} was powered off with {self.working(name)} on it"

    def check_bounds(self) -> None:
        for pool in self.fleet.pools:
            on = sum(one.on and one.pool == pool.name for one in self.machines._machines.values())
            assert on <= pool.max, f"{on} machines of pool {pool.name} are on"


class PlayedCluster:
    """Node objects and pods; `World` for the service."""

    def __init__(self, cloud: PlayedCloud, clock: Clock, trap: Trap) -> None:
        self._cloud, self._clock, self._trap = cloud, clock, trap
        self.pods: dict[str, Pod] = {}
        self.down = ""
        self.dark: set[str] = set()
        self.objects: set[str] = set()
        self.cordoned: set[str] = set()
        self.steered: set[str] = set()
        self.serial = 0
        self._seen = Seen(sightings=(), pods=(), nodes_view=View(as_of_ms=0), pods_view=View(as_of_ms=0), marks={})
        cloud.working = self.working

    def working(self, name: str) -> list[str]:
        return [uid for uid, pod in self.pods.items() if pod.node == name and pod.kind is PodKind.WORK]

    def ready(self) -> set[str]:
        machines = self._cloud.machines
        on = {
            one.name
            for one in machines._machines.values()
            if one.on and machines._state(one) is ProviderState.ON and one.name not in self._cloud.stuck
        }
        self.objects |= on
        return on - self.dark

    def schedule(self) -> None:
        """The scheduler, and the kubelet's part: pods on machines that are off are gone."""
        on = self.ready()
        running = {name for name in self.objects if name in on or name in self.dark}
        for uid in [uid for uid, pod in self.pods.items() if pod.node and pod.node not in running]:
            del self.pods[uid]
        free = dict.fromkeys(sorted(on - self.cordoned, key=lambda name: (name in self.steered, name)), CPU)
        for pod in self.pods.values():
            if pod.node in free:
                free[pod.node] -= dict(pod.spec.requests)["cpu"]
        for uid, pod in self.pods.items():
            if not pod.node:
                need = dict(pod.spec.requests)["cpu"]
                node = next((name for name, room in free.items() if room >= need), "")
                if node:
                    free[node] -= need
                self.pods[uid] = replace(pod, node=node, unschedulable=not node)

    def submit(self, count: int) -> None:
        for _ in range(count):
            self.serial += 1
            uid = f"p{self.serial}"
            self.pods[uid] = make_pod(uid, _SPECS[self.serial % 3], unschedulable=False)

    # World

    def listen(self, changed: Callable[[bool], None]) -> None:
        self.changed = changed

    def look(self) -> Seen:
        now = self._clock()
        if not self.down:
            ready = self.ready()
            self._seen = Seen(
                sightings=tuple(
                    Sighting(name=name, ready=name in ready, labels=((POOL_LABEL, self._pool(name)),))
                    for name in sorted(self.objects)
                ),
                pods=tuple(self.pods.values()),
                nodes_view=View(as_of_ms=now),
                pods_view=View(as_of_ms=now),
                marks={
                    name: Mark("uid", "1", name in ready, name in self.steered, name in self.cordoned)
                    for name in self.objects
                },
            )
        elif self.down == "partial":
            broken = View(as_of_ms=now, complete=False)
            return replace(self._seen, pods=(), sightings=(), pods_view=broken, nodes_view=broken)
        return self._seen

    def _pool(self, name: str) -> str:
        for pool in self._cloud.fleet.pools:
            if name in pool.hosts or (pool.made and name.startswith(pool.name_pattern.partition("{n}")[0])):
                return pool.name
        raise AssertionError(name)

    def _write(self) -> None:
        self._trap.before()
        if self.down:
            raise Unavailable("the API server does not answer")

    async def read(self, name: str) -> Fresh:
        self._write()
        pods = tuple(pod for pod in self.pods.values() if pod.node == name)
        return Fresh(asked_ms=self._clock(), pods=pods)

    async def cordon(self, name: str) -> None:
        self._write()
        if name not in self.objects:
            raise NotFound(f"no node {name}")
        self.cordoned.add(name)
        self._trap.behind()

    async def uncordon(self, name: str) -> None:
        self._write()
        self.cordoned.discard(name)

    async def evict(self, pod: Pod) -> bool:
        self._write()
        self.pods.pop(pod.uid, None)
        return True

    async def steer(self, name: str, *, on: bool) -> None:
        self._write()
        (self.steered.add if on else self.steered.discard)(name)

    async def forget(self, name: str, mark: Mark) -> None:
        self._write()
        self.objects.discard(name)
        self.cordoned.discard(name)
        self.steered.discard(name)


class Play:
    """The whole: cluster, cloud, store, and a life of the service at a time."""

    def __init__(self, fleet: Fleet, hooks: Hooks | None = None, *, settle_ms: int = 3_000) -> None:
        self.fleet, self.hooks = fleet, hooks
        self.clock, self.trap = Clock(), Trap()
        self.cloud = PlayedCloud(fleet, self.clock, self.trap)
        self.cluster = PlayedCluster(self.cloud, self.clock, self.trap)
        self.store = MemoryStore(self.trap)
        self.settle_ms = settle_ms
        self.crashes = 0
        self.service = self._born()

    def _born(self) -> ScalerService:
        drivers = [
            Machines(name, CrashingProvider(self.cloud.machines, self.cloud), clock=self.clock, changed=lambda: None)
            for name in sorted({pool.driver for pool in self.fleet.pools})
        ]
        self.opened = False
        return ScalerService(
            fleet=self.fleet,
            store=self.store,
            world=self.cluster,
            drivers=drivers,
            clock=self.clock,
            hooks=self.hooks,
            timing=Timing(settle_ms=self.settle_ms),
        )

    async def turn(self) -> None:
        """One turn of the service with everything that it starts; a crash makes a new life."""
        try:
            if not self.opened:
                try:
                    await self.service.open()
                except Unavailable:
                    return
                self.opened = True
            await self.service.turn()
            await self.service.settled()
            if self.service._sender.aside.failure is not None:
                raise self.service._sender.aside.failure
        except Crash:
            await self.die()

    async def die(self) -> None:
        self.crashes += 1
        self.trap.at = 0
        await self.service._sender.aside.close()
        self.service = self._born()

    async def wait(self, seconds: float) -> None:
        self.clock.now += int(seconds * 1000)
        self.cluster.schedule()

    async def live(self, seconds: int, *, step: int = 2) -> None:
        """Let time pass with a turn every `step` seconds."""
        for _ in range(0, seconds, step):
            await self.wait(step)
            await self.turn()
            await asyncio.sleep(0)

    def on(self) -> set[str]:
        return {one.name for one in self.cloud.machines._machines.values() if one.on}
