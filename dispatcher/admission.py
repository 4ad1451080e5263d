"""Admission: whose item starts next. Pure: a state machine over numbers, `now` is an argument.

Among functions that have something due and may start it, the highest priority goes first; among equals, the one that
has used the least, where use is slot-seconds divided by weight. A start is charged with the function's average item
time and corrected when the item ends, so an hour-long item counts for what it took. A function that was idle begins at
the level of those that are busy: nobody saves up credit. This is start-time fair queueing with time as the cost, and
it is what keeps a function with a million files from delaying another with ten.
"""

from __future__ import annotations

import msgspec

from dispatcher.batching import Pace
from penstock.model import Function

#: What the first items are charged while no function was ever measured: enough to take turns, and a small error.
UNKNOWN_ITEM_S = 0.05
#: Every Job costs at least this, or a function whose items take no measurable time would never yield.
LEAST_S = 0.001
#: How long a function waits that the runner refused for the number of its Jobs, at first and at most.
PARK_FIRST_MS, PARK_MOST_MS = 1000, 10_000
#: Jobs that have to be taken, one after the other, before it is believed that there is room for many.
TRIALS = 5


class Wait(msgspec.Struct, frozen=True):
    """Why a function starts nothing now, and when that may change by itself (ms; None = by an event)."""

    why: str
    until_ms: int | None = None


class Lane(msgspec.Struct):
    """What admission knows of one function."""

    function: Function
    pace: Pace = msgspec.field(default_factory=Pace)
    #: Slot-seconds used over weight, since it became busy, on the common scale.
    usage: float = 0.0
    active: bool = False
    #: Jobs planned and not yet started, and Jobs that hold a slot; together they count for `concurrency`.
    planned: int = 0
    running: int = 0
    #: Starts allowed by `rate` right now, and when that was computed.
    tokens: float = 1.0
    tokens_ms: int = 0
    #: Parked by the runner (quota) until this moment, and from then on one Job at a time until so many were taken.
    parked_until_ms: int = 0
    parked_why: str = ""
    trials: int = 0
    #: Refusals since the last Job was taken or ended.
    refusals: int = 0
    #: Nothing of it may start until somebody says otherwise: it is invalid, or what it needs is not there yet.
    blocked_why: str = ""


class Running(msgspec.Struct, frozen=True):
    uid: str
    charged_s: float


