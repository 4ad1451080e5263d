"""Synchronous runs where Knative keeps the pods: each function is a Knative Service, and runs go to its address.

Knative starts, stops and chooses pods, and holds a run while one wakes. Ours is the definition, the bound on how many
wait, the key, and the history.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from dispatcher.kubernetes.settings import KubernetesSettings
from dispatcher.sidecar.calls import Call
from gateway.resident import knative, scaling
from gateway.resident.answer import Answer
from gateway.resident.cluster import ResidentApi
from gateway.resident.history import History, record_of
from gateway.resident.manifest import Shape, base_name
from gateway.resident.pod_client import NotBegun, PodClient, PodLost
from gateway.resident.runs import call_of, ended
from gateway.resident.variables import echoed_type
from penstock.adapters.kubernetes import KubernetesClient
from penstock.adapters.kubernetes.client import META_ONLY, encode
from penstock.clock import now_ms
from penstock.errors import AlreadyExists, Conflict, Forbidden, NotFound, PenstockError, Unavailable
from penstock.model import ErrorClass, Function, ItemResult
from penstock.settings_sync import SyncGroup

log = structlog.get_logger("gateway.resident")

AGAIN_S = 0.2


async def installed(client: KubernetesClient, namespace: str) -> bool:
    """Whether Knative is there and we may use it. Raises Unavailable."""
    try:
        await client.get(f"/apis/{knative.API}/namespaces/{namespace}/services", limit="1")
    except (NotFound, Forbidden):
        return False
    return True


class KnativeRuns:
    """Implements `SynchronousRuns`. `settings` are those of Jobs, whose pods these are made like."""

    def __init__(
        self,
        *,
        client: KubernetesClient,
        api: ResidentApi,
        pods: PodClient,
        history: History,
        jobs: KubernetesSettings,
        shape: Shape,
        settings: SyncGroup,
    ) -> None:
        self._client = client
        self._api = api
        self._pods = pods
        self._history = history
        self._jobs = jobs
        self._shape = shape
        self._settings = settings
        self._path = f"/apis/{knative.API}/namespaces/{jobs.namespace}/services"
        self._waiting: collections.Counter[str] = collections.Counter()
        self._addresses: dict[tuple[str, int], str] = {}
        self._keys: dict[str, str] = {}

    async def run(
        self,
        function: Function,
        body: bytes,
        *,
        content_type: str,
        headers: Mapping[str, str],
        timeout_s: float,
        user: str = "",
    ) -> Answer:
        """As `ResidentRuns.run`."""
        call = call_of(function, body, content_type=content_type, variables=headers, timeout_s=timeout_s, user=user)
        if self._waiting[function.uid] >= self._settings.queue:
            raise Unavailable(f"{self._settings.queue} runs of {function.name} are under way already; try again later")
        self._waiting[function.uid] += 1
        try:
            return await self._send(function, call, body, min(timeout_s, self._settings.start_timeout_s))
        finally:
            self._waiting[function.uid] -= 1
            if not self._waiting[function.uid]:
                del self._waiting[function.uid]

    async def _send(self, function: Function, call: Call, body: bytes, wait_s: float) -> Answer:
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        address = await self._address(function, until)
        key = await self._key(function)
        echoed = echoed_type(call.submission.content_type)
        while True:
            begun = now_ms()
            try:
                answer = await self._pods.run(address, key, call, body, content_type=echoed)
            except NotBegun as error:
                if loop.time() + AGAIN_S > until:
                    raise Unavailable(
                        f"no pod of {function.name} was free in time, and nothing was run: {error}"
                    ) from error
                await asyncio.sleep(AGAIN_S)
                continue
            except asyncio.CancelledError:
                text = "the caller went away before the answer"
                self._note(function, call, body, ended(call, ErrorClass.CANCELLED, text, begun), begun)
                raise
            except PodLost as error:
                self._note(function, call, body, ended(call, ErrorClass.KILLED, error.message, begun), begun)
                raise
            self._note(function, call, body, answer.result, begun)
            return answer

    def _note(self, function: Function, call: Call, body: bytes, result: ItemResult, begun: int) -> None:
        record = record_of(function, call.submission, result, pod=base_name(function), begun_ms=begun, now=now_ms())
        self._history.add(record, body)

    async def _key(self, function: Function) -> str:
        if function.uid not in self._keys:
            self._keys[function.uid] = await self._api.key(function)
        return self._keys[function.uid]

    async def _address(self, function: Function, until: float) -> str:
        """Where the Service of this generation is called. Raises Unavailable, Forbidden, InvalidInput."""
        known = self._addresses.get((function.uid, function.generation))
        if known is not None:
            return known
        loop = asyncio.get_running_loop()
        found = await self.ensure(function)
        while not (address := knative.address_of(found)):
            if loop.time() + AGAIN_S > until:
                why = knative.trouble_of(found) or "Knative has not set it up yet"
                raise Unavailable(f"{function.name} cannot be called, and nothing was run: {why}")
            await asyncio.sleep(AGAIN_S)
            found = await self._client.get(f"{self._path}/{base_name(function)}")
        self._addresses = {one: kept for one, kept in self._addresses.items() if one[0] != function.uid}
        self._addresses[function.uid, function.generation] = address
        return address

    async def ensure(self, function: Function) -> dict[str, Any]:
        """Have a Service of this generation; returns it as it is. Raises Unavailable, Forbidden, InvalidInput."""
        limits = scaling.bounds(function, slots=self._settings.pod_slots, most=self._settings.max_pods)
        wanted = knative.service(function, self._jobs, self._shape, limits, idle_s=self._settings.idle_s)
        path = f"{self._path}/{base_name(function)}"
        await self._key(function)
        try:
            found: dict[str, Any] = await self._client.get(path)
        except NotFound:
            found = {}
        if found and not knative.outdated(found, wanted):
            return found
        await self._api.put_files(function)
        try:
            if found:
                body = encode(knative.replaced(found, wanted))
                await self._client.request("PUT", path, body, accept=META_ONLY)
            else:
                await self._client.request("POST", self._path, encode(wanted), accept=META_ONLY)
        except (AlreadyExists, Conflict):
            log.info("another gateway was faster", action="resident_conflict", function=function.name)
        made: dict[str, Any] = await self._client.get(path)
        return made

    async def keep(self, functions: Callable[[], list[Function] | None]) -> None:
        """Root task: what is to be kept warm is there before anybody calls, and new definitions are rolled out."""
        while True:
            for function in functions() or ():
                seen = any(uid == function.uid for uid, _ in self._addresses)
                current = (function.uid, function.generation) in self._addresses
                if not current and (seen or function.synchronous.min_scale):
                    await self._kept(function)
            await asyncio.sleep(self._settings.look_s)

    async def _kept(self, function: Function) -> None:
        try:
            await self._address(function, asyncio.get_running_loop().time())
        except PenstockError as error:
            log.warning(
                "a function is not set up yet", action="keeper_retry", function=function.name, error=error.message
            )
