"""The leader's work on resident functions: pods that are idle go, `min_scale` stays, new definitions are rolled out,
and what older ones left is removed. Of several gateways the one with the Lease does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.resident import manifest, scaling
from gateway.resident.cluster import ResidentApi
from gateway.resident.facts import generation_of
from gateway.resident.pod_client import PodClient
from gateway.resident.runs import ResidentRuns
from gateway.resident.scaling import PodUse
from gateway.resident.state import FunctionState
from penstock.adapters.kubernetes import LeaderLease
from penstock.errors import Forbidden, InvalidInput, NotFound, PenstockError, Unavailable
from penstock.model import Function
from penstock.settings_sync import SyncGroup

log = structlog.get_logger("gateway.resident")


class Keeper:
    """`functions` = all there are now, None = not known yet."""

    def __init__(
        self,
        *,
        runs: ResidentRuns,
        api: ResidentApi,
        client: PodClient,
        lease: LeaderLease,
        functions: Callable[[], list[Function] | None],
        settings: SyncGroup,
    ) -> None:
        self._runs = runs
        self._api = api
        self._client = client
        self._lease = lease
        self._functions = functions
        self._settings = settings

    async def run(self) -> None:
        """Root task."""
        try:
            while True:
                try:
                    if await self._lease.turn():
                        await self.turn()
                except (Unavailable, NotFound) as error:
                    log.warning("resident pods are not looked after", action="keeper_retry", error=error.message)
                await asyncio.sleep(self._settings.look_s)
        finally:
            await self._lease.step_down()

    async def turn(self) -> None:
        """One look at every function. Raises Unavailable."""
        functions = self._functions()
        if functions is None:
            return
        known = {function.uid: function for function in functions}
        for uid, state in list(self._runs.states.items()):
            if uid not in known and not state.pods and not state.balancer.waiting:
                state.close()
                del self._runs.states[uid]
        for function in functions:
            if function.uid in self._runs.states or function.synchronous.min_scale:
                await self._look(self._runs.state(function))

    async def _look(self, state: FunctionState) -> None:
        try:
            await self._roll_out(state)
            await self._give_back(state)
            await self._tidy(state)
        except Unavailable:
            raise
        except (Forbidden, InvalidInput) as error:
            # One function's trouble is no other's.
            if state.trouble != error.message:
                log.error(
                    "the pods of a function cannot be kept",
                    action="resident_failed",
                    function=state.function.name,
                    error=error.message,
                )
            state.trouble = error.message
        except PenstockError as error:
            log.warning("the pods of a function are looked at again", action="keeper_retry", error=error.message)

    async def _roll_out(self, state: FunctionState) -> None:
        function = state.function
        low = self._runs.bounds(function).low
        exists = state.generation > 0
        if not exists and not low:
            return
        if state.checked == function.generation and state.generation >= function.generation and state.replicas >= low:
            return
        await self._api.ensure(function, replicas=max(low, state.replicas))
        state.generation, state.replicas = function.generation, max(low, state.replicas)
        state.checked = function.generation

    async def _give_back(self, state: FunctionState) -> None:
        if not state.replicas:
            return
        limits = self._runs.bounds(state.function)
        if state.replicas <= limits.low:
            return
        targets = list(state.up.values())
        told = await asyncio.gather(*(self._client.use(target.address, state.key) for target in targets))
        if not state.key:
            state.key = await self._api.key(state.function)
            return  # at the next look
        uses = [PodUse(idle_s=use.idle_s if use is not None and not use.active else 0.0) for use in told]
        load = state.load(asyncio.get_running_loop().time())
        fewer = scaling.lowered(state.replicas, uses, load, limits, idle_s=self._settings.idle_s)
        if fewer is not None:
            await self._api.set_replicas(manifest.base_name(state.function), fewer)
            state.replicas = fewer
            log.info("idle pods are given back", action="resident_scaled", function=state.function.name, pods=fewer)

    async def _tidy(self, state: FunctionState) -> None:
        generation = state.function.generation
        if state.tidied == generation or state.generation != generation:
            return
        if any(generation_of(pod.metadata) != generation for pod in state.pods.values()):
            return
        await self._api.drop_old_files(state.function.uid, {str(generation)})
        state.tidied = generation
