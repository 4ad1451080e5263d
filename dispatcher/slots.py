"""How much of the runner's room is in use: whole numbers in, a yes or no out. Pure."""

from __future__ import annotations

from penstock.model import JobPlan
from penstock.ports import Room


class Slots:
    def __init__(self, room: Room) -> None:
        self.room = room
        self.cpu_millis = 0
        self.memory_bytes = 0
        self._jobs: dict[str, tuple[int, int]] = {}

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

    def take(self, plan: JobPlan) -> None:
        if plan.name in self._jobs:
            return
        cpu, memory = self._jobs[plan.name] = self.needs(plan)
        self.cpu_millis += cpu
        self.memory_bytes += memory

    def give_back(self, job: str) -> None:
        cpu, memory = self._jobs.pop(job, (0, 0))
        self.cpu_millis -= cpu
        self.memory_bytes -= memory

    def free(self, cpu_millis: int | None) -> int:
        """How many Jobs of a function with this request could start now, at least 1."""
        if self.room.cpu_millis is None:
            return 1
        each = min(cpu_millis or self.room.default_cpu_millis, self.room.cpu_millis)
        return max(1, (self.room.cpu_millis - self.cpu_millis) // max(1, each))

    def describe(self) -> str:
        if self.room.cpu_millis is None:
            return "waits for the cluster"
        text = f"{self.cpu_millis / 1000:g} of {self.room.cpu_millis / 1000:g} processors are taken"
        if self.memory_bytes and self.room.memory_bytes:
            text += f" and {self.memory_bytes / self.room.memory_bytes:.0%} of the memory"
        return text
