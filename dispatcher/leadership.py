"""Taking turns: of several dispatcher processes one is active, and the others keep their ledgers current beside it.

A process that loses its turn (the Lease went to another, or a successor fenced its writer) does not exit: it drops
everything that belonged to the turn and stands by again. A restart would do no more than that, and with one replica the
kubelet's growing back-off would turn a short outage of the API server into minutes. Only a bug or a missing right ends
the process. Each turn has a runner, a dispatcher and a Lease identity of its own; what is kept between turns is the
ledger, which is a view of the log whoever writes it.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import structlog

from dispatcher.metrics import DispatcherMetrics
from dispatcher.production import ClusterDispatcher
from penstock.adapters.kubernetes import KubernetesClient, LeaderLease, LeaseTiming
from penstock.adapters.kubernetes.trouble import NamespaceMissing
from penstock.errors import Fenced, NotFound, Unavailable
from penstock.follow import RecordFollower
from penstock.ports import EventLog, Ledger

log = structlog.get_logger("dispatcher.leadership")

LEASE = "penstock-dispatcher"
RETRY_S = 1.0
#: At a stop: for what was begun (submissions, records) to be done. Jobs go on in any case.
QUIESCE_S = 10.0

#: Composes the dispatcher of one turn; the argument tells whether this process may act.
OpenDispatcher = Callable[[Callable[[], bool]], AbstractAsyncContextManager[ClusterDispatcher]]


class Leadership:
    """`take_over` fences whoever wrote records before; None = the log has no such thing (a file with a lock)."""

    def __init__(
        self,
        *,
        client: KubernetesClient,
        namespace: str,
        event_log: EventLog,
        ledger: Ledger,
        open_dispatcher: OpenDispatcher,
        take_over: Callable[[], Awaitable[None]] | None,
        metrics: DispatcherMetrics,
        timing: LeaseTiming | None = None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._log = event_log
        self._ledger = ledger
        self._open = open_dispatcher
        self._take_over = take_over
        self._metrics = metrics
        self._timing = timing
        self._follower: RecordFollower | None = None
        self._lease: LeaderLease | None = None
        self._stopping = asyncio.Event()
        #: The dispatcher of this turn, None = standing by.
        self.active: ClusterDispatcher | None = None
        self.ready = asyncio.Event()
        self._trouble = "it has not looked for the Lease yet"

    def waiting_for(self) -> Sequence[str]:
        """Why it cannot do its work now: being active, or being a standby that could take over."""
        reasons = [self._trouble] if self._trouble else []
        if self.active is not None and not self.ready.is_set():
            reasons.append("it is taking over: what its predecessor left is being read")
        if self._follower is not None and self._follower.trouble:
            reasons.append(f"the history cannot be followed: {self._follower.trouble}")
        return reasons

    def stop(self) -> None:
        """End the turn in order: begin nothing more, finish what was begun, step down."""
        self._stopping.set()

    async def run(self) -> None:
        """Turn after turn until `stop`; raises what only a person can mend."""
        while not self._stopping.is_set():
            async with self._elected() as lease:
                if lease is not None:
                    await self._turn(lease)
            self._metrics.stand_by()

    @asynccontextmanager
    async def _elected(self) -> AsyncIterator[LeaderLease | None]:
        """Stand by until the Lease is held; None = it is time to stop."""
        # An identity is never used twice, so every change of hands counts, also one back to this process.
        lease = LeaderLease(
            self._client,
            namespace=self._namespace,
            name=LEASE,
            identity=f"{socket.gethostname()}-{secrets.token_hex(6)}",
            timing=self._timing,
        )
        self._follower = RecordFollower(self._log, self._ledger)
        following = asyncio.create_task(self._follower.run(), name="follow")
        electing = asyncio.create_task(self._elect(lease), name="elect")
        stopping = asyncio.create_task(self._stopping.wait(), name="stop")
        try:
            await asyncio.wait({following, electing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(following, stopping)
            self._follower = None
        try:
            if following.done() and not following.cancelled():
                following.result()
            if electing.done():
                electing.result()
                yield lease
            else:
                yield None
        finally:
            await _end(electing)
            await lease.step_down()

    async def _elect(self, lease: LeaderLease) -> None:
        while not await self._looked(lease):  # noqa: ASYNC110 - each look is a request to the API server
            await asyncio.sleep(RETRY_S)
        log.info("this process is the active one", action="elected", epoch=lease.epoch)

    async def _looked(self, lease: LeaderLease) -> bool:
        try:
            held = await lease.turn()
        except Unavailable as error:
            self._trouble = error.message
            return False
        except NotFound as error:  # the namespace of the Lease
            self._trouble = f"the Lease cannot be kept: {error.message}"
            return False
        self._trouble = ""
        return held

    async def _turn(self, lease: LeaderLease) -> None:
        """Work until the Lease is lost, the writer is fenced, or it is time to stop."""
        holding = asyncio.create_task(lease.hold(), name="hold the lease")
        working = asyncio.create_task(self._work(lease), name="work")
        stopping = asyncio.create_task(self._stopping.wait(), name="stop")
        try:
            await asyncio.wait({holding, working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done() and not working.done() and lease.held and self.active is not None:
                log.info("stopping: what was begun is finished", action="quiesce")
                if not await self.active.dispatcher.quiesce(QUIESCE_S):
                    log.warning("not all that was begun could be finished", action="quiesce_timeout")
        finally:
            await _end(working, stopping)
            await _end(holding)
            self.active = None
            self.ready.clear()
        if holding.done() and not holding.cancelled():
            holding.result()
        if working.done() and not working.cancelled():
            await self._judge(working)

    async def _judge(self, working: asyncio.Task[None]) -> None:
        """Why the work ended: what passes leads to another turn, all else is raised."""
        try:
            working.result()
        except Fenced as error:
            log.warning("this turn is over: the writer is another's", action="fenced", error=error.message)
        except (Unavailable, NamespaceMissing, NotFound) as error:
            self._trouble = error.message
            log.warning("this turn is over, another begins", action="turn_ended", error=error.message)
            await asyncio.sleep(RETRY_S)

    async def _work(self, lease: LeaderLease) -> None:
        if self._take_over is not None:
            await self._take_over()
        async with self._open(lambda: lease.held) as active:
            self.active = active
            await active.run(self.ready, epoch=lease.epoch)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel and await; their outcome is looked at elsewhere."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
