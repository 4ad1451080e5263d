"""How many pods a function has for its synchronous runs. Pure: counts in, a count out.

Up is every gateway's own business, at once, by what waits and runs with it; down is one gateway's (the leader's), by
what the pods themselves say, since others may use them too. So nobody needs to know what the others know.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.model import Function


class Bounds(msgspec.Struct, frozen=True):
    """Pods of one function, at least and at most."""

    low: int
    high: int


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway sees of a function: runs that wait and run with it, and slots that it found taken by others."""

    waiting: int
    mine: int = 0
    others: int = 0


class PodUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a pod says of itself; `idle_s` 0 = a run is under way. A pod that says nothing counts as used."""

    idle_s: float = 0.0


def bounds(function: Function, *, slots: int, most: int) -> Bounds:
    """`most` = the installation's limit, which a function's own words cannot exceed."""
    high = min(function.synchronous.max_scale or most, most)
    if function.limits.concurrency:
        high = min(high, max(1, function.limits.concurrency // slots))
    if function.paused:
        return Bounds(0, high)
    return Bounds(min(function.synchronous.min_scale, high), high)


def needed(load: Load, limits: Bounds, *, slots: int) -> int:
    """Pods for everything to run at once."""
    runs = load.waiting + load.mine + load.others
    return max(limits.low, min(limits.high, -(-runs // slots)))


def raised(current: int, load: Load, limits: Bounds, *, slots: int) -> int | None:
    """The count to set now, None = there is nothing to raise."""
    wanted = needed(load, limits, slots=slots)
    return wanted if wanted > current else None


def lowered(current: int, uses: Sequence[PodUse], load: Load, limits: Bounds, *, idle_s: float) -> int | None:
    """The count to set now, None = nothing to give back. `uses` = all pods that are ready; one that is not yet counts
    as used, since somebody wants it.
    """
    if current > limits.high:
        return limits.high
    if load.waiting:
        return None
    idle = sum(use.idle_s >= idle_s for use in uses)
    wanted = max(limits.low, current - idle)
    return wanted if wanted < current else None
