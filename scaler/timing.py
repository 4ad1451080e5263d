"""How patient the service is with drivers, clusters and hooks. Values only."""

from __future__ import annotations

import msgspec


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds, but for `hook_s`."""

    #: From the cordon to the re-check: a scheduler that had not seen the cordon has placed its pod by then.
    settle_ms: int = 3_000
    #: Evictions that budgets refuse are tried for this long.
    evict_ms: int = 120_000
    #: After a lost answer; doubled each time up to the limit.
    retry_ms: int = 5_000
    retry_limit_ms: int = 60_000
    #: After a veto.
    hold_ms: int = 60_000
    hook_s: float = 30.0

    def pause_ms(self, tries: int) -> int:
        """How long to wait after the nth lost answer (n from 1)."""
        return min(self.retry_limit_ms, self.retry_ms << min(max(tries, 1) - 1, 10))
