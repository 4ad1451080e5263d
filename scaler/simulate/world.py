"""A cluster in discrete events: jobs come, a scheduler places them, machines boot and stop, energy is counted.

Nothing happens between events, so quiet time costs nothing. What switches machines is a controller; the world is the
same for all of them. The scheduler is modelled on that of Kubernetes: it takes jobs in order of arrival, passes over
those that do not fit, avoids soft-tainted nodes and spreads over the rest by the least allocated share.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from typing import Protocol

from scaler.model import PodSpec
from scaler.pools import Fleet, Pool, capacity
from scaler.simulate.trace import Job

OFF, BOOTING, ON, STOPPING = range(4)
_END, _BOOTED, _STOPPED = range(3)
#: A controller that does nothing for so long, with nothing under way, will not help the jobs that wait.
_GIVE_UP_MS = 24 * 3_600_000
Need = tuple[tuple[int, int], ...]


class Machine:
    __slots__ = (
        "boots",
        "cores",
        "energy_j",
        "free",
        "idle_ms",
        "jobs",
        "name",
        "off_ms",
        "on_ms",
        "paid_ms",
        "pool",
        "since_ms",
        "started_ms",
        "state",
        "steered",
        "used_cores",
        "whole",
    )

    def __init__(self, name: str, pool: Pool, names: list[str]) -> None:
        offers = capacity(pool)
        self.name = name
        self.pool = pool
        self.whole = [offers.get(resource, 0) for resource in names]
        self.free = list(self.whole)
        self.cores = offers.get("cpu", 0)
        self.used_cores = 0
        self.jobs = 0
        self.state = OFF
        self.steered = False
        #: Ledger: last time it was brought up to date, and the sums so far.
        self.since_ms = 0
        self.energy_j = 0.0
        self.on_ms = 0
        self.idle_ms = 0
        self.off_ms = 0
        self.boots = 0
        self.paid_ms = 0
        self.started_ms = 0

    def account(self, now_ms: int) -> None:
        """Bring energy and times up to now; call before anything about the machine changes."""
        span = now_ms - self.since_ms
        if span <= 0:
            return
        power = self.pool.power
        if self.state == OFF:
            watts = power.off
            self.off_ms += span
        else:
            self.on_ms += span
            if self.state == ON:
                watts = power.on(self.used_cores / self.cores if self.cores else 0.0)
                if not self.jobs:
                    self.idle_ms += span
            else:
                watts = power.boot
        self.energy_j += watts * span / 1000
        self.since_ms = now_ms


class Task:
    """A job in the world."""

    __slots__ = ("job", "need", "order", "placed", "spec")

    def __init__(self, job: Job, order: int, spec: PodSpec, need: Need) -> None:
        self.job = job
        self.order = order
        self.spec = spec
        self.need = need
        #: Machines of its tasks while it runs.
        self.placed: list[Machine] = []


class Controller(Protocol):
    """What switches machines. `next_ms` = when it wants to run, 0 = not before something happens."""

    name: str
    next_ms: int

    def begin(self, world: World) -> None: ...

    def waits(self, task: Task) -> None:
        """A job came and found no room."""
        ...

    def placed(self, task: Task) -> None: ...

    def ended(self, task: Task) -> None: ...

    def switched(self, machine: Machine) -> None:
        """A machine came on or went off."""
        ...

    def run(self) -> None: ...


class World:
    def __init__(self, fleet: Fleet, jobs: Iterable[Job], controller: Controller, *, pack: bool = False) -> None:
        self.fleet = fleet
        self.controller = controller
        self.now = 0
        self._pack = pack
        self._jobs = list(jobs)
        self._next_job = 0
        self.names = sorted({name for job in self._jobs for name, _ in job.requests})
        self._cpu = self.names.index("cpu") if "cpu" in self.names else -1
        self.machines = [Machine(name, pool, self.names) for pool in fleet.pools for name in machine_names(pool)]
        self.by_name = {machine.name: machine for machine in self.machines}
        self.on: dict[str, Machine] = {}
        self._heap: list[tuple[int, int, int, Task | Machine]] = []
        self._serial = itertools.count()
        #: Waiting jobs of one shape, in order of arrival; a shape that found no room waits for a change.
        self.waiting: dict[tuple[Need, int], dict[int, Task]] = {}
        self._stuck: set[tuple[Need, int]] = set()
        self._specs: dict[tuple[tuple[str, int], ...], tuple[PodSpec, Need]] = {}
        self.waits_ms: list[int] = []
        self.running = 0
        self.last_end_ms = 0
        #: (time, machines that are not off, jobs waiting), at every change of the first.
        self.samples: list[tuple[int, int, int]] = []
        self._not_off = 0
        controller.begin(self)

    def start_on(self, machine: Machine) -> None:
        """On from the beginning, without a boot."""
        machine.state = ON
        self.on[machine.name] = machine
        self._sample(1)

    def _sample(self, change: int) -> None:
        self._not_off += change
        self.samples.append((self.now, self._not_off, sum(map(len, self.waiting.values()))))

    def power_on(self, machine: Machine) -> None:
        if machine.state != OFF:
            return
        machine.account(self.now)
        machine.state = BOOTING
        machine.boots += 1
        machine.started_ms = self.now
        self._sample(1)
        self._push(self.now + machine.pool.boot_ms, _BOOTED, machine)

    def power_off(self, machine: Machine) -> None:
        """Orderly; the caller answers for that it has no work. Refused here as in life if it has."""
        if machine.state != ON:
            return
        if machine.jobs:
            raise AssertionError(f"{machine.name} was to be powered off with {machine.jobs} jobs on it")
        machine.account(self.now)
        machine.state = STOPPING
        machine.steered = False
        del self.on[machine.name]
        self._push(self.now + machine.pool.stop_ms, _STOPPED, machine)

    def _push(self, time_ms: int, kind: int, what: Task | Machine) -> None:
        heapq.heappush(self._heap, (time_ms, next(self._serial), kind, what))

    def run_until(self, end_ms: int) -> None:
        """Let everything happen up to `end_ms` inclusive, then bring all ledgers to it."""
        while True:
            time = self._next_time()
            if time < 0 or time > end_ms:
                break
            self._step(time)
        self.now = end_ms
        for machine in self.machines:
            machine.account(end_ms)

    def run_out(self) -> None:
        """Until every job has ended, or those left can never start."""
        moved = self.now
        while self._next_job < len(self._jobs) or self.running or self.waiting:
            time = self._next_time()
            if self._next_job < len(self._jobs) or self._heap:
                moved = max(self.now, time)
            elif time < 0 or time - moved > _GIVE_UP_MS:
                break
            self._step(time)

    def _next_time(self) -> int:
        first = -1
        if self._next_job < len(self._jobs):
            first = self._jobs[self._next_job].submit_ms
        if self._heap and (first < 0 or self._heap[0][0] < first):
            first = self._heap[0][0]
        due = self.controller.next_ms
        if due and (first < 0 or due < first):
            first = due
        return first if first < 0 or first > self.now else self.now

    def _step(self, time_ms: int) -> None:
        self.now = time_ms
        freed = False
        while self._heap and self._heap[0][0] <= time_ms:
            _, _, kind, what = heapq.heappop(self._heap)
            if isinstance(what, Task):
                self._end(what)
                freed = True
            else:
                freed = self._switch(what, kind) or freed
        if freed and self.waiting:
            self._stuck.clear()
            self._place_waiting()
        while self._next_job < len(self._jobs) and self._jobs[self._next_job].submit_ms <= time_ms:
            self._arrive(self._jobs[self._next_job])
            self._next_job += 1
        if self.controller.next_ms and self.controller.next_ms <= time_ms:
            self.controller.run()

    def _end(self, task: Task) -> None:
        for machine in task.placed:
            machine.account(self.now)
            for position, amount in task.need:
                machine.free[position] += amount
            machine.jobs -= 1
            machine.used_cores = machine.cores - machine.free[self._cpu] if self._cpu >= 0 else 0
        self.running -= 1
        self.last_end_ms = self.now
        self.controller.ended(task)
        task.placed = []

    def _switch(self, machine: Machine, kind: int) -> bool:
        machine.account(self.now)
        if kind == _BOOTED:
            machine.state = ON
            self.on[machine.name] = machine
        else:
            machine.state = OFF
            machine.paid_ms += self._paid(machine, self.now)
            self._sample(-1)
        self.controller.switched(machine)
        return kind == _BOOTED

    def _paid(self, machine: Machine, until_ms: int) -> int:
        """Paid time of one run: what it was on, or the paid intervals that it began."""
        span = until_ms - machine.started_ms
        billing = machine.pool.billing
        return span if billing is None else -(-span // billing.interval_ms) * billing.interval_ms

    def paid_ms(self, machine: Machine) -> int:
        return machine.paid_ms + (self._paid(machine, self.now) if machine.state != OFF else 0)

    def _arrive(self, job: Job) -> None:
        known = self._specs.get(job.requests)
        if known is None:
            need = tuple((self.names.index(name), amount) for name, amount in job.requests)
            known = self._specs[job.requests] = (PodSpec(requests=job.requests), need)
        task = Task(job, self._next_job, known[0], known[1])
        shape = (task.need, job.tasks)
        if shape not in self._stuck and self._place(task):
            return
        self._stuck.add(shape)
        self.waiting.setdefault(shape, {})[task.order] = task
        self.controller.waits(task)

    def _place_waiting(self) -> None:
        """Oldest first; a shape that does not fit is passed over until something changes."""
        heads = [(next(iter(tasks)), shape) for shape, tasks in self.waiting.items() if shape not in self._stuck]
        heapq.heapify(heads)
        while heads:
            order, shape = heapq.heappop(heads)
            tasks = self.waiting[shape]
            if not self._place(tasks[order]):
                self._stuck.add(shape)
                continue
            del tasks[order]
            if tasks:
                heapq.heappush(heads, (next(iter(tasks)), shape))
            else:
                del self.waiting[shape]

    def _place(self, task: Task) -> bool:
        chosen: list[Machine] = []
        for _ in range(task.job.tasks):
            machine = self._choose(task.need)
            if machine is None:
                for taken in chosen:
                    for position, amount in task.need:
                        taken.free[position] += amount
                return False
            machine.account(self.now)
            for position, amount in task.need:
                machine.free[position] -= amount
            chosen.append(machine)
        cpu = self._cpu
        for machine in chosen:
            machine.jobs += 1
            machine.used_cores = machine.cores - machine.free[cpu] if cpu >= 0 else 0
        task.placed = chosen
        self.running += 1
        self.waits_ms.append(self.now - task.job.submit_ms)
        self._push(self.now + task.job.runtime_ms, _END, task)
        self.controller.placed(task)
        return True

    def _choose(self, need: Need) -> Machine | None:
        best: Machine | None = None
        best_key: tuple[bool, float] = (True, 0.0)
        for machine in self.on.values():
            free, whole = machine.free, machine.whole
            share = 0.0
            for position, amount in need:
                if free[position] < amount:
                    break
                share += free[position] / whole[position]
            else:
                key = (machine.steered, share if self._pack else -share)
                if best is None or key < best_key:
                    best, best_key = machine, key
        return best


def machine_names(pool: Pool) -> list[str]:
    """Every machine the pool can have."""
    if pool.hosts:
        return list(pool.hosts[: pool.max])
    return [pool.name_pattern.replace("{n}", str(number)) for number in range(1, pool.max + 1)]
