"""Jobs that are planned and wait for room: a short queue per function. Pure.

Each function plans a few Jobs ahead, and whose Job takes the next free slot is decided at that moment, in fair order.
So planning ahead, which keeps slots busy, never lets one function's plans stand before another's first item.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from penstock.model import JobPlan


class Planned(Protocol):
    plan: JobPlan
    #: Not to be submitted before this moment (ms): the runner refused it for now.
    not_before_ms: int


P = TypeVar("P", bound=Planned)


class Ahead(Generic[P]):
    def __init__(self) -> None:
        self._queues: dict[str, deque[P]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

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
