"""The default policy of CLUES 2.3, rule by rule, so that a comparison with it is fair. Behaviour only; nothing is
copied.

The rules are those of the published description: node states with their delays and time-outs, requests with bookings,
and the schedulers PowOn_Requests, Reconsider_Jobs, PowOff_IDLE and PowOn_Free in that order, each pass followed by all
power-offs and then all power-ons. One simplification: a job counts as attended once it has started.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

import msgspec

#: Amounts of one task by position; of a node likewise.
Amounts = tuple[int, ...]


class State(enum.IntEnum):
    UNKNOWN = -1
    IDLE = 0
    USED = 1
    OFF = 2
    POW_ON = 3
    POW_OFF = 4
    ON_ERR = 5
    OFF_ERR = 6


class RequestState(enum.IntEnum):
    NOT_SERVED = -2
    PENDING = 0
    ATTENDED = 1
    SERVED = 2
    BLOCKED = 3


_LIVE = frozenset({RequestState.PENDING, RequestState.ATTENDED, RequestState.BLOCKED})


class CluesOptions(msgspec.Struct, frozen=True, kw_only=True):
    """CLUES's parameters with its defaults (milliseconds). Job monitoring is on, as in its full sample: with its
    default, off, pods never wake a node.
    """

    period_ms: int = 5_000
    idle_ms: int = 1_800_000
    cooldown_nodes_ms: int = 0
    max_booting: int = 0
    reconsider_ms: int = 60_000
    cooldown_served_ms: int = 120_000
    delay_pow_on_ms: int = 10_000
    delay_pow_off_ms: int = 10_000
    max_wait_on_ms: int = 300_000
    max_wait_off_ms: int = 300_000
    retries_on: int = 3
    retries_off: int = 3
    recovery_ms: int = 30_000
    extra_nodes: int = 0


class CluesNode(msgspec.Struct):
    name: str
    total: Amounts
    free: list[int]
    state: State = State.OFF
    enabled: bool = True
    since_ms: int = 0
    on_since_ms: int = 0
    failures_on: int = 0
    failures_off: int = 0


class CluesRequest(msgspec.Struct):
    id: int
    job: str
    need: Amounts
    tasks: int = 1
    per_node: int = 0
    state: RequestState = RequestState.PENDING
    since_ms: int = 0
    #: Nodes promised, with the tasks on each.
    booked: list[tuple[str, int]] = []


class CluesJob(msgspec.Struct):
    id: str
    need: Amounts
    tasks: int = 1
    started: bool = False
    #: Since when it is pending, as the monitor saw it.
    since_ms: int = 0


class Queue(msgspec.Struct):
    """What waits: the jobs of the batch system by id, and CLUES's requests in order of creation."""

    jobs: dict[str, CluesJob] = {}
    requests: list[CluesRequest] = []
    next_id: int = 1


def report(node: CluesNode, seen: State, now_ms: int, options: CluesOptions) -> bool:
    """Monitor: what the batch system reports (IDLE, USED, OFF or UNKNOWN) meets the node's state. True = it changed."""
    age = now_ms - node.since_ms
    on = seen in _RUNNING
    target = seen
    state = node.state
    if state is _POW_ON:
        if seen is State.OFF:
            if age <= options.max_wait_on_ms:
                return False
            target = State.OFF_ERR
        elif on and age < options.delay_pow_on_ms:
            return False
    elif state is _POW_OFF:
        if on:
            if age <= options.max_wait_off_ms:
                return False
            target = State.ON_ERR
        elif seen is State.OFF and age < options.delay_pow_off_ms:
            return False
    elif (state is State.ON_ERR and on) or (state is State.OFF_ERR and seen is State.OFF):
        return False
    return enter(node, target, now_ms)


def enter(node: CluesNode, state: State, now_ms: int) -> bool:
    """Side effects of a change of state: clocks and failure counters."""
    old = node.state
    if state is old:
        return False
    if state in _RUNNING and old not in _RUNNING:
        node.failures_on = 0
        node.on_since_ms = now_ms
    elif state is State.OFF:
        node.failures_off = 0
    elif state is State.OFF_ERR:
        node.failures_on += 1
    elif state is State.ON_ERR:
        node.failures_off += 1
    node.state, node.since_ms = state, now_ms
    return True


def recover(nodes: Iterable[CluesNode], now_ms: int, options: CluesOptions) -> bool:
    """Auto-recovery: failed nodes under the limit are forced back, to OFF or (as if freshly on) to IDLE."""
    changed = False
    for node in nodes:
        if node.state is State.OFF_ERR and node.failures_on < options.retries_on:
            failures = node.failures_on
            changed = enter(node, State.OFF, now_ms) or changed
            node.failures_on = failures
        elif node.state is State.ON_ERR and node.failures_off < options.retries_off:
            changed = enter(node, State.IDLE, now_ms) or changed
    return changed


