"""Which of a function's due items its next Job takes. Pure but for the window, which they are taken out of."""

from __future__ import annotations

from dispatcher.admission import Lane
from dispatcher.batching import list_size
from dispatcher.settings import DispatcherSettings
from dispatcher.slots import Slots
from dispatcher.waiting import lingers
from dispatcher.window import Window
from penstock.model import BatchMode, Record


def take_list(lane: Lane, window: Window, slots: Slots, settings: DispatcherSettings, now: int) -> list[Record]:
    """The items of the next Job, in order; [] = a list that is not full waits for more."""
    batch = lane.function.batch
    if batch.mode is BatchMode.SINGLE:
        size, max_bytes = 1, 0
    else:
        most = max(batch.max_items, settings.auto_max_items if batch.mode is BatchMode.AUTO else 1)
        due = window.count_due(now, most)
        if due < most and lingers(lane, window, now):
            return []
        free = slots.free(lane.function.resources.cpu_millis)
        # Slots that `concurrency` keeps this function from using are no reason to split a list.
        free = min(free, lane.function.limits.concurrency or free)
        size = list_size(batch, lane.pace, due=due, free_slots=free, settings=settings)
        max_bytes = batch.max_bytes
    if lane.function.limits.rate:
        size = max(1, min(size, int(lane.tokens)))
    return window.take(now, size, max_bytes)