class Admission:
    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self._running: dict[str, Running] = {}
        #: The highest usage of those that became idle: where one joins when nobody is busy.
        self._level = 0.0

    def put(self, function: Function) -> Lane:
        """Add a function, or take its new definition."""
        lane = self.lanes.get(function.uid)
        if lane is None:
            lane = self.lanes[function.uid] = Lane(function, tokens=_burst(function))
        else:
            lane.function = function
            lane.tokens = min(lane.tokens, _burst(function))
        return lane

    def drop(self, uid: str) -> None:
        self.lanes.pop(uid, None)

    def busy(self, uid: str) -> None:
        """The function has something waiting (again): it joins at the common level if it was idle."""
        lane = self.lanes[uid]
        if lane.active:
            return
        lane.active = True
        if not lane.running and not lane.planned:
            others = (other for other in self.lanes.values() if other is not lane)
            busy = [other.usage for other in others if other.active or other.planned or other.running]
            lane.usage = max(lane.usage, min(busy, default=self._level))

    def idle(self, uid: str) -> None:
        """The function has nothing waiting."""
        lane = self.lanes[uid]
        lane.active = False
        self._level = max(self._level, lane.usage)

    def check(self, lane: Lane, now: int) -> Wait | None:
        """None = the lane may start something now (if it has something due)."""
        function = lane.function
        if function.paused:
            return Wait("the function is paused; resume it to go on")
        held = self.held(function.uid, now)
        if held is not None:
            return held
        limit = function.limits.concurrency
        if limit and lane.planned + lane.running >= limit:
            return Wait(f"its limit of {limit} running at once (concurrency) is reached")
        if function.limits.rate:
            self._refill(lane, now)
            if lane.tokens < 1.0:
                missing_ms = int((1.0 - lane.tokens) / function.limits.rate * 1000) + 1
                return Wait(
                    f"its limit of {function.limits.rate:g} starts a second (rate) is reached", now + missing_ms
                )
        return None

    def held(self, uid: str, now: int) -> Wait | None:
        """Why even a Job that is planned already may not be submitted."""
        lane = self.lanes.get(uid)
        if lane is None:
            return None
        if lane.blocked_why:
            return Wait(lane.blocked_why)
        if now < lane.parked_until_ms:
            return Wait(lane.parked_why, lane.parked_until_ms)
        return None

    def order(self, uids: list[str]) -> list[str]:
        """The given functions, the one to start next first."""
        return sorted(uids, key=self._rank)

    def _rank(self, uid: str) -> tuple[int, float, str]:
        lane = self.lanes[uid]
        return (-lane.function.limits.priority, lane.usage, uid)

    def planned(self, uid: str, items: int, now: int) -> None:
        """A Job of so many items was formed and waits for a slot."""
        lane = self.lanes.get(uid)
        if lane is None:
            return
        lane.planned += 1
        if lane.function.limits.rate:
            self._refill(lane, now)
            lane.tokens -= items

    def started(self, uid: str, job: str, items: int) -> None:
        """A planned Job takes a slot."""
        lane = self.lanes.get(uid)
        if lane is None:
            return
        charge = max(LEAST_S, (lane.pace.item_s or self._typical_s()) * items)
        lane.usage += charge / lane.function.limits.weight
        lane.planned -= 1
        lane.running += 1
        self._running[job] = Running(uid, charge)

    def refused(self, job: str) -> None:
        """The runner did not take the Job after all: it is planned again."""
        running = self._running.get(job)
        self.ended(job, 0.0)
        if running is not None and running.uid in self.lanes:
            self.lanes[running.uid].planned += 1

    def ended(self, job: str, took_s: float) -> None:
        """A Job gave its slot back after so many seconds; unknown jobs are ignored."""
        running = self._running.pop(job, None)
        if running is None:
            return
        lane = self.lanes.get(running.uid)
        if lane is None:
            return
        lane.running -= 1
        lane.usage += (max(took_s, LEAST_S) - running.charged_s) / lane.function.limits.weight

    def park(self, uid: str, why: str, now: int) -> None:
        """The runner refused a Job for the number there is: wait, twice as long each time."""
        lane = self.lanes.get(uid)
        if lane is None or now < lane.parked_until_ms:
            return  # others of the same moment were refused too
        pause_ms = min(PARK_MOST_MS, PARK_FIRST_MS * 2 ** min(lane.refusals, 10))
        lane.refusals += 1
        lane.parked_why, lane.parked_until_ms, lane.trials = why, now + pause_ms, TRIALS

    def accepted(self, uid: str) -> bool:
        """The runner took a Job of it. True = the function was being tried, and the next one may follow."""
        lane = self.lanes.get(uid)
        if lane is None or not lane.trials:
            return False
        lane.trials -= 1
        lane.parked_until_ms, lane.parked_why, lane.refusals = 0, "", 0
        return True

    def room_freed(self, uid: str) -> None:
        """A Job of it is gone, so what the runner refused for its number may be tried again now."""
        lane = self.lanes.get(uid)
        if lane is not None:
            lane.parked_until_ms = lane.refusals = 0

    def block(self, uid: str, why: str) -> None:
        """Nothing of it starts while `why` is not empty."""
        lane = self.lanes.get(uid)
        if lane is not None:
            lane.blocked_why = why

    def _typical_s(self) -> float:
        known = [lane.pace.item_s for lane in self.lanes.values() if lane.pace.samples]
        return sum(known) / len(known) if known else UNKNOWN_ITEM_S

    def _refill(self, lane: Lane, now: int) -> None:
        rate = lane.function.limits.rate
        if lane.tokens_ms:
            earned = max(0, now - lane.tokens_ms) / 1000 * rate
            lane.tokens = min(_burst(lane.function), lane.tokens + earned)
        lane.tokens_ms = now


def _burst(function: Function) -> float:
    """Starts that may come at once: one second's worth, at least one."""
    return max(1.0, function.limits.rate)
