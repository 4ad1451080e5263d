"""One driver with what is known of its machines: the list, how old it is, and why the driver is paused.

A list that failed leaves the last one standing and growing old; it never becomes an empty one. Wrong credentials pause
the driver with one alarm: trying them again and again locks accounts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from penstock.errors import Forbidden, PenstockError, Unavailable, Unsupported
from penstock.ports import NodeAdd, NodeProvider, NodeTarget, OrderAnswer, Outcome, ProviderNode, StopHow
from scaler.model import View

Order = TypeVar("Order", NodeAdd, NodeTarget)

log = structlog.get_logger("scaler")

#: A paused driver asks for its list again after this long, to see whether the credentials work again.
PAUSE_MS = 60_000
#: No answer within this time is no answer. An Infrastructure Manager may need minutes to launch.
CALL_S = 900.0
LIST_S = 25.0


class Machines:
    """`clock` is wall time in milliseconds."""

    def __init__(
        self, name: str, provider: NodeProvider, *, clock: Callable[[], int], changed: Callable[[], None]
    ) -> None:
        self.name = name
        self.provider = provider
        self.listed: tuple[ProviderNode, ...] = ()
        #: The alarm while the driver is paused; "" = it works.
        self.paused = ""
        #: Why the last list failed; "" = it did not.
        self.trouble = ""
        self._as_of_ms = 0
        self._complete = False
        self._paused_until_ms = 0
        self._clock = clock
        self._changed = changed

    @property
    def view(self) -> View:
        return View(as_of_ms=self._as_of_ms, complete=self._complete and not self.paused)

    @property
    def ill(self) -> bool:
        """There is something to tell a person."""
        return bool(self.paused or self.trouble)

    async def refresh(self) -> None:
        """List once. Trouble is noted, never raised."""
        asked = self._clock()
        if asked < self._paused_until_ms:
            return
        try:
            async with asyncio.timeout(LIST_S):
                listed = await self.provider.list()
        except Forbidden as error:
            self.pause(error.message)
        except (PenstockError, TimeoutError) as error:
            self._complete = False
            text = error.message if isinstance(error, PenstockError) else f"no list within {LIST_S:g} s"
            if text != self.trouble:
                log.warning("a driver does not list", action="driver_unlisted", driver=self.name, error=text)
            self.trouble = text
        else:
            if self.paused:
                log.info("a driver works again", action="driver_resumed", driver=self.name)
            before, self.listed = self.listed, tuple(listed)
            self.paused = self.trouble = ""
            self._as_of_ms, self._complete = asked, True
            if before != self.listed:
                self._changed()

    def pause(self, why: str) -> None:
        """Wrong credentials: nothing is asked of the driver for a while."""
        alarm = f"driver {self.name} is paused: its credentials are refused ({why})"
        if alarm != self.paused:
            log.error("a driver is paused", action="driver_paused", driver=self.name, error=why)
        self.paused = alarm
        self._paused_until_ms = self._clock() + PAUSE_MS

    async def add(self, nodes: Sequence[NodeAdd]) -> list[OrderAnswer]:
        """As `NodeProvider.add`, in calls of a size that the driver takes; a refusal as a whole is each one's answer.

        Raises Unavailable: nothing is known about any of them.
        """
        return await self._call(nodes, self.provider.add)

    async def remove(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        """As `add`."""
        return await self._call(nodes, self.provider.remove)

    async def start(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        """As `add`."""
        return await self._call(nodes, self.provider.start)

    async def stop(self, nodes: Sequence[NodeTarget], how: StopHow) -> list[OrderAnswer]:
        """As `add`."""

        async def stop(some: Sequence[NodeTarget]) -> list[OrderAnswer]:
            return await self.provider.stop(some, how=how)

        return await self._call(nodes, stop)

    async def _call(
        self, nodes: Sequence[Order], call: Callable[[Sequence[Order]], Awaitable[list[OrderAnswer]]]
    ) -> list[OrderAnswer]:
        size = self.provider.capabilities.largest_call or len(nodes)
        answers: list[OrderAnswer] = []
        for start in range(0, len(nodes), size):
            answers += await self._one_call(nodes[start : start + size], call)
        for answer in answers:
            if answer.outcome is Outcome.CREDENTIALS:
                self.pause(answer.message)
                break
        return answers

    @staticmethod
    async def _one_call(
        nodes: Sequence[Order], call: Callable[[Sequence[Order]], Awaitable[list[OrderAnswer]]]
    ) -> list[OrderAnswer]:
        try:
            async with asyncio.timeout(CALL_S):
                return await call(nodes)
        except TimeoutError as error:
            raise Unavailable(f"no answer within {CALL_S:g} s") from error
        except Forbidden as error:
            outcome, message = Outcome.CREDENTIALS, error.message
        except Unsupported as error:
            outcome, message = Outcome.CONFIGURATION, error.message
        return [OrderAnswer(key=node.key, outcome=outcome, message=message) for node in nodes]
