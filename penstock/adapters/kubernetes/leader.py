"""Holding the Lease that makes a process the active one: acquire, renew, notice the loss, step down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import structlog

from penstock.adapters.kubernetes.client import KubernetesClient, encode
from penstock.adapters.kubernetes.lease import (
    Action,
    LeaseSpec,
    LeaseTiming,
    Seen,
    claimed,
    decide,
    manifest,
    observe,
    released,
    trusted,
)
from penstock.errors import AlreadyExists, Conflict, NotFound, Unavailable

log = structlog.get_logger("penstock.kubernetes")


class _Meta(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815 - the API's name


class _Lease(msgspec.Struct):
    metadata: _Meta
    spec: LeaseSpec = LeaseSpec()


class LeaderLease:
    """`identity` must be this process's alone and never used again (pod name and something random): the epoch counts
    changes of it. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        client: KubernetesClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: LeaseTiming | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._me = identity
        self._timing = timing or LeaseTiming()
        self._clock = clock
        self._decode = msgspec.json.Decoder(_Lease).decode
        self._seen: Seen | None = None
        self._renewed_at: float | None = None
        #: Fences what an earlier holder still has under way; grows with every change of hands, from 1. 0 = never held.
        self.epoch = 0

    @property
    def held(self) -> bool:
        """Whether this process may act as the active one at this moment."""
        return trusted(self._renewed_at, self._clock(), self._timing)

    @property
    def holder(self) -> str:
        """Who has it, as far as was last read; "" = nobody."""
        return (self._seen.spec.holderIdentity or "") if self._seen is not None else ""

    async def turn(self) -> bool:
        """Read and, if it is ours or free, claim. Returns whether it is held. Raises Unavailable, Forbidden."""
        begun = self._clock()
        try:
            self._note(await self._request("GET", f"{self._path}/{self._name}", None))
        except NotFound:
            self._seen = None
        action = decide(self._seen, self._me, begun, self._timing)
        if action is Action.WAIT:
            self._renewed_at = None
            return False
        spec = claimed(self._seen, self._me, datetime.now(UTC), self._timing)
        try:
            if action is Action.CREATE:
                made = await self._request("POST", self._path, encode(manifest(self._name, self._namespace, spec)))
            else:
                assert self._seen is not None
                body = encode(manifest(self._name, self._namespace, spec, self._seen.version))
                made = await self._request("PUT", f"{self._path}/{self._name}", body)
        except (Conflict, AlreadyExists, NotFound):
            # Another was faster; or a first try of ours got through, which the next turn will see.
            return self.held
        self._note(made)
        # From before the request: however long it took, nobody counts from an earlier moment than that.
        self._renewed_at = begun
        self.epoch = spec.leaseTransitions or 0
        return True

    def _note(self, lease: _Lease) -> None:
        self._seen = observe(self._seen, lease.spec, lease.metadata.resourceVersion, self._clock())

    async def _request(self, method: str, path: str, body: bytes | None) -> _Lease:
        """Patience is short: an answer that comes late is no answer."""
        return self._decode(
            await self._client.request(
                method, path, body, patience_s=self._timing.duration_s - self._timing.margin_s, urgent=True
            )
        )

    async def acquire(self) -> int:
        """Wait until it is held; returns the epoch. Raises Forbidden."""
        while True:
            try:
                if await self.turn():
                    log.info("active", action="lease_acquired", lease=self._name, epoch=self.epoch)
                    return self.epoch
            except Unavailable as error:
                log.warning("the lease cannot be read", action="lease_delayed", error=error.message)
            await asyncio.sleep(self._timing.look_every_s)

    async def hold(self) -> None:
        """Renew until it is lost, then return: whoever called must stop acting at once. Raises Forbidden."""
        while True:
            await asyncio.sleep(self._timing.renew_every_s)
            try:
                async with asyncio.timeout(self._left_s()):
                    kept = await self.turn()
            except (Unavailable, TimeoutError):
                kept = self.held
            if not kept:
                self._renewed_at = None
                log.error("no longer active", action="lease_lost", lease=self._name, holder=self.holder)
                return

    def _left_s(self) -> float:
        assert self._renewed_at is not None
        return max(0.0, self._renewed_at + self._timing.duration_s - self._timing.margin_s - self._clock())

    async def step_down(self) -> None:
        """Let the next one take over at once. Never raises for what others did meanwhile; Unavailable is logged."""
        self._renewed_at = None
        if self._seen is None or self._seen.spec.holderIdentity != self._me:
            return
        body = encode(manifest(self._name, self._namespace, released(self._seen.spec), self._seen.version))
        try:
            self._note(await self._request("PUT", f"{self._path}/{self._name}", body))
        except (Conflict, NotFound):
            return
        except Unavailable as error:
            log.warning("could not step down", action="lease_delayed", lease=self._name, error=error.message)
