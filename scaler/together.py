"""Many removals that are ready at about the same time become few calls to their driver.

A manager of infrastructures makes one change at a time and takes many machines in it: a thousand calls of one machine
each would take hours. So a few calls are under way at once, and what becomes ready meanwhile goes in the next together.
Whoever had to wait is asked whether its order may still be sent: what was seen of its node grows old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from penstock.errors import PenstockError, Unavailable
from penstock.ports import NodeTarget, OrderAnswer, Outcome
from penstock.tasks import settle

Call = Callable[[Sequence[NodeTarget]], Awaitable[list[OrderAnswer]]]

#: Calls under way at once, and machines in one call at most.
AT_ONCE, MOST = 4, 50


class _Entry(msgspec.Struct):
    target: NodeTarget
    ready: Callable[[], Awaitable[bool]]
    outcome: asyncio.Future[OrderAnswer | PenstockError | None]
    taken: bool = False


class Together:
    """One kind of call to one driver. `at_once` calls of at most `most` machines."""

    def __init__(self, *, at_once: int = AT_ONCE, most: int = MOST) -> None:
        self._most = most
        self._slots = asyncio.Semaphore(at_once)
        self._waiting: list[_Entry] = []

    async def ask(
        self, call: Call, target: NodeTarget, *, ready: Callable[[], Awaitable[bool]]
    ) -> OrderAnswer | PenstockError | None:
        """The driver's answer for this machine; an error = the call failed and nothing is known; None = not sent.

        `ready` is asked just before the call whether it may still be sent, and what it raises is raised here.
        """
        entry = _Entry(target, ready, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            async with self._slots:
                # One slot for each that waits: if another took this one along, the next ones go by its slot.
                if not entry.outcome.done():
                    await self._send(call)
            return await entry.outcome
        finally:
            if not entry.taken:
                self._waiting = [other for other in self._waiting if other is not entry]
            entry.outcome.cancel()

    async def _send(self, call: Call) -> None:
        taken, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        for entry in taken:
            entry.taken = True
        try:
            ready = await asyncio.gather(*(_is_ready(entry) for entry in taken))
            going = [entry for entry, goes in zip(taken, ready, strict=True) if goes]
            answers = await call([entry.target for entry in going]) if going else []
        except PenstockError as error:
            _settle(going, dict.fromkeys((entry.target.key for entry in going), error))
        except BaseException:
            given_up = Unavailable("the call was given up in its middle")
            _settle(taken, dict.fromkeys((entry.target.key for entry in taken), given_up))
            raise
        else:
            _settle(going, {answer.key: answer for answer in answers})


async def _is_ready(entry: _Entry) -> bool:
    try:
        goes = not entry.outcome.done() and await entry.ready()
    except PenstockError as error:
        settle(entry.outcome, error)
        return False
    if not goes:
        settle(entry.outcome, None)
    return goes


def _settle(entries: Sequence[_Entry], outcomes: Mapping[str, OrderAnswer | PenstockError]) -> None:
    for entry in entries:
        key = entry.target.key
        if not entry.outcome.done():
            entry.outcome.set_result(outcomes.get(key) or OrderAnswer(key=key, outcome=Outcome.TRANSIENT))
