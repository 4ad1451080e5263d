"""What a function needs before its first Job (a store account, its buckets, a valid definition), and what is taken away
when it is gone. Embedded mode needs nothing of the kind: one process does everything under one account.

The gate tells the scheduler to hold a function back until it is ready, so that no Job meets a half-made account; a
change of its definition holds it back again for that moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import structlog

from dispatcher.scheduler import Scheduler
from penstock.errors import PenstockError, Unavailable
from penstock.model import Function

log = structlog.get_logger("dispatcher.preparation")

RETRY_S = 2.0
WAITS = "its store account and buckets are being made ready"


class Preparation(Protocol):
    async def prepare(self, function: Function) -> str:
        """Make what Jobs of this generation need; idempotent. Returns why it may not run, "" = it may. Raises
        Unavailable (it is tried again) and other errors, whose sentence is shown until the definition changes.
        """
        ...

    async def tidy(self, running: Mapping[str, Collection[int]], known: Collection[str]) -> None:
        """Take away what nothing needs any more. `running` = generations that have Jobs, by function uid; `known` =
        uids of the functions there are. Raises Unavailable.
        """
        ...


class Gate:
    """Holds functions back until they are prepared."""

    def __init__(
        self, preparation: Preparation | None, scheduler: Scheduler, current: Callable[[str], Function | None]
    ) -> None:
        self._preparation = preparation
        self._scheduler = scheduler
        #: The definition that a uid has now.
        self._current = current

    def close(self, function: Function) -> None:
        """The function is new or changed: hold it back, and prepare it in the background."""
        if self._preparation is None:
            return
        self._scheduler.block(function.uid, WAITS)
        self._scheduler.spawn(self._prepare(self._preparation, function), f"prepare {function.name}")

    async def _prepare(self, preparation: Preparation, function: Function) -> None:
        while self._current(function.uid) == function:
            try:
                why = await preparation.prepare(function)
            except Unavailable as error:
                self._scheduler.block(function.uid, error.message)
                await asyncio.sleep(RETRY_S)
                continue
            except PenstockError as error:
                why = error.message
            if self._current(function.uid) == function:  # else a newer definition is being prepared
                self._scheduler.block(function.uid, why)
                if why:
                    log.warning("a function may not run", action="blocked", function=function.name, reason=why)
            return

    async def tidy(self, known: Collection[str]) -> None:
        """One turn of taking away; what cannot be done is said and left to the next turn."""
        if self._preparation is None:
            return
        running: dict[str, set[int]] = {}
        for job in self._scheduler.jobs.values():
            running.setdefault(job.plan.function_uid, set()).add(job.plan.generation)
        try:
            await self._preparation.tidy(running, known)
        except PenstockError as error:
            log.warning("cannot tidy up now", action="tidy_delayed", error=error.message)
