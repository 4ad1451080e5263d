"""What a gateway knows of one resident function: its pods, who waits, and what was last asked of the cluster."""

from __future__ import annotations

import asyncio

from gateway.resident.balance import Balancer, Target
from gateway.resident.facts import Pod, address_of, generation_of, trouble_of
from gateway.resident.scaling import Load
from penstock.model import Function


class FunctionState:
    def __init__(self, function: Function, *, slots: int, queue: int) -> None:
        self.function = function
        self.balancer = Balancer(slots=slots, queue=queue)
        self.pods: dict[str, Pod] = {}
        #: Pods that were found to be up.
        self.up: dict[str, Target] = {}
        self.probes: dict[str, asyncio.Task[None]] = {}
        self.futures: dict[object, asyncio.Future[Target]] = {}
        #: Of the Deployment: number of pods, and generation; 0 = there is none.
        self.replicas = 0
        self.generation = 0
        #: The leader has compared it with what we would make, in this generation.
        self.checked = 0
        #: Old files were removed for this generation.
        self.tidied = 0
        #: Why the cluster could not be asked for pods, "" = it could.
        self.trouble = ""
        self.growing: asyncio.Task[None] | None = None
        self.news = asyncio.Event()
        self.key = ""
        self.again: asyncio.TimerHandle | None = None

    def load(self, now: float) -> Load:
        balancer = self.balancer
        return Load(waiting=balancer.waiting, mine=balancer.mine, others=balancer.others(now))

    def assign(self) -> None:
        """Give free pods to those who wait, now and when one that refused may be asked again."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for ticket, target in self.balancer.assign(now):
            future = self.futures.get(ticket)
            if future is None or future.done():
                self.balancer.over(target.name)
            else:
                future.set_result(target)
        if self.again is not None:
            self.again.cancel()
            self.again = None
        pause = self.balancer.again_s(now)
        if pause is not None:
            self.again = loop.call_later(max(pause, 0.001), self.assign)

    def offer(self) -> None:
        self.balancer.offer(list(self.up.values()))
        self.assign()

    def refuse(self, error: Exception) -> None:
        """Nobody who waits will get a pod."""
        for ticket, future in self.futures.items():
            if not future.done():
                self.balancer.leave(ticket)
                future.set_exception(error)

    def why(self) -> str:
        """What a caller who waited in vain is told."""
        if self.trouble:
            return self.trouble
        for pod in self.pods.values():
            if told := trouble_of(pod):
                return told
        if self.up:
            return "all its pods are busy"
        return "a pod of it is still starting" if self.pods else "it has no pod yet"

    def target(self, pod: Pod) -> Target:
        return Target(name=pod.metadata.name, address=address_of(pod), generation=generation_of(pod.metadata))

    def forget(self, name: str) -> None:
        """A pod is gone or leaving."""
        probe = self.probes.pop(name, None)
        if probe is not None:
            probe.cancel()
        if self.up.pop(name, None) is not None:
            self.offer()

    def close(self) -> None:
        for probe in self.probes.values():
            probe.cancel()
        if self.growing is not None:
            self.growing.cancel()
        if self.again is not None:
            self.again.cancel()
