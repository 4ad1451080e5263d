"""What a person or program asks of the running scaler and orders from it: `scaler.control.Control` over the service.

A person's order takes the same road as a policy's: written down before it is sent, bounded, re-checked, safe to repeat.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from msgspec.structs import replace

from penstock.errors import Conflict, InvalidInput, NotFound
from scaler import records
from scaler.control import (
    Explanation,
    Happening,
    HookEvent,
    NodeInfo,
    RequestInfo,
    RequestSpec,
    RequestState,
)
from scaler.metrics import views
from scaler.model import (
    Node,
    NodeOrder,
    NodeState,
    OrderKind,
    PodSpec,
    Request,
    ScalePlan,
    Snapshot,
)
from scaler.pools import Fleet, Pool
from scaler.recheck import recheck
from scaler.records import State
from scaler.service import ScalerService
from scaler.situation import Situation
from scaler.states import NodeEvent, advance

#: Longest that room is held for a request that nobody uses: a day.
LONGEST_HOLD_MS = 86_400_000
_COMING = frozenset({NodeState.STARTING, NodeState.IDLE, NodeState.USED})
_GOING = frozenset({NodeState.STOPPING, NodeState.OFF, NodeState.DRAINING})
_BY_HAND = "ordered by a person"


class Desk:
    """`clock` is the service's."""

    def __init__(self, service: ScalerService, *, clock: Callable[[], int]) -> None:
        self._service = service
        self._clock = clock
        #: Requests that ended, for those who still ask.
        self._over: dict[str, Request] = {}

    # Asking

    async def nodes(self) -> list[NodeInfo]:
        """As `Control.nodes`."""
        snapshot = self._service.look()
        situation = Situation(snapshot, self._service.fleet)
        reasons = _reasons(self._service.plan, self._service.journal.state)
        infos = [self._info(node, situation, reasons) for node in snapshot.nodes]
        return sorted(infos, key=lambda info: (info.pool, info.name))

    async def node(self, name: str) -> NodeInfo:
        """As `Control.node`."""
        for info in await self.nodes():
            if info.name == name:
                return info
        raise NotFound(f"there is no node {name}; `penstock node ls` lists all")

    def _info(self, node: Node, situation: Situation, reasons: dict[str, tuple[str, int]]) -> NodeInfo:
        pool = self._service.fleet.by_name.get(node.pool)
        reason, until = reasons.get(node.name, ("", 0))
        return NodeInfo(
            name=node.name,
            pool=node.pool,
            state=node.state,
            enabled=node.enabled,
            reason=reason if pool is not None else f"pool {node.pool} is no longer configured: it is left alone",
            reason_until_ms=until,
            since_ms=node.since_ms,
            on_since_ms=node.on_since_ms,
            idle_since_ms=node.idle_since_ms,
            dark_since_ms=node.dark_since_ms,
            failures_on=node.failures_on,
            failures_off=node.failures_off,
            backoff_until_ms=node.backoff_until_ms,
            not_yet_until_ms=node.not_yet_until_ms,
            cycles=node.cycles,
            provider_id=node.provider_id,
            offers=tuple(sorted(situation.offers(node, pool).items())) if pool is not None else node.allocatable,
            used=tuple(sorted(situation.used(node).items())),
            pods=situation.work.get(node.name, 0),
            labels=node.labels or (pool.labels if pool is not None else ()),
        )

    async def explain(self) -> Explanation:
        """As `Control.explain`."""
        service = self._service
        return Explanation(
            plan=service.plan,
            blocked=service.blocked(),
            views=views(service.look()),
            pools=service.journal.state.pools,
            alarms=service.alarms(),
            decisions=service.decisions,
            seconds=service.seconds,
        )

    # Switching

    async def on(self, name: str) -> NodeInfo:
        """As `Control.on`."""
        pool = self._pool_of(name)

        def change(state: State) -> State:
            node = state.node(name)
            if node is None and not pool.made:
                node = Node(name=name, pool=pool.name)
            if node is not None and node.state in _COMING:
                return state
            if node is not None and node.state is NodeState.DRAINING:
                order = state.orders[name].order if name in state.orders else records.order_off(node, pool, "")
                return records.released(
                    state, replace(order, key=f"{name}/{node.generation}"), self._clock(), self._fleet
                )
            return self._started(state, node or Node(name=name, pool=pool.name), pool)

        await self._change(change)
        return await self.node(name)

    def _started(self, state: State, node: Node, pool: Pool) -> State:
        if node.state is not NodeState.OFF:
            raise Conflict(f"node {node.name} is {node.state.value}; only a node that is off can be ordered on")
        order = NodeOrder(
            kind=OrderKind.ADD if pool.made else OrderKind.START,
            node=node.name,
            pool=pool.name,
            key=f"{node.name}/{node.generation + 1}",
            provider_id=node.provider_id,
            reason=_BY_HAND,
        )
        # A person's order overrides the wait after failures, never a bound.
        if why := recheck(order, self._snapshot(state), self._fleet):
            raise Conflict(f"node {node.name} cannot be ordered on: {why}")
        state = records.with_node(state, node)
        return records.planned(state, self._plan(state, order), self._fleet)

    async def off(self, name: str, *, force: bool = False) -> NodeInfo:
        """As `Control.off`."""
        pool = self._pool_of(name)

        def change(state: State) -> State:
            node = _known(state, name)
            if node.state in _GOING:
                return state
            if not node.enabled:
                raise Conflict(f"node {name} is disabled; enable it first")
            if node.state is NodeState.USED and not force:
                raise Conflict(
                    f"node {name} has work; with force it is cordoned now and switched off when its work has ended"
                )
            if node.state in {NodeState.STARTING, NodeState.UNKNOWN}:
                raise Conflict(f"node {name} is {node.state.value}; wait until it is on or off, or reset it")
            if node.state in {NodeState.IDLE, NodeState.USED} and (why := self._too_few(state, pool)):
                raise Conflict(f"node {name} cannot be ordered off: {why}")
            if node.state is NodeState.USED:
                return replace(state, leaving=state.leaving | {name})
            order = records.order_off(node, pool, _BY_HAND)
            return records.planned(state, self._plan(state, order), self._fleet)

        await self._change(change)
        return await self.node(name)

    @staticmethod
    def _too_few(state: State, pool: Pool) -> str:
        on = sum(node.pool == pool.name and node.state in {NodeState.IDLE, NodeState.USED} for node in state.nodes)
        return f"pool {pool.name} would fall below its minimum of {pool.min} nodes" if on <= pool.min else ""

    async def enable(self, name: str) -> NodeInfo:
        """As `Control.enable`."""
        return await self._set(name, enabled=True)

    async def disable(self, name: str) -> NodeInfo:
        """As `Control.disable`. A removal that has not reached the power-off is taken back by its re-check."""
        return await self._set(name, enabled=False)

    async def _set(self, name: str, *, enabled: bool) -> NodeInfo:
        pool = self._pool_of(name)

        def change(state: State) -> State:
            node = state.node(name) or (None if pool.made else Node(name=name, pool=pool.name))
            if node is None:
                raise NotFound(f"there is no node {name}")
            leaving = state.leaving if enabled else state.leaving - {name}
            return replace(records.with_node(state, replace(node, enabled=enabled)), leaving=leaving)

        await self._change(change)
        return await self.node(name)

    async def reset(self, name: str) -> NodeInfo:
        """As `Control.reset`."""
        self._pool_of(name)

        def change(state: State) -> State:
            node = advance(_known(state, name), NodeEvent.RESET, self._clock(), self._fleet.options).node
            pools = tuple(
                replace(pool, failures=0, backoff_until_ms=0, why="") if pool.name == node.pool else pool
                for pool in state.pools
            )
            state = records.with_node(state, replace(node, not_yet_until_ms=0))
            return records.pruned(replace(state, pools=pools, leaving=state.leaving - {name}))

        await self._change(change)
        return await self.node(name)

    def _pool_of(self, name: str) -> Pool:
        """Raises NotFound for a name that no pool has or can give."""
        node = self._service.journal.state.node(name)
        for pool in self._fleet.pools:
            head, _, tail = pool.name_pattern.partition("{n}")
            middle = name[len(head) : len(name) - len(tail)] if len(name) > len(head) + len(tail) else ""
            given = pool.made and name.startswith(head) and name.endswith(tail) and middle.isdigit()
            if (node is not None and node.pool == pool.name) or (node is None and (name in pool.hosts or given)):
                return pool
        raise NotFound(f"there is no node {name}, and no pool names one so; `penstock node ls` lists all")

    # Requests

    async def submit(self, spec: RequestSpec) -> RequestInfo:
        """As `Control.submit`."""
        _check(spec)
        request = Request(
            id=uuid.uuid4().hex[:12],
            spec=PodSpec(
                requests=tuple(sorted((*spec.requests, *([] if "pods" in dict(spec.requests) else [("pods", 1)])))),
                selector=spec.selector,
                affinity=spec.affinity,
                tolerations=spec.tolerations,
            ),
            tasks=spec.tasks,
            per_node=spec.per_node,
            until_ms=self._clock() + spec.hold_ms,
        )
        await self._change(lambda state: replace(state, requests=(*state.requests, request)))
        self._service.hooks.told([HookEvent(kind=Happening.REQUEST, time_ms=self._clock(), request=request)])
        return RequestInfo(request=request, state=RequestState.WAITING, reason="not decided yet")

    async def request(self, id: str) -> RequestInfo:
        """As `Control.request`."""
        for info in await self.requests():
            if info.request.id == id:
                return info
        if id in self._over:
            return RequestInfo(request=self._over[id], state=RequestState.OVER)
        raise NotFound(f"there is no request {id}; ended ones are forgotten")

    async def requests(self) -> list[RequestInfo]:
        """As `Control.requests`."""
        state, now = self._service.journal.state, self._clock()
        return [self._answer(request, state, now) for request in state.requests]

    def _answer(self, request: Request, state: State, now: int) -> RequestInfo:
        if request.until_ms <= now:
            return RequestInfo(request=request, state=RequestState.OVER, reason="its time is over")
        plan, decided_on = self._service.plan, self._service.decided_on
        if plan is None or decided_on is None or request not in decided_on.requests:
            return RequestInfo(request=request, state=RequestState.WAITING, reason="not decided yet")
        for unhelped in plan.unhelped:
            if request.id in unhelped.owners:
                state_of = RequestState.REFUSED if unhelped.hopeless else RequestState.WAITING
                return RequestInfo(request=request, state=state_of, reason=unhelped.reason)
        on = {node.name for node in state.nodes if node.state in {NodeState.IDLE, NodeState.USED}}
        promised = tuple(one.node for one in state.reservations if request.id in one.owners)
        coming = [name for name in promised if name not in on]
        if coming or not promised:
            reason = f"{', '.join(coming)} is coming" if coming else "its nodes are being chosen"
            return RequestInfo(request=request, state=RequestState.WAITING, reason=reason, nodes=promised)
        return RequestInfo(request=request, state=RequestState.SERVED, nodes=promised)

    async def withdraw(self, id: str) -> RequestInfo:
        """As `Control.withdraw`."""
        info = await self.request(id)
        await self._change(lambda state: replace(state, requests=tuple(one for one in state.requests if one.id != id)))
        self._over = dict([*self._over.items(), (id, info.request)][-1000:])
        return RequestInfo(request=info.request, state=RequestState.OVER, reason="withdrawn")

    # Writing

    @property
    def _fleet(self) -> Fleet:
        return self._service.fleet

    async def _change(self, change: Callable[[State], State]) -> None:
        await self._service.journal.change(change)
        self._service.soon()

    def _snapshot(self, state: State) -> Snapshot:
        return replace(self._service.look(), nodes=state.nodes, pools=state.pools)

    def _plan(self, state: State, order: NodeOrder) -> ScalePlan:
        return ScalePlan(now_ms=self._clock(), orders=(order,), reservations=state.reservations, steered=state.steered)


