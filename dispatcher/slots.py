"""How much of the runner's room is in use: whole numbers in, a yes or no out. Pure.

Two kinds of room: on one machine, processors and memory; in a cluster, Jobs that are accepted and do not run yet. The
second is never measured free capacity: with no node at all there must still be Jobs for an autoscaler to see, so each
function with work may have one waiting, whatever the others have.
"""

from __future__ import annotations

from collections import Counter

from penstock.model import JobPlan
from penstock.ports import Room


class Slots:
    def __init__(self, room: Room) -> None:
        self.room = room
        self.cpu_millis = 0
        self.memory_bytes = 0
        self._jobs: dict[str, tuple[int, int]] = {}
        #: Jobs that were submitted and do not run yet, with their function.
        self._pending: dict[str, str] = {}
        self._pending_of: Counter[str] = Counter()

    def needs(self, plan: JobPlan) -> tuple[int, int]:
        """(processor millis, bytes) that a Job holds while it runs; what asks for more than there is takes all."""
        cpu = plan.resources.cpu_millis or self.room.default_cpu_millis
        memory = plan.resources.memory_bytes or 0
        if self.room.cpu_millis is not None:
            cpu = min(cpu, self.room.cpu_millis)
        if self.room.memory_bytes is not None:
            memory = min(memory, self.room.memory_bytes)
        return cpu, memory

    def fits(self, plan: JobPlan) -> bool:
        cpu, memory = self.needs(plan)
        enough_cpu = self.room.cpu_millis is None or self.cpu_millis + cpu <= self.room.cpu_millis
        enough_memory = self.room.memory_bytes is None or self.memory_bytes + memory <= self.room.memory_bytes
        return enough_cpu and enough_memory

    def may_pend(self, function_uid: str) -> bool:
        """Whether one more Job of a function may wait in the cluster."""
        limit = self.room.pending_jobs
        return not limit or len(self._pending) < limit or not self._pending_of[function_uid]

    def take(self, plan: JobPlan) -> None:
        if plan.name in self._jobs:
            return
        cpu, memory = self._jobs[plan.name] = self.needs(plan)
        self.cpu_millis += cpu
        self.memory_bytes += memory
        self._pending[plan.name] = plan.function_uid
        self._pending_of[plan.function_uid] += 1

    def began(self, job: str) -> bool:
        """The Job runs now and waits no longer; True = that is news."""
        uid = self._pending.pop(job, None)
        if uid is None:
            return False
        self._pending_of[uid] -= 1
        if not self._pending_of[uid]:
            del self._pending_of[uid]
        return True

    def give_back(self, job: str) -> None:
        cpu, memory = self._jobs.pop(job, (0, 0))
        self.cpu_millis -= cpu
        self.memory_bytes -= memory
        self.began(job)

    @property
    def pending(self) -> int:
        """Jobs that were submitted and do not run yet."""
        return len(self._pending)

    def pending_of(self, function_uid: str) -> int:
        return self._pending_of[function_uid]

    @property
    def full(self) -> bool:
        """No Job of the usual size fits any more."""
        if self.room.cpu_millis is None:
            return bool(self.room.pending_jobs) and self.pending >= self.room.pending_jobs
        return self.cpu_millis + self.room.default_cpu_millis > self.room.cpu_millis

    def plannable(self) -> int:
        """How many Jobs of the usual size could be submitted at once, at least 1."""
        if self.room.cpu_millis is None:
            return max(1, self.room.pending_jobs - self.pending)
        return self.free(None)

    def width(self, cpu_millis: int | None) -> int:
        """How many Jobs of a function with this request run at once, 0 = nobody knows (a cluster)."""
        if self.room.cpu_millis is None:
            return 0
        return max(1, self.room.cpu_millis // max(1, cpu_millis or self.room.default_cpu_millis))

    def free(self, cpu_millis: int | None) -> int:
        """How many Jobs of a function with this request could start now, at least 1. A cluster does not say, so lists
        are not split for it.
        """
        if self.room.cpu_millis is None:
            return 1
        each = min(cpu_millis or self.room.default_cpu_millis, self.room.cpu_millis)
        return max(1, (self.room.cpu_millis - self.cpu_millis) // max(1, each))

    def describe(self) -> str:
        if self.room.cpu_millis is None:
            if self.full:
                return f"{self.pending} Jobs wait for a place in the cluster, as many as are let in at once"
            return "waits for the cluster"
        text = f"{self.cpu_millis / 1000:g} of {self.room.cpu_millis / 1000:g} processors are taken"
        if self.memory_bytes and self.room.memory_bytes:
            text += f" and {self.memory_bytes / self.room.memory_bytes:.0%} of the memory"
        return text