class Pass:
    """One run of the schedulers over the queue and a copy of the nodes."""

    def __init__(
        self, nodes: list[CluesNode], requests: list[CluesRequest], now_ms: int, options: CluesOptions
    ) -> None:
        self.nodes = nodes
        self.by_name = {node.name: node for node in nodes}
        self.requests = requests
        self.now = now_ms
        self.options = options
        self.free = {node.name: list(node.free) for node in nodes}
        self.on: list[str] = []
        self.off: list[str] = []
        self._usable: list[CluesNode] = []
        self._booting: list[CluesNode] = []
        self._off: list[CluesNode] = []
        self._stopping: list[CluesNode] = []
        for node in nodes:
            state = node.state
            if state in _USABLE:
                self._usable.append(node)
            elif state is _POW_ON:
                self._booting.append(node)
            elif node.enabled and state is _OFF:
                self._off.append(node)
            elif node.enabled and state is _POW_OFF:
                self._stopping.append(node)
        #: By list of nodes and shape: how many at its beginning have no room for one task, and never will in this pass.
        self._full: dict[tuple[bool, Amounts], int] = {}
        self._hopeless: set[tuple[Amounts, int, int]] = set()

    def book(self, started: set[str], nodes_as_of_ms: int) -> None:
        """Bookings first: those of attended requests hold while a node is on its way, those of served ones for a while;
        a request whose job has started is served and holds nothing.
        """
        over_ms = self.now - self.options.cooldown_served_ms
        for request in self.requests:
            state = request.state
            if started and request.job in started:
                if state in _LIVE:
                    _become(request, _SERVED, self.now)
                request.booked = []
            elif state is _SERVED:
                if request.since_ms > over_ms:
                    self._hold(request)
                else:
                    request.booked = []
            elif state is _ATTENDED:
                coming = any(self.by_name[name].state in _MOVING for name, _ in request.booked)
                if coming or nodes_as_of_ms <= request.since_ms:
                    self._hold(request)
                else:
                    request.booked = []
                    _become(request, _PENDING, self.now)

    def _hold(self, request: CluesRequest) -> None:
        for name, tasks in request.booked:
            free = self.free[name]
            for position, amount in enumerate(request.need):
                free[position] -= amount * tasks

    def pow_on_requests(self) -> None:
        """First in, first out, first fit in the order of the node list; an earlier request that waits blocks the
        rest.
        """
        alive, hopeless, unlimited = 0, self._hopeless, not self.options.max_booting
        for request in self.requests:
            state = request.state
            if state is _PENDING or state is _BLOCKED:
                known = bool(hopeless) and (request.need, request.tasks, request.per_node) in hopeless
                if known and unlimited and not alive and state is _BLOCKED:
                    continue  # it was found possible when it was blocked, and stays so
                if not self._serve(request, alive, hopeless=known):
                    return
                state = request.state
                if state is _PENDING or state is _ATTENDED:
                    alive += 1
            elif state is _ATTENDED:
                alive += 1

    def _serve(self, request: CluesRequest, alive: int, *, hopeless: bool) -> bool:
        """One request; False = the pass ends here. `hopeless` = one like it found no room in this pass."""
        if not hopeless and self._allot(request, (), self._usable):
            _become(request, _BLOCKED if alive else _SERVED, self.now)
            return True
        if not hopeless and self._allot(request, (self._usable,), self._booting):
            _become(request, _ATTENDED, self.now)
            return True
        if self.options.max_booting and len(self._booting) + len(self.on) >= self.options.max_booting:
            return False
        if not hopeless and self._start_more(request):
            return True
        if alive:
            return False
        possible = any(_tasks_in(node.total, request.need) for node in self.nodes)
        _become(request, _BLOCKED if possible else RequestState.NOT_SERVED, self.now)
        return True

    def _start_more(self, request: CluesRequest) -> bool:
        """Steps 3 to 5: nodes that are chosen already, further ones that are off, those going off."""
        known = [self._usable, self._booting]
        taken = set(self.on)
        for more in (
            [self.by_name[name] for name in self.on],
            [node for node in self._off if node.name not in taken],
            [node for node in self._stopping if node.name not in taken],
        ):
            if self._allot(request, known, more):
                _become(request, _ATTENDED, self.now)
                ordered = (name for name, _ in request.booked if self.by_name[name].state in _GOING)
                self.on.extend(name for name in ordered if name not in taken)
                return True
            known.append(more)
        # Room only shrinks within a pass: what fits nowhere fits nowhere later.
        self._hopeless.add((request.need, request.tasks, request.per_node))
        return False

    def _allot(self, request: CluesRequest, known: Sequence[list[CluesNode]], more: list[CluesNode]) -> bool:
        """All tasks at once or none, first fit; subtracts and books. `known` = nodes that alone were not enough."""
        need, left, most = request.need, request.tasks, request.per_node or request.tasks
        if left == 1 and (more is self._usable or more is self._booting):
            return self._allot_one(request, more)
        # A single task that fits nowhere among the known ones need not look there again.
        groups = (more,) if left == 1 else (*known, more)
        chosen: list[tuple[str, int]] = []
        for nodes in groups:
            for node in nodes:
                tasks = min(left, most, _tasks_in(self.free[node.name], need))
                if tasks > 0:
                    chosen.append((node.name, tasks))
                    left -= tasks
                    if not left:
                        request.booked = chosen
                        self._hold(request)
                        return True
        return False

    def _allot_one(self, request: CluesRequest, nodes: list[CluesNode]) -> bool:
        """The same for one task among nodes that are the same all through the pass: room on them only shrinks, so those
        that were full for its shape are passed over.
        """
        key = (nodes is self._usable, request.need)
        wanted = [(position, amount) for position, amount in enumerate(request.need) if amount > 0]
        for number in range(self._full.get(key, 0), len(nodes)):
            name = nodes[number].name
            free = self.free[name]
            for position, amount in wanted:
                if free[position] < amount:
                    break
            else:
                self._full[key] = number
                request.booked = [(name, 1)]
                self._hold(request)
                return True
        self._full[key] = len(nodes)
        return False

    def pow_off_idle(self) -> None:
        """Everything idle for longer than IDLE_TIME goes, whatever is booked on it."""
        for node in self.nodes:
            idle = node.state is _IDLE and self.now - node.since_ms > self.options.idle_ms
            if idle and node.enabled and self.now - node.on_since_ms > self.options.cooldown_nodes_ms:
                self.off.append(node.name)

    def pow_on_free(self) -> None:
        """Warm spare: rescue from those about to go, then wake by name, up to EXTRA_NODES_FREE."""
        free = sum(node.state in {State.IDLE, State.POW_ON} and node.name not in self.off for node in self.nodes)
        lack = self.options.extra_nodes - free
        for name in sorted(self.off):
            if lack > 0:
                self.off.remove(name)
                lack -= 1
        for node in sorted(self.nodes, key=lambda node: (node.state is not State.OFF, node.name)):
            failed = node.state is State.OFF_ERR and node.failures_on < self.options.retries_on
            if lack > 0 and (node.state is State.OFF or failed) and node.name not in self.on:
                self.on.append(node.name)
                lack -= 1


