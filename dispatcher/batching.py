"""How long a list of items should be: fixed by the function, or chosen from measured times. Pure."""

from __future__ import annotations

import math

import msgspec

from dispatcher.settings import DispatcherSettings
from penstock.model import Batch, BatchMode


class Pace(msgspec.Struct):
    """Moving averages of one function, in seconds. 0 = not measured yet."""

    start_s: float = 0.0  # from submit to the first script's start
    item_s: float = 0.0
    samples: int = 0

    def observe(self, *, start_s: float | None, item_s: float) -> None:
        self.samples += 1
        self.item_s = _average(self.item_s, item_s, self.samples)
        if start_s is not None:
            self.start_s = _average(self.start_s, start_s, self.samples)


def _average(old: float, new: float, samples: int) -> float:
    share = max(0.1, 1.0 / samples)
    return old + (new - old) * share


def ideal_items(pace: Pace, settings: DispatcherSettings) -> int:
    """Items per list so that start-up takes at most `auto_overhead` of the time, within the limits."""
    if not pace.samples or pace.item_s <= 0:
        return 1
    share = settings.auto_overhead
    wanted = math.ceil(pace.start_s / max(pace.item_s, 1e-4) * (1 - share) / share)
    longest = max(1, int(settings.auto_max_s / max(pace.item_s, 1e-4)))
    return max(1, min(wanted, longest, settings.auto_max_items))


def list_size(batch: Batch, pace: Pace, *, due: int, free_slots: int, settings: DispatcherSettings) -> int:
    """How many of `due` items the next list takes.

    Never more than an even share among the free slots: two lists of five on two slots end sooner than one of ten.
    """
    if batch.mode is BatchMode.SINGLE:
        return 1
    most = ideal_items(pace, settings) if batch.mode is BatchMode.AUTO else batch.max_items
    return max(1, min(most, math.ceil(due / max(1, free_slots))))


def gain(pace: Pace, settings: DispatcherSettings) -> float:
    """How many times the events per second a list of the ideal length would give, by the measured averages."""
    if not pace.samples or pace.item_s <= 0:
        return 1.0
    items = ideal_items(pace, settings)
    return (pace.start_s + pace.item_s) / (pace.start_s / items + pace.item_s)
