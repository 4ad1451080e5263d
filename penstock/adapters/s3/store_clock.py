"""By which clock requests are signed: ours, until the store has shown that it is far from its own.

Stores refuse what was signed a quarter of an hour off. A machine whose clock is wrong must not fail everything on it,
and the time in the answer says what would have been right.
"""

from __future__ import annotations

from collections.abc import Callable

#: Seconds; a clock that differs by more makes a refusal likely to be about the clock.
_FAR_S = 300


class StoreClock:
    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds since the epoch by this machine."""
        self._clock = clock
        self._ahead_s = 0.0

    def now_s(self) -> float:
        return self._clock() + self._ahead_s

    def corrected(self, store_s: int) -> bool:
        """A request was refused by a store whose clock says this (0 = it does not say). True = ours was far from it and
        is no more, so the request is worth another try.
        """
        ahead_s = store_s - self.now_s()
        if not store_s or abs(ahead_s) < _FAR_S:
            return False
        self._ahead_s += ahead_s
        return True
