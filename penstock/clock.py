"""The one place where time enters. Decision code gets `now` as an argument; shells ask here."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Milliseconds since the epoch, the unit of every stored time."""
    return time.time_ns() // 1_000_000
