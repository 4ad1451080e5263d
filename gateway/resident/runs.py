"""Synchronous runs in production: a run waits for a pod, goes there, and its end becomes history.

The pods are a Deployment's. A run that finds none free has more of them made at once and waits, in a queue that is
bounded in length and time. Whatever the pod had not begun is sent elsewhere; what it may have begun never is, because
user code would run twice.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping

import structlog

from dispatcher.sidecar.calls import Call
from gateway.resident import scaling
from gateway.resident.answer import Answer
from gateway.resident.balance import Full, Target
from gateway.resident.cluster import ResidentApi
from gateway.resident.facts import Deployment, Meta, Pod, address_of, generation_of, uid_of
from gateway.resident.history import History, record_of
from gateway.resident.pod_client import NotBegun, PodClient, PodLost
from gateway.resident.state import FunctionState
from gateway.resident.variables import echoed_type
from penstock.adapters.kubernetes.watching import Snapshot
from penstock.clock import now_ms
from penstock.errors import Forbidden, InvalidInput, PenstockError, Unavailable
from penstock.identity import invocation_id
from penstock.model import ErrorClass, Function, ItemResult, Submission, UploadOnFailure
from penstock.settings_sync import SyncGroup

log = structlog.get_logger("gateway.resident")

PROBE_S = 0.05
#: A cluster that could not be asked is asked again after so long.
RETRY_S = 1.0


def call_of(
    function: Function, body: bytes, *, content_type: str, variables: Mapping[str, str], timeout_s: float, user: str
) -> Call:
    """A new run of a function. Raises Unavailable: it is paused."""
    if function.paused:
        raise Unavailable(f"the function {function.name} is paused; resume it, then its runs are taken again")
    submission = Submission(
        function=function.name,
        function_uid=function.uid,
        id=secrets.token_hex(16),
        time_ms=now_ms(),
        content_type=content_type,
        size=len(body),
        user=user,
        answer=True,
    )
    return Call(
        invocation=invocation_id(function.uid, submission.identity),
        submission=submission,
        deadline_s=min(function.deadline_s, timeout_s),
        publish_on_failure=function.upload_on_failure is UploadOnFailure.ALWAYS,
        variables=dict(variables),
    )


class ResidentRuns:
    """`run` is for request handlers; the loops are to be kept going by whoever composed it."""

    def __init__(self, *, api: ResidentApi, client: PodClient, history: History, settings: SyncGroup) -> None:
        self._api = api
        self._client = client
        self._history = history
        self._settings = settings
        self.states: dict[str, FunctionState] = {}

    def state(self, function: Function) -> FunctionState:
        found = self.states.get(function.uid)
        if found is None:
            found = FunctionState(function, slots=self._settings.pod_slots, queue=self._settings.queue)
            self.states[function.uid] = found
        if function.generation >= found.function.generation:
            found.function = function
        return found

    def bounds(self, function: Function) -> scaling.Bounds:
        return scaling.bounds(function, slots=self._settings.pod_slots, most=self._settings.max_pods)

    # Runs

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
        """Run and wait for the end, however it is; cancelled = the script is ended. `headers` = the `Http_*` variables.

        Raises Unavailable (the queue is full, or no pod came in time: nothing was begun), InvalidInput (what no cluster
        could run), PodLost.
        """
        call = call_of(function, body, content_type=content_type, variables=headers, timeout_s=timeout_s, user=user)
        state = self.state(function)
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        key = await self._key(state)
        ticket = object()
        try:
            state.balancer.join(ticket)
        except Full:
            raise Unavailable(
                f"{self._settings.queue} runs of {function.name} wait for a pod already; try again later"
            ) from None
        wait_until = arrived + min(timeout_s, self._settings.start_timeout_s)
        while True:
            target = await self._pod(state, ticket, wait_until)
            waited = loop.time() - arrived
            try:
                answer = await self._send(state, target, key, call, body)
            except NotBegun:
                state.balancer.refused(target.name, loop.time())
                state.balancer.join_first(ticket)
                continue
            answer.parts = {"wait_s": waited, "run_s": loop.time() - arrived - waited}
            return answer

    async def _key(self, state: FunctionState) -> str:
        if not state.key:
            state.key = await self._api.key(state.function)
        return state.key

    async def _pod(self, state: FunctionState, ticket: object, until: float) -> Target:
        """The pod for a run that has joined the queue. Raises Unavailable, InvalidInput."""
        future: asyncio.Future[Target] = asyncio.get_running_loop().create_future()
        state.futures[ticket] = future
        try:
            state.assign()
            if not future.done() or state.generation < state.function.generation:
                self._grow(state)
            async with asyncio.timeout_at(until):
                return await future
        except TimeoutError:
            _unwanted(state, future)
            raise Unavailable(
                f"no pod of {state.function.name} was free in time, and nothing was run: {state.why()}"
            ) from None
        except asyncio.CancelledError:
            _unwanted(state, future)
            raise
        finally:
            del state.futures[ticket]
            state.balancer.leave(ticket)

    async def _send(self, state: FunctionState, target: Target, key: str, call: Call, body: bytes) -> Answer:
        """Raises NotBegun, PodLost, InvalidInput."""
        begun = now_ms()
        echoed = echoed_type(call.submission.content_type)
        try:
            answer = await self._client.run(target.address, key, call, body, content_type=echoed)
        except asyncio.CancelledError:
            text = "the caller went away before the answer"
            self._note(state, target, call, body, ended(call, ErrorClass.CANCELLED, text, begun), begun)
            raise
        except PodLost as error:
            self._note(state, target, call, body, ended(call, ErrorClass.KILLED, error.message, begun), begun)
            raise
        finally:
            state.balancer.over(target.name)
            state.assign()
        self._note(state, target, call, body, answer.result, begun)
        return answer

    def _note(  # noqa: PLR0917 - private, and all of it differs by call
        self, state: FunctionState, target: Target, call: Call, body: bytes, result: ItemResult, begun: int
    ) -> None:
        record = record_of(state.function, call.submission, result, pod=target.name, begun_ms=begun, now=now_ms())
        self._history.add(record, body)

    # More pods

    def _grow(self, state: FunctionState) -> None:
        state.news.set()
        if state.growing is None or state.growing.done():
            state.growing = asyncio.create_task(self._growing(state), name=f"pods for {state.function.name}")

    async def _growing(self, state: FunctionState) -> None:
        """While anybody waits for a pod."""
        while True:
            state.news.clear()
            pause = None
            try:
                await self.grow_once(state)
                state.trouble = ""
            except InvalidInput as error:
                state.refuse(error)
                return
            except PenstockError as error:
                state.trouble = error.message
                pause = RETRY_S
                log.warning("no pods could be asked for", action="resident_retry", error=error.message)
                if isinstance(error, Forbidden):
                    state.refuse(Unavailable(f"no pod of {state.function.name} can be made: {error.message}"))
            if not state.balancer.waiting:
                return
            try:
                async with asyncio.timeout(pause):
                    await state.news.wait()
            except TimeoutError:
                continue

    async def grow_once(self, state: FunctionState) -> None:
        """Have as many pods asked for as there are runs. Raises Unavailable, Forbidden, InvalidInput."""
        function = state.function
        load = state.load(asyncio.get_running_loop().time())
        limits, slots = self.bounds(function), self._settings.pod_slots
        if state.generation < function.generation:
            wanted = max(scaling.needed(load, limits, slots=slots), state.replicas)
            await self._api.ensure(function, replicas=wanted)
            state.generation = function.generation
            state.replicas = max(state.replicas, wanted)
            return
        more = scaling.raised(state.replicas, load, limits, slots=slots)
        if more is not None:
            await self._api.ensure(function, replicas=more)
            state.replicas = max(state.replicas, more)
            log.info("pods were asked for", action="resident_scaled", function=function.name, pods=more)

    # What the cluster tells

    async def follow_pods(self) -> None:
        """Root task."""
        async for told in self._api.pods.follow():
            if isinstance(told, Snapshot):
                names = {pod.metadata.name for pod in told.items}
                for state in self.states.values():
                    for name in set(state.pods) - names:
                        self._pod_gone(state, name)
                for pod in told.items:
                    self._saw_pod(pod)
            elif told.deleted:
                state_of = self.states.get(uid_of(told.item.metadata))
                if state_of is not None:
                    self._pod_gone(state_of, told.item.metadata.name)
            else:
                self._saw_pod(told.item)

    def _saw_pod(self, pod: Pod) -> None:
        state = self._known(pod.metadata)
        if state is None:
            return
        name = pod.metadata.name
        state.pods[name] = pod
        if not address_of(pod):
            state.forget(name)
        elif name not in state.up and name not in state.probes:
            state.probes[name] = asyncio.create_task(self._probe(state, pod), name=f"probe {name}")

    def _known(self, meta: Meta) -> FunctionState | None:
        """Of a function that this process has not met yet, a state is made from what the pod says of it."""
        uid = uid_of(meta)
        if not uid:
            return None
        if uid not in self.states:
            name = meta.labels.get("penstock.dev/function", "")
            self.state(Function(name=name, uid=uid, generation=0))
        return self.states[uid]

    def _pod_gone(self, state: FunctionState, name: str) -> None:
        state.pods.pop(name, None)
        state.forget(name)
        if not state.pods and not state.replicas and not state.balancer.waiting:
            state.key = ""

    async def _probe(self, state: FunctionState, pod: Pod) -> None:
        """Until the pod is up, then it gets runs."""
        target = state.target(pod)
        while not await self._client.up(target.address):  # noqa: ASYNC110 - each look is a request
            await asyncio.sleep(PROBE_S)
        state.probes.pop(target.name, None)
        state.up[target.name] = target
        state.offer()

    async def follow_deployments(self) -> None:
        """Root task."""
        async for told in self._api.deployments.follow():
            if isinstance(told, Snapshot):
                seen = {uid_of(one.metadata) for one in told.items}
                for uid, state in self.states.items():
                    if uid not in seen:
                        state.replicas = state.generation = 0
                for one in told.items:
                    self._saw_deployment(one, gone=False)
            else:
                self._saw_deployment(told.item, gone=told.deleted)

    def _saw_deployment(self, one: Deployment, *, gone: bool) -> None:
        state = self._known(one.metadata)
        if state is not None:
            state.replicas = 0 if gone else one.spec.replicas
            state.generation = 0 if gone else generation_of(one.metadata)
            state.news.set()

    def close(self) -> None:
        for state in self.states.values():
            state.close()


def _unwanted(state: FunctionState, future: asyncio.Future[Target]) -> None:
    """Whoever waited has left in the moment in which a pod was found."""
    if future.done() and not future.cancelled() and future.exception() is None:
        state.balancer.over(future.result().name)
        state.assign()


def ended(call: Call, error: ErrorClass, message: str, begun: int) -> ItemResult:
    """Of a run whose pod told nothing."""
    return ItemResult(
        invocation=call.invocation,
        attempt=1,
        error=error,
        message=message,
        started_ms=begun,
        finished_ms=now_ms(),
    )
