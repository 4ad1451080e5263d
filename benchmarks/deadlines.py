"""No benchmark waits for ever: what does not come in time ends it with a sentence that says what."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable


class Stalled(Exception):
    """Something that was waited for did not come; the message is for people."""


@contextlib.asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[None]:
    """Raises Stalled when the block takes longer. `what` begins the sentence: "the test bed is up"."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise Stalled(f"after {seconds:g} s still not so: {what}") from None


async def reached(
    what: str,
    count: Callable[[], Awaitable[float]],
    value: float,
    *,
    pause_s: float,
    quiet_s: float,
    why: Callable[[], str] = lambda: "",
) -> float:
    """When a count was at `value` or above, by the monotonic clock.

    Raises Stalled when it has not grown for `quiet_s`: however slow a machine is, what works goes on. `why` is asked
    then for what else there is to say.
    """
    most, moved = -1.0, time.monotonic()
    while (now := await count()) < value:
        if now > most:
            most, moved = now, time.monotonic()
        elif time.monotonic() - moved > quiet_s:
            told = why()
            raise Stalled(f"{what}: {now:g} of {value:g}, and no more for {quiet_s:g} s{f'; {told}' if told else ''}")
        await asyncio.sleep(pause_s)
    return time.monotonic()
