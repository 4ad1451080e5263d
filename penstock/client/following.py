"""The feed of changes as a program wants it: it goes on when the connection breaks, and says when to look again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from penstock import answers, errors
from penstock.client.core import Calls
from penstock.client_errors import Unreachable

#: So long a server may be away (a restart) before the feed gives up; and between two tries.
PATIENCE_S = 60.0
PAUSE_S = 0.5


async def follow(calls: Calls, *, patience_s: float = PATIENCE_S) -> AsyncGenerator[answers.Invocation | None, None]:
    """Yield every change of phase from now on; None = some may have been missed, so look at what matters.

    The first item is None: the subscription stands. Raises Unreachable or Unavailable after `patience_s` of absence.
    """
    lost: float | None = None
    while True:
        try:
            async with calls.changes() as changes:
                lost = None
                yield None
                async for change in changes:
                    yield change.invocation
        except (Unreachable, errors.Unavailable):
            if lost is not None and time.monotonic() - lost > patience_s:
                raise
        lost = lost if lost is not None else time.monotonic()
        await asyncio.sleep(PAUSE_S)
