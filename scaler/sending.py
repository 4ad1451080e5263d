"""Carries out what was written down: each order step by step, each step safe to repeat.

Nothing here remembers more than when it cordoned a node: which orders there are, and how far they got, is in the
journal. So a turn after a crash does the same as the next turn without one. Every step ends at once; what has to wait
(for a cordon to be believed, for an eviction, for a lost answer) is looked at again in a later turn.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import structlog
from msgspec.structs import replace

from penstock.errors import Conflict, NotFound, PenstockError, Unavailable
from penstock.ports import NodeAdd, NodeTarget, OrderAnswer, Outcome, StopHow
from scaler import records
from scaler.aside import Aside
from scaler.control import Happening, HookEvent, Hooks
from scaler.journal import Journal
from scaler.machines import Machines
from scaler.model import Node, NodeOrder, NodeState, OrderKind, PodKind, Snapshot, View
from scaler.observe import fresh
from scaler.pools import Fleet, Pool
from scaler.reading import Fresh
from scaler.recheck import recheck, recheck_starts
from scaler.records import Pending
from scaler.safety import judge
from scaler.timing import Timing
from scaler.together import Call, Together
from scaler.world import World

log = structlog.get_logger("scaler")

#: Nodes being cordoned at once: half of what a client has under way.
_CORDONS = 16


class Told(Protocol):
    """Who is to know: metrics and hooks."""

    def order_answered(self, order: NodeOrder, outcome: str) -> None: ...


class Sender:
    """`look` gives the newest snapshot, `may_send` whether this process is still the one that may, and `due` is told
    when a further turn has something to do.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        journal: Journal,
        world: World,
        drivers: Mapping[str, Machines],
        hooks: Hooks,
        clock: Callable[[], int],
        look: Callable[[], Snapshot],
        may_send: Callable[[], bool],
        due: Callable[[int], None],
        told: Told,
        timing: Timing | None = None,
    ) -> None:
        self._fleet = fleet
        self._journal = journal
        self._world = world
        self._drivers = drivers
        self._hooks = hooks
        self._clock = clock
        self._look = look
        self._may_send = may_send
        self._due = due
        self._told = told
        self._timing = timing or Timing()
        #: What is under way, by the names of its nodes.
        self.aside = Aside(self._failed)
        #: By order: when its node was cordoned, when its first eviction was asked for.
        self._cordoned: dict[str, int] = {}
        self._evicting: dict[str, int] = {}
        #: Orders that may have reached their driver: sent in this life, or written by an earlier one.
        self._perhaps_sent: set[str] = set()
        self._later: dict[str, int] = {}
        #: What is ready for the same call of the same driver.
        self._together: defaultdict[tuple[str, str], Together] = defaultdict(Together)
        #: A thousand at once would hold up whatever else is asked of the API server.
        self._cordons = asyncio.Semaphore(_CORDONS)

    def begin(self) -> None:
        """The journal was opened: nobody knows how far an earlier life got with what it wrote."""
        self._perhaps_sent = {pending.order.key for pending in self._journal.state.orders.values()}

    def turn(self) -> None:
        """Start whatever is due. Returns at once."""
        now = self._clock()
        wakes: dict[str, list[Pending]] = {}
        orders = self._journal.state.orders
        keys = {pending.order.key for pending in orders.values()}
        for memory in (self._cordoned, self._evicting):
            for key in memory.keys() - keys:
                del memory[key]
        self._perhaps_sent &= keys
        for name, pending in orders.items():
            pool = self._fleet.by_name.get(pending.order.pool)
            if pending.accepted or self.aside.busy(name) or pool is None or not self._is_due(name, pending, pool, now):
                continue
            if pending.order.kind.removes:
                self._spawn([name], self._remove(pending, pool))
            else:
                wakes.setdefault(pool.name, []).append(pending)
        for pool_name, pendings in wakes.items():
            names = [pending.order.node for pending in pendings]
            self._spawn(names, self._wake(pendings, self._fleet.by_name[pool_name]))

    def _is_due(self, name: str, pending: Pending, pool: Pool, now: int) -> bool:
        driver = self._drivers.get(pool.driver)
        if driver is None or driver.paused:
            return False
        due = self._later.get(name, 0)
        if pending.tries:
            # Its answer was lost: what came of it must have been listed before it is said again.
            if driver.view.as_of_ms <= pending.tried_ms:
                self._due(now + 1_000)
                return False
            due = max(due, pending.tried_ms + self._timing.pause_ms(pending.tries))
        if due > now:
            self._due(due)
            return False
        self._later.pop(name, None)
        return True

    def _spawn(self, names: list[str], work: Coroutine[Any, Any, None]) -> None:
        self.aside.start(names, self._guarded(names, work), title=f"order {names[0]}")

    async def _guarded(self, names: list[str], work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Unavailable as error:
            log.warning("an order waits", action="order_waits", node=names[0], error=error.message)
            until = self._clock() + self._timing.retry_ms
            self._later |= dict.fromkeys(names, until)
            self._due(until)
        except Conflict as error:
            log.info("an order was overtaken", action="order_overtaken", node=names[0], error=error.message)

    def _failed(self, names: Sequence[str], error: BaseException) -> None:
        """Whatever else it raised is the service's to fail with; nobody awaits these tasks."""
        self._due(self._clock())
        if not isinstance(error, PenstockError):
            log.error("an order failed by a defect", action="order_defect", node=names[0], exc_info=error)

    # On

    async def _wake(self, pendings: Sequence[Pending], pool: Pool) -> None:
        snapshot = self._look()
        if judge(snapshot, self._fleet).wake(pool):
            return  # looked at again when the views are good
        why = recheck_starts([pending.order for pending in pendings], snapshot, self._fleet)
        going = []
        vetoes = await asyncio.gather(*(self._veto(Happening.PRE_POWERON, one.order) for one in pendings))
        for pending, veto in zip(pendings, vetoes, strict=True):
            order = pending.order
            if order.key not in self._perhaps_sent and (reason := why[order.key] or veto):
                await self._call_off(order, reason, self._timing.hold_ms if veto else 0)
            elif not why[order.key] and not veto:
                going.append(order)
        if not going or not self._may_send():
            return
        self._perhaps_sent |= {order.key for order in going}
        driver = self._drivers[pool.driver]
        try:
            if pool.made:
                answers = await driver.add([NodeAdd(key=one.key, name=one.node, pool=one.pool) for one in going])
            else:
                answers = await driver.start([self._target(order) for order in going])
        except PenstockError as error:
            await self._lost(going, error)
            return
        await self._answered(going, answers)

    async def _call_off(self, order: NodeOrder, why: str, hold_ms: int) -> None:
        log.info("not switched on after all", action="order_called_off", node=order.node, reason=why)
        await self._journal.change(
            lambda state: records.called_off(
                state, order, self._clock(), self._fleet, why=f"not switched on: {why}", hold_ms=hold_ms
            )
        )

    async def _veto(self, kind: Happening, order: NodeOrder) -> str:
        """Why a hook does not want it; one that fails is no veto for going on, and is one for going off."""
        event = HookEvent(kind=kind, time_ms=self._clock(), node=order.node, pool=order.pool, reason=order.reason)
        try:
            async with asyncio.timeout(self._timing.hook_s):
                return await self._hooks.allow(event)
        except TimeoutError:
            failed = f"the hook {kind.value} did not answer within {self._timing.hook_s:g} s"
        except PenstockError as error:
            failed = f"the hook {kind.value} failed: {error.message}"
        log.warning("a hook failed", action="hook_failed", node=order.node, error=failed)
        return failed if kind is Happening.PRE_POWEROFF else ""

    # Off

    async def _remove(self, pending: Pending, pool: Pool) -> None:
        order = pending.order
        node = self._journal.state.node(order.node)
        if node is None or not records.current(node, order):
            return
        seen: Fresh | None
        if node.state is NodeState.STOPPING:
            # Written, and perhaps sent, by an earlier life or an earlier try.
            seen = await self._world.read(order.node)
            if any(pod.kind is PodKind.WORK for pod in seen.pods):
                await self._refuse(order, "pods run on it")
                return
        else:
            seen = await self._cleared(order, node, pool)
        if seen is not None:
            await self._power_off(order, node, pool, seen)

    async def _cleared(self, order: NodeOrder, node: Node, pool: Pool) -> Fresh | None:
        """Cordoned, looked at afresh, emptied and allowed: it may lose its power now, by what is returned."""
        cordoned_ms = self._cordoned.get(order.key)
        if cordoned_ms is None:
            cordoned_ms = await self._cordon(order)
        settled_ms = cordoned_ms + self._timing.settle_ms
        if self._clock() < settled_ms:
            self._due(settled_ms)
            return None
        seen = await self._world.read(order.node)
        if not records.stands(self._journal.state, order):
            return None  # withdrawn while the node was read, which takes long where the API server is busy
        snapshot = self._with(seen)
        verdict = judge(snapshot, self._fleet)
        if verdict.wake(pool):
            return None  # looked at again when the views are good
        why = recheck(order, snapshot, self._fleet, cordoned_ms=cordoned_ms)
        if not why and pool.made and self._foreign(node, pool):
            why = f"the machine of {node.name} does not carry this scaler's mark"
        if why:
            await self._release(order, why, hold_ms=0 if "pods run" in why else self._timing.hold_ms)
            return None
        if not await self._emptied(order, seen):
            return None
        if veto := await self._veto(Happening.PRE_POWEROFF, order):
            await self._release(order, veto, hold_ms=self._timing.hold_ms)
            return None
        return seen

    async def _cordon(self, order: NodeOrder) -> int:
        """Returns when it was."""
        try:
            async with self._cordons:
                await self._world.cordon(order.node)
        except NotFound:
            pass
        # After the acknowledgement: what is read from now on is newer than the cordon.
        now = self._cordoned[order.key] = self._clock()
        return now

    def _with(self, seen: Fresh) -> Snapshot:
        """The newest snapshot, and of this node what was just read. Of other nodes' pods a removal asks nothing."""
        snapshot, now = self._look(), self._clock()

        def newer(view: View) -> View:
            if not fresh(view, now, self._fleet.options):
                return view
            return replace(view, as_of_ms=max(view.as_of_ms, seen.asked_ms))

        return replace(
            snapshot, pods=seen.pods, nodes_view=newer(snapshot.nodes_view), pods_view=newer(snapshot.pods_view)
        )

    def _foreign(self, node: Node, pool: Pool) -> bool:
        listed = self._drivers[pool.driver].listed
        return any(machine.name == node.name and not machine.ours for machine in listed)

    async def _emptied(self, order: NodeOrder, seen: Fresh) -> bool:
        """Evict what its owner said may be evicted; True when nothing of that kind is left."""
        movable = [pod for pod in seen.pods if pod.kind is PodKind.MOVABLE]
        if not movable:
            return True
        begun = self._evicting.setdefault(order.key, self._clock())
        if self._clock() - begun > self._timing.evict_ms:
            why = f"{len(movable)} pods could not be evicted within {self._timing.evict_ms // 1000} s"
            await self._release(order, why, hold_ms=self._timing.hold_ms)
            return False
        for pod in movable:
            allowed = await self._world.evict(pod)
            log.info("pod evicted", action="pod_evicted", node=order.node, pod=pod.name, allowed=allowed)
        until = self._clock() + self._timing.retry_ms
        self._later[order.node] = until
        self._due(until)
        return False

    async def _release(self, order: NodeOrder, why: str, *, hold_ms: int) -> None:
        log.info("not switched off after all", action="order_called_off", node=order.node, reason=why)
        if hold_ms:
            self._later[order.node] = self._clock() + hold_ms
        await self._journal.change(
            lambda state: records.released(state, order, self._clock(), self._fleet, hold_ms=hold_ms)
        )
        self._due(self._clock())

    async def _refuse(self, order: NodeOrder, why: str) -> None:
        answer = OrderAnswer(key=order.key, outcome=Outcome.CONFIGURATION, message=why)
        log.error("not switched off", action="order_refused", node=order.node, reason=why)
        await self._journal.change(
            lambda state: records.answered(state, order, answer, self._clock(), self._fleet, of_pool=False)
        )

    async def _power_off(self, order: NodeOrder, node: Node, pool: Pool, seen: Fresh) -> None:
        driver = self._drivers[pool.driver]
        call: Call
        if order.kind is OrderKind.REMOVE:
            call, kind = driver.remove, "remove"
        else:
            # What did not go off when it was asked to is cut off.
            how = StopHow.HARD if node.failures_off else StopHow.SOFT
            call, kind = partial(driver.stop, how=how), f"stop {how.value}"
        together, ready = self._together[driver.name, kind], partial(self._written, order, seen)
        outcome = await together.ask(call, self._target(order), ready=ready)
        if outcome is None:
            self._due(self._clock())  # looked at afresh
        elif isinstance(outcome, PenstockError):
            await self._lost([order], outcome)
        else:
            await self._answered([order], [outcome])

    async def _written(self, order: NodeOrder, seen: Fresh) -> bool:
        """Written down as going off, in the last moment. False = it waited so long for others that what was seen of it
        is too old, or another scaler leads by now.
        """
        if not self._may_send() or self._clock() - seen.asked_ms > self._fleet.options.fresh_ms:
            return False
        await self._journal.change(lambda state: records.powering_off(state, order, self._clock(), self._fleet))
        return True

    # Answers

    def _target(self, order: NodeOrder) -> NodeTarget:
        node = self._journal.state.node(order.node)
        known = node.provider_id if node is not None and node.provider_id else order.provider_id
        return NodeTarget(key=order.key, id=known, name=order.node)

    async def _lost(self, orders: Sequence[NodeOrder], error: PenstockError) -> None:
        """Nothing is known about the call: a newer list is waited for, then the same is said again."""
        for order in orders:
            log.warning("no answer to an order", action="order_lost", node=order.node, error=error.message)
            self._told.order_answered(order, "lost")
        await self._journal.change(lambda state: records.tried(state, orders, self._clock()))

    async def _answered(self, orders: Sequence[NodeOrder], answers: Sequence[OrderAnswer]) -> None:
        by_key = {answer.key: answer for answer in answers}
        missing = Outcome.TRANSIENT
        pairs = [(one, by_key.get(one.key) or OrderAnswer(key=one.key, outcome=missing)) for one in orders]

        def change(state: records.State) -> records.State:
            for order, answer in pairs:
                state = records.answered(state, order, answer, self._clock(), self._fleet)
            return state

        await self._journal.change(change)
        events = []
        for order, answer in pairs:
            accepted = answer.outcome is Outcome.ACCEPTED
            tell = log.info if accepted or answer.outcome is Outcome.NOT_YET else log.warning
            tell(
                "order answered",
                action="order_answered",
                order=order.kind.value,
                node=order.node,
                outcome=answer.outcome.value,
                reason=order.reason,
                message=answer.message,
            )
            self._told.order_answered(order, answer.outcome.value)
            kind = Happening.POST_POWERON if order.kind.wakes else Happening.POST_POWEROFF
            events.append(
                HookEvent(
                    kind=kind,
                    time_ms=self._clock(),
                    node=order.node,
                    pool=order.pool,
                    accepted=accepted,
                    name=answer.name or order.node,
                    reason=order.reason,
                )
            )
        self._hooks.told(events)
        self._due(self._clock())
