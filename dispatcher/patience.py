"""Waiting out infrastructure that is away: an order that must be carried out is given again until it is.

For orders that are idempotent and that nobody else will repeat (cancel a Job, forget one). Loops that read have a
rhythm of their own and simply come round again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from penstock.errors import Unavailable

log = structlog.get_logger("dispatcher.patience")

T = TypeVar("T")

_FIRST_S = 0.5
_LONGEST_S = 15.0


async def patiently(what: str, order: Callable[[], Awaitable[T]]) -> T:
    """The order's answer, however long that takes. Raises what is not Unavailable."""
    pause = _FIRST_S
    while True:
        try:
            return await order()
        except Unavailable as error:
            log.warning("an order has to wait", action="order_retry", order=what, error=error.message)
        await asyncio.sleep(pause)
        pause = min(_LONGEST_S, pause * 2)
