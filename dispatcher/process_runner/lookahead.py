"""How many items of a list a launcher is told of ahead, and when nobody need hurry to hear how one of them ended. Pure.

Each word from a launcher wakes the event loop, which on a busy machine costs about as much as all that is then done for
the item. A launcher of short items is therefore told of several, and what it says is heard a few at a time: it has
enough to go on with. A launcher of long ones is told of one, and heard at once.
"""

from __future__ import annotations

from typing import Final

#: Milliseconds of work that a launcher is told of ahead.
COVER_MS: Final = 40.0
#: Seconds for which nobody listens to launchers that have enough to do.
PAUSE_S: Final = 0.01
#: Words for so many fit into one write that is whole or not done.
MOST: Final = 16
#: Inputs beyond this size are not brought before their turn is near.
SMALL_BYTES: Final = 64 * 1024
_FADING: Final = 0.25


def pace(before_ms: float, took_ms: float) -> float:
    """Milliseconds that an item takes: the longest of late, so that one long item is enough for caution."""
    took_ms = max(1.0, took_ms)
    return max(took_ms, before_ms + (took_ms - before_ms) * _FADING) if before_ms else took_ms


def told(pace_ms: float) -> int:
    """How many items the launcher may know of beyond the one that runs: one, unless they are known to be short."""
    return max(1, min(MOST, int(COVER_MS / pace_ms))) if pace_ms else 1


def calm(left: int, pace_ms: float) -> bool:
    """Whether a launcher that still knows of `left` items can do without us for the pause, with some to spare."""
    return left * pace_ms >= 2 * PAUSE_S * 1000
