"""CLUES in the simulation: its passes run on its 5 s grid, but only when something could come of them.

A pass depends on the nodes, the jobs, the requests and on ages against limits. So after a pass that changed something
the next grid point is due; otherwise the first at which an age passes its limit, or something happens in the cluster.
"""

from __future__ import annotations

from scaler.simulate.clues import (
    CluesJob,
    CluesNode,
    CluesOptions,
    Queue,
    RequestState,
    State,
    recover,
    report,
    run_pass,
)
from scaler.simulate.world import BOOTING, OFF, ON, Machine, Task, World

# Read millions of times: a member looked up in its class costs ten times a global.
_IDLE, _USED, _OFF, _POW_ON, _POW_OFF = State.IDLE, State.USED, State.OFF, State.POW_ON, State.POW_OFF
_FAILED = frozenset({State.ON_ERR, State.OFF_ERR})
_SERVED = RequestState.SERVED
_QUEUED = frozenset({RequestState.PENDING, RequestState.BLOCKED})


class Clues:
    def __init__(self, options: CluesOptions | None = None, *, name: str = "clues") -> None:
        self.name = name
        self.next_ms = 0
        self.passes = 0
        self._options = options or CluesOptions()
        self._nodes: list[CluesNode] = []
        self._by_name: dict[str, CluesNode] = {}
        self._queue = Queue()
        self._started: list[str] = []
        self._touched: set[str] = set()
        self._new: list[CluesJob] = []
        self._recovered_ms = 0
        self._world: World

    def begin(self, world: World) -> None:
        self._world = world
        for machine in world.machines:
            node = CluesNode(name=machine.name, total=tuple(machine.whole), free=list(machine.whole))
            self._nodes.append(node)
            self._by_name[node.name] = node

    def waits(self, task: Task) -> None:
        need = [0] * len(self._world.names)
        for position, amount in task.need:
            need[position] = amount
        self._new.append(CluesJob(task.job.id, tuple(need), task.job.tasks))
        self._wake()

    def placed(self, task: Task) -> None:
        if task.job.id in self._queue.jobs:
            self._started.append(task.job.id)
        elif self._new:
            self._new = [job for job in self._new if job.id != task.job.id]
        self._touch(task.placed)

    def ended(self, task: Task) -> None:
        self._touch(task.placed)

    def switched(self, machine: Machine) -> None:
        self._touch([machine])

    def _touch(self, machines: list[Machine]) -> None:
        self._touched.update(machine.name for machine in machines)
        # A change of load alone interests the monitor only for the idle clock, and requests that wait.
        if self._queue.jobs or self._queue.requests or any(self._differs(machine) for machine in machines):
            self._wake()

    def _differs(self, machine: Machine) -> bool:
        return self._by_name[machine.name].state is not _seen(machine)

    def _wake(self) -> None:
        self._at(self._world.now)

    def _at(self, time_ms: int) -> None:
        period = self._options.period_ms
        grid = -(-max(time_ms, self._world.now + 1) // period) * period
        if not self.next_ms or grid < self.next_ms:
            self.next_ms = grid

    def run(self) -> None:
        now, options = self._world.now, self._options
        self.next_ms = 0
        self.passes += 1
        changed = self._monitor(now)
        if not _FAILED.isdisjoint([node.state for node in self._nodes]):
            if now - self._recovered_ms >= options.recovery_ms:
                self._recovered_ms = now
                changed = recover(self._nodes, now, options) or changed
            self._at(now + options.period_ms)
        if not self._queue.jobs and not self._queue.requests and not self._idle_too_long(now):
            # Nothing is asked for and nothing may go: the pass would find nothing to do.
            self._timers()
            return
        before = [request.state for request in self._queue.requests]
        off, on = run_pass(self._queue, self._nodes, now, options)
        for job in self._started:
            self._queue.jobs.pop(job, None)
        changed = bool(self._started) or before != [request.state for request in self._queue.requests] or changed
        self._started = []
        for name in off:
            self._order(name, on=False)
        for name in on:
            self._order(name, on=True)
        if changed or off or on:
            self._at(now + options.period_ms)
        self._timers()

    def _idle_too_long(self, now: int) -> bool:
        limit = self._options.idle_ms
        if self._options.extra_nodes:
            return True
        since = [node.since_ms for node in self._nodes if node.state is _IDLE]
        return bool(since) and now - min(since) > limit

    def _monitor(self, now: int) -> bool:
        changed = bool(self._new)
        for job in self._new:
            job.since_ms = now
            self._queue.jobs[job.id] = job
        self._new = []
        for job_id in self._started:
            self._queue.jobs[job_id].started = True
        delayed = {node.name for node in self._nodes if node.state is _POW_ON or node.state is _POW_OFF}
        # A set of names has no order of its own; changes of one node do not depend on another.
        for name in self._touched | delayed:
            machine, node = self._world.by_name[name], self._by_name[name]
            node.free = list(machine.free)
            changed = report(node, _seen(machine), now, self._options) or changed
        self._touched = {name for name in self._touched if self._differs(self._world.by_name[name])}
        return changed

    def _order(self, name: str, *, on: bool) -> None:
        machine, node = self._world.by_name[name], self._by_name[name]
        now = self._world.now
        if on and node.state not in {State.IDLE, State.USED, State.POW_ON, State.ON_ERR}:
            node.state, node.since_ms = State.POW_ON, now
            if machine.state == OFF:
                self._world.power_on(machine)
        elif not on and node.state not in {State.OFF, State.POW_OFF, State.OFF_ERR} and not machine.jobs:
            # CLUES would cut the power under a job that came since its last look; the comparison spares it that.
            node.state, node.since_ms = State.POW_OFF, now
            if machine.state == ON:
                self._world.power_off(machine)

    def _timers(self) -> None:
        """The first time at which an age passes its limit; ages are compared with "longer than"."""
        self._node_timers()
        options, requests = self._options, self._queue.requests
        if self._queue.jobs:
            self._at(min([job.since_ms for job in self._queue.jobs.values()]) + options.reconsider_ms + 1)
        if requests and not _QUEUED.isdisjoint([request.state for request in requests]):
            served = [request.since_ms for request in requests if request.state is _SERVED]
            if served:
                self._at(min(served) + options.cooldown_served_ms)

    def _node_timers(self) -> None:
        options = self._options
        idle, cooldown = options.idle_ms, options.cooldown_nodes_ms
        first = 0
        for node in self._nodes:
            state = node.state
            if state is _IDLE:
                expiry = max(node.since_ms + idle, node.on_since_ms + cooldown)
                first = expiry if not first or expiry < first else first
            elif state is _POW_ON:
                self._at(node.since_ms + options.max_wait_on_ms + 1)
                if self._world.by_name[node.name].state != BOOTING:
                    self._at(node.since_ms + options.delay_pow_on_ms)
            elif state is _POW_OFF:
                self._at(node.since_ms + options.delay_pow_off_ms)
        if first:
            self._at(first + 1)


def _seen(machine: Machine) -> State:
    """What the batch system says."""
    if machine.state == ON:
        return _USED if machine.jobs else _IDLE
    return _OFF
