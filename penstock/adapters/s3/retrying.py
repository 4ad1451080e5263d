"""When to try again, and after how long. Pure: chance is an argument."""

from __future__ import annotations

FIRST_S = 0.1
LONGEST_S = 5.0
#: A store that asks for more patience than this is treated as one that does not answer.
LONGEST_ASKED_S = 30.0


def pause_s(attempt: int, chance: float, retry_after_s: float | None = None) -> float:
    """Seconds to wait after the failed attempt number `attempt` (from 1); `chance` is uniform in [0, 1).

    Doubles each time up to a limit, of which a random half is left out so that clients do not come back together. What
    the store asks for is the least.
    """
    longest: float = min(LONGEST_S, FIRST_S * 2.0 ** min(attempt - 1, 16))
    pause = longest * (0.5 + chance / 2)
    return pause if retry_after_s is None else max(pause, min(retry_after_s, LONGEST_ASKED_S))


def retry_after_s(text: str | None) -> float | None:
    """Seconds of a Retry-After header. Its other form, a date, is not used by stores and counts as none."""
    if text is None or not text.isascii() or not text.isdigit():
        return None
    return float(text[:9])