def _known(state: State, name: str) -> Node:
    node = state.node(name)
    if node is None:
        raise NotFound(f"there is no node {name}")
    return node


def _reasons(plan: ScalePlan | None, state: State) -> dict[str, tuple[str, int]]:
    """What the last decision, or the order under way, says of each node."""
    reasons = {kept.node: (kept.reason, kept.until_ms) for kept in plan.kept} if plan is not None else {}
    for name, pending in state.orders.items():
        told = pending.order.reason + (f"; {pending.message}" if pending.message else "")
        reasons[name] = (told, 0)
    for name in state.leaving:
        reasons[name] = ("ordered off by a person: it goes when its work ends", 0)
    return reasons


def _check(spec: RequestSpec) -> None:
    if not spec.requests:
        raise InvalidInput('is empty; say what one task needs, like {"cpu": "2"}', where="requests")
    if not 1 <= spec.tasks <= 100_000:
        raise InvalidInput(f"{spec.tasks} is not a number of tasks from 1 to 100000", where="tasks")
    if spec.per_node < 0:
        raise InvalidInput(f"{spec.per_node} is negative; 0 = no limit", where="per_node")
    if not 0 < spec.hold_ms <= LONGEST_HOLD_MS:
        raise InvalidInput("must be more than 0 and at most a day", where="hold")
