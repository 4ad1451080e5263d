"""The running scaler: look, decide, write down, send. One turn of it is a function that tests call.

A turn holds the journal while it looks and writes, so what it decides on is what is stored. It never waits for a driver
or a hook: orders are carried out by tasks of `Sender`, and a driver that needs minutes holds nobody up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog
from msgspec.structs import replace

from penstock.errors import PenstockError, Unavailable
from scaler import records
from scaler.aside import Aside
from scaler.backlog import Backlog
from scaler.control import Hooks, NoHooks
from scaler.engine import decide
from scaler.happenings import happened
from scaler.journal import Journal
from scaler.machines import Machines
from scaler.metrics import ScalerMetrics
from scaler.model import NodeOrder, NodeState, ScalePlan, Snapshot
from scaler.observe import Observed, observe
from scaler.pools import Fleet
from scaler.records import State
from scaler.safety import judge
from scaler.sending import Sender
from scaler.states import NodeEvent, advance
from scaler.store import Store
from scaler.tidying import Tidier
from scaler.timing import Timing
from scaler.window import Window
from scaler.world import Seen, World

log = structlog.get_logger("scaler")

#: A larger world is decided on in a thread, so that watches are read meanwhile.
_INLINE = 2_000
#: How often drivers are asked for their lists: while orders are under way, and otherwise.
LIST_BUSY_MS, LIST_IDLE_MS = 3_000, 10_000
#: Demand does not wait for a new list while the last one is younger: half of the age at which it is stale.
_LIST_OLD_MS = 15_000


class ScalerService:
    """`clock` is wall time in milliseconds. `leads` says whether this process is the one that may act (C19)."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        store: Store,
        world: World,
        drivers: Sequence[Machines],
        clock: Callable[[], int],
        backlog: Backlog | None = None,
        hooks: Hooks | None = None,
        leads: Callable[[], bool] = lambda: True,
        metrics: ScalerMetrics | None = None,
        timing: Timing | None = None,
        window: Window | None = None,
    ) -> None:
        self.fleet = fleet
        self.journal = Journal(store)
        self.drivers = {driver.name: driver for driver in drivers}
        self.hooks: Hooks = hooks or NoHooks()
        self.metrics = metrics or ScalerMetrics()
        self.plan: ScalePlan | None = None
        #: What the last plan was decided on.
        self.decided_on: Snapshot | None = None
        self.decisions = 0
        self.seconds = 0.0
        self._world = world
        self._backlog = backlog
        self._clock = clock
        self._leads = leads
        self._window = window or Window()
        self._ring = asyncio.Event()
        self._listed_ms = 0
        self._told_alarms: frozenset[str] = frozenset()
        self._tidier = Tidier(world)
        self._aside = Aside()
        #: Made nodes that are gone and whose objects have not been looked at since.
        self._gone: set[str] = set()
        self._sender = Sender(
            fleet=fleet,
            journal=self.journal,
            world=world,
            drivers=self.drivers,
            hooks=self.hooks,
            clock=clock,
            look=lambda: self.snapshot(self.journal.state, self._world.look()),
            may_send=leads,
            due=self._due,
            told=self.metrics,
            timing=timing,
        )
        world.listen(self.changed)

    # Being told

    def changed(self, demand: bool = False) -> None:
        """Something was seen; `demand` = a pod became unschedulable."""
        now = self._clock()
        if demand:
            self._window.demand(now)
        else:
            self._window.change(now)
        self._ring.set()

    def _due(self, time_ms: int) -> None:
        self._window.by(time_ms)
        self._ring.set()

    def soon(self) -> None:
        """A person ordered something: decide now."""
        self._due(self._clock())

    # Looking

    def snapshot(self, state: State, seen: Seen) -> Snapshot:
        """Everything a decision may look at, as of now."""
        backlog, backlog_view = self._backlog.look() if self._backlog is not None else ((), None)
        return Snapshot(
            now_ms=self._clock(),
            nodes=state.nodes,
            pods=seen.pods,
            requests=state.requests,
            backlog=backlog,
            provider=tuple(machine for driver in self.drivers.values() for machine in driver.listed),
            pools=state.pools,
            reservations=state.reservations,
            steered=state.steered,
            nodes_view=seen.nodes_view,
            pods_view=seen.pods_view,
            backlog_view=backlog_view,
            provider_views={name: driver.view for name, driver in self.drivers.items()},
        )

    def look(self) -> Snapshot:
        """As the next decision would see it."""
        return self.snapshot(self.journal.state, self._world.look())

    def blocked(self) -> str:
        """Why nothing can be decided now; "" = it can."""
        if not self._leads():
            return "another scaler is the active one"
        return judge(self.look(), self.fleet).all

    # One turn

    async def turn(self) -> None:
        """List what is due, decide, write, and start what was ordered. Raises Fenced, Corrupt, Forbidden, Closed."""
        self.metrics.leader.set(self._leads())
        await self._list()
        if not self._leads():
            self._window.looked(self._clock())
            return
        try:
            seen, gone = await self._decide()
            self._sender.turn()
            self._tidy(seen, gone)
        except Unavailable as error:
            log.warning(
                "nothing can be written down, so nothing is ordered", action="journal_down", error=error.message
            )
            self._window.failed(self._clock())
        for failure in (self._sender.aside.failure, self._aside.failure):
            if failure is not None:
                raise failure

    async def _list(self) -> None:
        now = self._clock()
        busy = any(not pending.accepted or pending.order.kind.removes for pending in self.journal.state.orders.values())
        every = LIST_BUSY_MS if busy else LIST_IDLE_MS
        if now - self._listed_ms < every:
            self._window.by(self._listed_ms + every)
            return
        if self._aside.busy("list"):
            return
        self._listed_ms = now
        task = self._aside.start(["list"], self._refresh())
        if not (self._window.first_ms and self._listed_lately(now)):
            await asyncio.wait([task])

    async def _refresh(self) -> None:
        await asyncio.gather(*(driver.refresh() for driver in self.drivers.values()))

    def _listed_lately(self, now: int) -> bool:
        """Pods wait, and the lists that there are will do for them: nobody waits for newer ones."""
        return all(
            driver.view.complete and now - driver.view.as_of_ms < _LIST_OLD_MS for driver in self.drivers.values()
        )

    def _tidy(self, seen: Seen, gone: list[str]) -> None:
        """Beside the turns: a node object that changes slowly makes no pod wait."""
        self._gone.update(gone)
        if not self._aside.busy("tidy"):
            gone, self._gone = sorted(self._gone), set()
            self._aside.start(["tidy"], self._tidier.turn(self.journal.state, seen, gone))

    async def _decide(self) -> tuple[Seen, list[str]]:
        """Returns what was looked at, and the made nodes that were seen to be gone."""
        begun = time.perf_counter()
        async with self.journal.turn() as turn:
            # Before the look: a pod that comes while this is decided and written has a window of its own.
            self._window.looked(self._clock())
            seen = self._world.look()
            before = self.snapshot(turn.state, seen)
            found, state, plan = await self._work(before, seen, turn.state)
            blocked = judge(before, self.fleet).all
            if not blocked:
                await turn.write(state)
            self._window.decided(self._clock(), plan.next_ms)
        self.seconds = time.perf_counter() - begun
        self.decisions += 1
        self.plan, self.decided_on = plan, replace(before, nodes=turn.state.nodes)
        self._tell(before, found, plan)
        pools = self.fleet.by_name
        gone = [
            step.node.name
            for step in found.steps
            if step.node.state is NodeState.OFF and step.node.pool in pools and pools[step.node.pool].made
        ]
        return seen, gone

    async def _work(self, before: Snapshot, seen: Seen, state: State) -> tuple[Observed, State, ScalePlan]:
        if len(before.pods) + len(before.nodes) > _INLINE:
            return await asyncio.to_thread(self._think, before, seen, state)
        return self._think(before, seen, state)

    def _think(self, before: Snapshot, seen: Seen, state: State) -> tuple[Observed, State, ScalePlan]:
        """The pure part: what is seen, what follows, and how it will be written down."""
        found = observe(before, seen.sightings, self.fleet)
        state = records.observed(state, found.nodes, found.steps)
        state, left = _leave(state, before.now_ms, self.fleet)
        plan = decide(replace(before, nodes=state.nodes, pools=state.pools), self.fleet)
        state = records.planned(state, replace(plan, orders=(*left, *plan.orders)), self.fleet)
        return found, state, plan

    def _tell(self, before: Snapshot, found: Observed, plan: ScalePlan) -> None:
        now = before.now_ms
        for step in found.steps:
            log.info(
                "node changed",
                action="node_changed",
                node=step.node.name,
                pool=step.node.pool,
                state=step.node.state.value,
                unexpected=step.unexpected,
            )
        for name in found.strangers:
            log.debug("a machine of nobody", action="machine_unknown", machine=name)
        alarms = frozenset(self.alarms())
        for alarm in sorted(alarms - self._told_alarms):
            log.error(alarm, action="alarm")
        self._told_alarms = alarms
        self.metrics.decided(self.decided_on or before, plan, self.fleet, self.seconds)
        self.metrics.alarms.set(len(alarms))
        events = happened(found.steps, {node.name: node.state for node in before.nodes}, now)
        if events:
            self.hooks.told(events)

    def alarms(self) -> tuple[str, ...]:
        """All that a person should look at now."""
        told = [
            driver.paused or f"driver {driver.name}: {driver.trouble}" for driver in self.drivers.values() if driver.ill
        ]
        return (*(self.plan.alarms if self.plan is not None else ()), *told)

    # Life

    async def run(self) -> None:
        """For ever. Raises what should end the process: Fenced, Corrupt, Forbidden, a defect."""
        await self._open()
        while True:
            await self.turn()
            await self._sleep()

    async def open(self) -> None:
        """Take up what an earlier life left. Raises as `Store.load`."""
        state = await self.journal.open()
        self._sender.begin()
        log.info("scaler begins", action="begun", nodes=len(state.nodes), orders=len(state.orders))

    async def _open(self) -> None:
        while True:
            try:
                return await self.open()
            except Unavailable as error:
                log.warning("the stored state cannot be read yet", action="journal_down", error=error.message)
                await asyncio.sleep(1.0)

    async def _sleep(self) -> None:
        while (left := self._window.due_ms - self._clock()) > 0:
            self._ring.clear()
            try:
                async with asyncio.timeout(left / 1000):
                    await self._ring.wait()
            except TimeoutError:
                return

    async def settled(self) -> None:
        """Wait until no order is being carried out, and nothing listed or tidied."""
        await self._sender.aside.settled()
        await self._aside.settled()

    async def close(self) -> None:
        """Stop; what is under way is taken up by the next life."""
        await self._sender.aside.close()
        await self._aside.close()
        for driver in self.drivers.values():
            try:
                await driver.provider.close()
            except PenstockError as error:
                log.warning("a driver did not close", action="driver_close", driver=driver.name, error=error.message)


def _leave(state: State, now_ms: int, fleet: Fleet) -> tuple[State, list[NodeOrder]]:
    """Orders for nodes that a person wants gone and that have become idle."""
    orders = []
    for node in state.nodes:
        pool = fleet.by_name.get(node.pool)
        if node.name not in state.leaving or pool is None:
            continue
        if node.state is NodeState.IDLE:
            orders.append(records.order_off(node, pool, "ordered off by a person when its work ended"))
        elif node.state is not NodeState.USED:
            state = replace(state, leaving=state.leaving - {node.name})
    if orders:
        # Decided already, so the policies must not see them as idle.
        drained = {one.node for one in orders}
        nodes = tuple(
            advance(node, NodeEvent.DRAIN, now_ms, fleet.options).node if node.name in drained else node
            for node in state.nodes
        )
        state = replace(state, nodes=nodes)
    return state, orders
