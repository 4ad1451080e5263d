"""Jobs that are planned and wait for room: a short queue per function. Pure.

Each function plans a few Jobs ahead, and whose Job takes the next free slot is decided at that moment, in fair order.
So planning ahead, which keeps slots busy, never lets one function's plans stand before another's first item.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from dispatcher.admission import Lane
from dispatcher.slots import Slots
from penstock.model import JobPlan

#: Seconds of work that are planned ahead at least, and how many times as long as plans take to reach the disk: while
#: one round is being written the Jobs of the round before are used up, and the next one is not yet asked for.
COVER_S, COVER_ROUNDS = 0.1, 3
#: How many times the usual number may be planned ahead of short Jobs.
MOST_TIMES = 8
#: Jobs that one function plans for free room at most, however much there is: enough for few and large writes.
ROUND = 256
#: How fast a time that was long once is forgotten.
_FADING = 0.1


class Planned(Protocol):
    plan: JobPlan
    #: Not to be submitted before this moment (ms): the runner refused it for now.
    not_before_ms: int


P = TypeVar("P", bound=Planned)


class Ahead(Generic[P]):
    def __init__(self) -> None:
        self._queues: dict[str, deque[P]] = {}
        self._length = 0
        #: Seconds from forming plans to having them on disk: the longest of late.
        self._lag_s = 0.0

    def took(self, seconds: float) -> None:
        """A round of plans was on disk after so long."""
        self._lag_s = max(seconds, self._lag_s + (seconds - self._lag_s) * _FADING)

    def depth(self, lane: Lane | None, slots: Slots, usual: int) -> int:
        """How many Jobs of a function to plan ahead: `usual`, and more where they are measured to be short."""
        if lane is None:
            return usual
        function = lane.function
        job_s = lane.pace.item_s * function.batch.max_items
        width = slots.width(function.resources.cpu_millis)
        width = min(width, function.limits.concurrency or width)
        if not width or job_s <= 0:
            return usual
        cover_s = max(COVER_S, COVER_ROUNDS * self._lag_s)
        return max(usual, min(MOST_TIMES * usual, math.ceil(cover_s * width / job_s)))

    def __len__(self) -> int:
        return self._length

    def counts(self) -> Iterable[tuple[str, int]]:
        """How many Jobs are planned of each function that has any."""
        return ((uid, len(queue)) for uid, queue in self._queues.items())

    def count(self, uid: str) -> int:
        return len(self._queues.get(uid, ()))

    def push(self, job: P) -> None:
        self._queues.setdefault(job.plan.function_uid, deque()).append(job)
        self._length += 1

    def ready(self, now: int) -> list[str]:
        """Functions whose next Job may be submitted now, as far as the runner is concerned."""
        return [uid for uid, queue in self._queues.items() if queue[0].not_before_ms <= now]

    def first(self, uid: str) -> P:
        return self._queues[uid][0]

    def pop(self, uid: str) -> P:
        queue = self._queues[uid]
        job = queue.popleft()
        if not queue:
            del self._queues[uid]
        self._length -= 1
        return job

    def drop(self, uid: str) -> None:
        self._length -= len(self._queues.pop(uid, ()))

    def next_due(self, now: int) -> int | None:
        """When the first of the refused Jobs may be tried again (ms), None = none waits for that."""
        later = [queue[0].not_before_ms for queue in self._queues.values() if queue[0].not_before_ms > now]
        return min(later, default=None)
