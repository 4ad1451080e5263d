"""When to decide next: soon after something changed, a little later when pods still pour in (C4). Pure.

A thousand pods of one burst are one decision: each further unschedulable pod puts it off by `idle_ms`, the first one
bounds it by `most_ms`. Anything else that changes is looked at within `settle_ms`.
"""

from __future__ import annotations

import msgspec


class Window(msgspec.Struct, kw_only=True):
    """Times in milliseconds of one clock; 0 = nothing is due."""

    idle_ms: int = 1_000
    most_ms: int = 10_000
    settle_ms: int = 500
    #: Even if nothing changes: views age, and time-outs run.
    every_ms: int = 5_000
    due_ms: int = 0
    #: The first unschedulable pod since the last decision.
    first_ms: int = 0

    def demand(self, now_ms: int) -> None:
        """A pod became unschedulable."""
        self.first_ms = self.first_ms or now_ms
        self.due_ms = min(self.first_ms + self.most_ms, now_ms + self.idle_ms)

    def change(self, now_ms: int) -> None:
        """Something else changed. Waiting demand keeps its window."""
        if not self.first_ms:
            self.by(now_ms + self.settle_ms)

    def by(self, time_ms: int) -> None:
        """Decide by then at the latest; 0 = no matter."""
        if time_ms and (not self.due_ms or time_ms < self.due_ms):
            self.due_ms = time_ms

    def looked(self, now_ms: int) -> None:
        """The world is looked at for a decision: what comes from now on asks for another."""
        self.first_ms = 0
        self.due_ms = now_ms + self.every_ms

    def decided(self, now_ms: int, next_ms: int) -> None:
        """A decision was made that says when the next is due by itself; what came meanwhile keeps its time."""
        self.by(max(next_ms, now_ms + self.settle_ms) if next_ms else 0)

    def failed(self, now_ms: int) -> None:
        """Nothing could be decided. Not at once again, lest it be tried without a pause."""
        if self.due_ms <= now_ms:
            self.looked(now_ms)
