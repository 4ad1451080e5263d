"""Why a function's next item has not started, and when that may change by itself: two questions about the scheduler's
state. Pure: they read it and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dispatcher.admission import Admission, Lane
from dispatcher.running import Running
from dispatcher.slots import Slots
from dispatcher.window import Window
from penstock.model import BatchMode


class Ahead(Protocol):
    """Jobs that are planned and wait for room."""

    def count(self, uid: str) -> int: ...

    def ready(self, now: int) -> list[str]: ...

    def next_due(self, now: int) -> int | None: ...


class Queues(Protocol):
    """What is looked at; the scheduler has it."""

    admission: Admission
    windows: dict[str, Window]
    slots: Slots

    @property
    def ahead(self) -> Ahead: ...

    @property
    def stuck(self) -> Mapping[str, Mapping[str, str]]: ...


def why_waiting(queues: Queues, uid: str, now: int) -> str:
    """A sentence on why a function's next item has not started, "" = nothing waits."""
    window, lane = queues.windows.get(uid), queues.admission.lanes.get(uid)
    if window is None or lane is None:
        return ""
    waiting = bool(len(window)) or queues.ahead.count(uid) > 0
    held = queues.admission.held(uid, now)
    if held is not None and (waiting or lane.blocked_why):
        return held.why
    stuck = queues.stuck.get(uid)
    if stuck:
        return next(iter(stuck.values()))
    if not len(window):
        return queues.slots.describe() if waiting else ""
    wait = queues.admission.check(lane, now)
    if wait is not None:
        return wait.why
    due = window.next_due()
    if due is not None and due > now:
        return f"the next attempt is due in {(due - now) / 1000:.0f} s"
    if lane.function.batch.mode is not BatchMode.SINGLE and lingers(lane, window, now):
        return f"collects a list of up to {lane.function.batch.max_items} items (batch)"
    return queues.slots.describe()


def stuck_reasons(stuck: Mapping[str, Mapping[str, str]], jobs: Mapping[str, Running]) -> list[str]:
    """The runner's word for each Job that something keeps from going on."""
    names = (name for of_function in stuck.values() for name in of_function)
    return [jobs[name].waits_reason for name in names if name in jobs]


def lingers(lane: Lane, window: Window, now: int) -> bool:
    """Whether a list that is not full still waits for more items."""
    oldest = window.oldest()
    linger_ms = int(lane.function.batch.linger_s * 1000)
    return oldest is not None and now < oldest.not_before_ms + linger_ms


def seconds_until_due(queues: Queues, now: int, longest_s: float) -> float:
    """Until something may start without anybody telling, at most `longest_s`."""
    soonest = now + int(longest_s * 1000)
    for uid, window in queues.windows.items():
        due = window.next_due()
        if due is None:
            continue
        lane = queues.admission.lanes[uid]
        wait = queues.admission.check(lane, now)
        if wait is not None:
            due = max(due, wait.until_ms) if wait.until_ms is not None else soonest
        elif due <= now and lingers(lane, window, now):
            due += int(lane.function.batch.linger_s * 1000)
        elif due <= now:
            continue  # waits for room: a release will kick
        soonest = min(soonest, max(due, now + 1))
    later = queues.ahead.next_due(now)
    if later is not None:
        soonest = min(soonest, later)
    for uid in queues.ahead.ready(now):
        held = queues.admission.held(uid, now)
        if held is not None and held.until_ms is not None:
            soonest = min(soonest, held.until_ms)
    return max(0.001, (soonest - now) / 1000)
