"""Which pod serves the next run of a function, and who waits. Pure; `now` is seconds of any clock.

First come, first served. Of the pods with a free slot the newest generation is preferred, then the least used one, then
the first by name: so load gathers on few pods and the others become idle, which is what lets them be given back.
"""

from __future__ import annotations

import collections

import msgspec

#: A pod that had no room for us, though we knew of none of its runs, is asked again after so long.
AGAIN_S = 0.05
#: For so long the slots of such a pod count as used by others.
OTHERS_S = 2.0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that can be spoken to."""

    name: str
    address: str
    generation: int


class _Seat:
    """A pod in the balancer's memory."""

    def __init__(self, target: Target, slots: int) -> None:
        self.target = target
        self.slots = slots
        self.used = 0
        self.not_before = float("-inf")
        self.refused_at = float("-inf")


class Full(Exception):
    """As many wait as may."""


class Balancer:
    """Of one function. A ticket is any hashable value, once at a time."""

    def __init__(self, *, slots: int, queue: int) -> None:
        self._slots = slots
        self._queue = queue
        self._seats: dict[str, _Seat] = {}
        #: Pods that are gone or leaving, with runs of ours that are not over.
        self._leaving: dict[str, int] = {}
        self._waiting: collections.OrderedDict[object, None] = collections.OrderedDict()

    # Pods

    def offer(self, targets: list[Target]) -> None:
        """All pods that take runs now."""
        names = {target.name for target in targets}
        for name in set(self._seats) - names:
            seat = self._seats.pop(name)
            if seat.used:
                self._leaving[name] = seat.used
        for target in targets:
            if target.name not in self._seats:
                fresh = self._seats[target.name] = _Seat(target, self._slots)
                fresh.used = self._leaving.pop(target.name, 0)
            self._seats[target.name].target = target

    def refused(self, name: str, now: float) -> None:
        """A pod had no room, or is not up: its run comes back by `join_first`."""
        seat = self._seats.get(name)
        if seat is not None:
            seat.not_before = now + AGAIN_S
            seat.refused_at = now

    def over(self, name: str) -> None:
        """A run that was assigned to this pod is over, or was never begun."""
        seat = self._seats.get(name)
        if seat is not None:
            seat.used -= 1
        elif name in self._leaving:
            self._leaving[name] -= 1
            if not self._leaving[name]:
                del self._leaving[name]

    # Runs

    def join(self, ticket: object) -> None:
        """Raises Full."""
        if len(self._waiting) >= self._queue:
            raise Full
        self._waiting[ticket] = None

    def join_first(self, ticket: object) -> None:
        """Back to the head of the queue, whatever its length: it was in before."""
        self._waiting[ticket] = None
        self._waiting.move_to_end(ticket, last=False)

    def leave(self, ticket: object) -> None:
        """It does not wait any more."""
        self._waiting.pop(ticket, None)

    def assign(self, now: float) -> list[tuple[object, Target]]:
        """Give pods to those who wait, as far as there are any. Each is to end by `over`."""
        given: list[tuple[object, Target]] = []
        while self._waiting:
            best = self._best(now)
            if best is None:
                break
            ticket, _ = self._waiting.popitem(last=False)
            best.used += 1
            given.append((ticket, best.target))
        return given

    def _best(self, now: float) -> _Seat | None:
        free = [seat for seat in self._seats.values() if seat.used < seat.slots and seat.not_before <= now]
        if not free:
            return None
        return min(free, key=lambda seat: (-seat.target.generation, seat.used, seat.target.name))

    def again_s(self, now: float) -> float | None:
        """Seconds until `assign` may find a pod without anything else happening, None = never."""
        if not self._waiting:
            return None
        held = [seat.not_before - now for seat in self._seats.values() if seat.used < seat.slots]
        return max(0.0, min(held)) if held else None

    # Counts

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def mine(self) -> int:
        return sum(seat.used for seat in self._seats.values())

    def others(self, now: float) -> int:
        """Slots that others were found to use."""
        return sum(seat.slots - seat.used for seat in self._seats.values() if now - seat.refused_at < OTHERS_S)
