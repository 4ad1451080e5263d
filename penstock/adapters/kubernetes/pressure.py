"""How many requests may be under way at once: more while the server answers, half when it pushes back. Pure.

Additive increase, multiplicative decrease, as TCP does it: the share of the API server that is ours to take is not
known and changes with what others do.
"""

from __future__ import annotations

import dataclasses

#: Answers that were under way when the server first pushed back say nothing new: one halving per so many seconds.
_SETTLE_S = 1.0
#: First pause after a push-back that names no time of its own, doubled while it goes on.
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0


@dataclasses.dataclass
class Pressure:
    """`now` is monotonic, in seconds."""

    most: int
    least: int = 1
    limit: float = 0.0
    held_until: float = 0.0
    _halved_at: float = -1e9
    _pause_s: float = 0.0

    def __post_init__(self) -> None:
        self.limit = float(self.limit or self.most)

    @property
    def allowed(self) -> int:
        return max(self.least, int(self.limit))

    def pressing(self, now: float) -> bool:
        """The server's push-backs keep requests back at this moment."""
        return self.limit < self.most or now < self.held_until

    def answered(self) -> None:
        self._pause_s = 0.0
        if self.limit < self.most:
            self.limit = min(float(self.most), self.limit + 1 / self.limit)

    def pushed_back(self, now: float, after_s: float = 0.0) -> float:
        """The server wants less. Returns the seconds until this request may go again; all others wait as well."""
        if now - self._halved_at >= _SETTLE_S:
            self._halved_at = now
            self.limit = max(float(self.least), self.limit / 2)
            self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2 or _FIRST_PAUSE_S)
        pause = after_s or self._pause_s or _FIRST_PAUSE_S
        self.held_until = max(self.held_until, now + pause)
        return self.held_until - now
