"""Histograms of the dispatcher's hops, cheap enough for the path of every item.

Prometheus' own histogram takes a lock for each of its two numbers and looks for the bucket one by one, for programs
with threads. All observations come from one event loop, so a list and a bisection do, for a fraction of the cost.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

BOUNDS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 3600.0)
_NAMES = (*(str(bound) for bound in BOUNDS_S), "+Inf")

#: The way of an item, in order, and `wait`, which is the first parts of it together.
HOPS = {
    "intake": "From the event in the log to its durable record",
    "submit": "From queued, or due again, to the Job's creation",
    "start": "From the Job's creation to the start of its first script",
    "wait": "From queued to the script's start",
    "run": "From the script's start to its end",
    "publish": "From the script's end to its published outputs",
}


class Timer:
    """How often which time was seen; the last bucket is for what is longer than every bound."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """A clock that is behind gives less than nothing, which counts as nothing."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total += seconds


class Timers:
    """The timers of one function, one for each of HOPS."""

    __slots__ = tuple(HOPS)

    intake: Timer
    submit: Timer
    start: Timer
    wait: Timer
    run: Timer
    publish: Timer

    def __init__(self) -> None:
        for hop in HOPS:
            setattr(self, hop, Timer())


class TimerCollector(Collector):
    """`penstock_dispatcher_HOP_seconds` by function. `timed` is read at each scrape."""

    def __init__(self, timed: Mapping[str, Timers]) -> None:
        self._timed = timed

    def describe(self) -> Iterator[Metric]:
        """Names without values."""
        return (self._family(hop) for hop in HOPS)

    def collect(self) -> Iterator[Metric]:
        timed = list(self._timed.items())
        for hop in HOPS:
            family = self._family(hop)
            for function, timers in timed:
                timer: Timer = getattr(timers, hop)
                family.add_metric((function,), buckets=_cumulative(list(timer.counts)), sum_value=timer.total)
            yield family

    def _family(self, hop: str) -> HistogramMetricFamily:
        return HistogramMetricFamily(f"penstock_dispatcher_{hop}_seconds", HOPS[hop], labels=("function",))


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    """As Prometheus counts: each bucket holds those below it too."""
    seen = 0
    found = []
    for name, count in zip(_NAMES, counts, strict=True):
        seen += count
        found.append((name, float(seen)))
    return found