#: A member looked up in its class costs ten times a global.
_IDLE, _OFF, _POW_ON, _POW_OFF = State.IDLE, State.OFF, State.POW_ON, State.POW_OFF
_PENDING, _ATTENDED = RequestState.PENDING, RequestState.ATTENDED
_SERVED, _BLOCKED = RequestState.SERVED, RequestState.BLOCKED
_RUNNING = frozenset({State.IDLE, State.USED})
_USABLE = frozenset({State.IDLE, State.USED, State.ON_ERR})
_MOVING = frozenset({State.POW_OFF, State.POW_ON, State.ON_ERR})
_GOING = frozenset({State.OFF, State.POW_OFF})


def _become(request: CluesRequest, state: RequestState, now_ms: int) -> None:
    if state is not request.state:
        request.state, request.since_ms = state, now_ms


def _tasks_in(free: Sequence[int], need: Amounts) -> int:
    tasks = 1 << 30
    for have, amount in zip(free, need, strict=True):
        if amount > 0:
            if have < amount:
                return 0
            tasks = min(tasks, have // amount)
    return tasks


def reconsider_jobs(queue: Queue, now_ms: int, options: CluesOptions) -> None:
    """Jobs pending for long without a request get one; it is looked at in the next pass."""
    limit = now_ms - options.reconsider_ms
    waited = [job for job in queue.jobs.values() if job.since_ms < limit and not job.started]
    if not waited:
        return
    live = {request.job for request in queue.requests if request.state in _LIVE}
    lately = {request.job for request in queue.requests if request.state is _SERVED and request.since_ms >= limit}
    for job in waited:
        if job.id not in live and job.id not in lately:
            queue.requests.append(CluesRequest(queue.next_id, job.id, job.need, job.tasks, since_ms=now_ms))
            # Asked for once, it must stay pending as long again before it is asked for anew.
            job.since_ms = now_ms
            queue.next_id += 1


def purge(requests: list[CluesRequest], now_ms: int, options: CluesOptions) -> None:
    """Forget requests that ended a while ago."""
    first_ms = now_ms - options.cooldown_served_ms
    requests[:] = [request for request in requests if request.since_ms >= first_ms or request.state in _LIVE]


def run_pass(queue: Queue, nodes: list[CluesNode], now_ms: int, options: CluesOptions) -> tuple[list[str], list[str]]:
    """One scheduling pass, which advances the queue: names to power off, then names to power on."""
    purge(queue.requests, now_ms, options)
    one = Pass(nodes, queue.requests, now_ms, options)
    one.book({job.id for job in queue.jobs.values() if job.started}, now_ms)
    one.pow_on_requests()
    reconsider_jobs(queue, now_ms, options)
    one.pow_off_idle()
    if options.extra_nodes:
        one.pow_on_free()
    return one.off, one.on
