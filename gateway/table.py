"""The functions in memory, kept current by a watch, so that a request costs no question to the registry.

It is a registry itself: changes pass through and are seen here at once by whoever made them; those of other processes
come with the watch. Until the watch has yielded everything, reads go to the registry.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator

import structlog

from penstock.errors import NotFound, Unavailable
from penstock.model import Function
from penstock.ports import ChangeKind, FunctionChange, Registry

log = structlog.get_logger("gateway.table")

RETRY_S = 1.0


class FunctionTable:
    """Implements `Registry` over another one. `run` keeps it current."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._functions: dict[str, Function] = {}
        #: Uids deleted through here, so that a late word of the watch cannot bring one back.
        self._deleted: dict[str, None] = {}
        self._synced = False
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Follow the registry until cancelled or until it is closed; an outage is waited for."""
        while True:
            try:
                await self._follow()
            except Unavailable as error:
                log.warning("the registry cannot be watched", action="watch_retry", error=error.message)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _follow(self) -> None:
        fresh: set[str] = set()
        synced = False
        async for change in self._registry.watch():
            if change.kind is ChangeKind.SYNCED:
                for gone in set(self._functions) - fresh:
                    # It may have been made through here a moment ago: asked for by name.
                    await self._look_again(gone)
                synced = self._synced = True
                self.synced.set()
            elif change.function is not None:
                if not synced:
                    fresh.add(change.function.name)
                self._heard(change.kind, change.function)

    async def _look_again(self, name: str) -> None:
        try:
            self._put(await self._registry.get(name))
        except NotFound:
            self._functions.pop(name, None)

    def _heard(self, kind: ChangeKind, function: Function) -> None:
        if kind is ChangeKind.DELETED:
            known = self._functions.get(function.name)
            if known is not None and known.uid == function.uid:
                del self._functions[function.name]
            self._deleted.pop(function.uid, None)
        elif function.uid not in self._deleted:
            self._put(function)

    def _put(self, function: Function) -> Function:
        known = self._functions.get(function.name)
        if known is None or known.uid != function.uid or known.generation <= function.generation:
            self._functions[function.name] = function
        return function

    # ---- Registry

    async def create(self, function: Function) -> Function:
        return self._put(await self._registry.create(function))

    async def replace(self, function: Function, *, generation: int | None = None) -> Function:
        return self._put(await self._registry.replace(function, generation=generation))

    async def get(self, name: str) -> Function:
        return self.find(name) or self._put(await self._registry.get(name))

    def find(self, name: str) -> Function | None:
        """What is known here now, without asking: for callers that are not yet known themselves."""
        return self._functions.get(name)

    async def list(self) -> builtins.list[Function]:
        if not self._synced:
            return await self._registry.list()
        return [self._functions[name] for name in sorted(self._functions)]

    def known(self) -> builtins.list[Function]:
        """All that are known here now, in no order."""
        return [*self._functions.values()]

    async def revision(self) -> str:
        return await self._registry.revision()

    async def delete(self, name: str) -> Function:
        gone = await self._registry.delete(name)
        known = self._functions.get(name)
        if known is not None and known.uid == gone.uid:
            del self._functions[name]
        self._deleted[gone.uid] = None
        if len(self._deleted) > 10_000:
            self._deleted.pop(next(iter(self._deleted)))
        return gone

    def watch(self) -> AsyncIterator[FunctionChange]:
        return self._registry.watch()

    async def close(self) -> None:
        """Close the registry below, which ends `run`; reads are refused by it from then on."""
        self._synced = False
        self._functions.clear()
        await self._registry.close()
