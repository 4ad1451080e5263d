"""What the interface adds to the scaler's metrics: energy, money, waiting and hooks. Read when somebody scrapes.

The labels are pools of the configuration, names of hooks and outcomes, so their number is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from scaler.interface.hooks import ProgramHooks
from scaler.interface.ledger import WAIT_CLASSES, Books, PoolBook

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

#: (name, help, what of a pool's book)
_BY_POOL = (
    ("energy_joules", "Energy drawn, by the power models of the pools.", lambda book: book.energy_j),
    ("baseline_energy_joules", "Energy the same pools would have drawn always on.", lambda book: book.baseline_j),
    ("money", "Cost of nodes at the prices of their pools.", lambda book: book.money),
    ("baseline_money", "What the same pools would have cost always on.", lambda book: book.baseline_money),
    ("core_seconds", "Processor time that pods reserved.", lambda book: book.core_s),
    ("starts", "Times that a node was ordered on.", lambda book: float(book.starts)),
    ("failed_starts", "Starts that failed.", lambda book: float(book.failed_starts)),
)


class InterfaceCollector(Collector):
    """Register it with the registry of the scaler's process."""

    def __init__(self, books: Books, hooks: ProgramHooks | None = None) -> None:
        self._books = books
        self._hooks = hooks

    def describe(self) -> Iterator[Family]:
        """Nothing: without this, registering would ask for values before there are any."""
        return iter(())

    def collect(self) -> Iterator[Family]:
        """Current values. Counters go on over restarts, as the books do."""
        totals: dict[str, list[PoolBook]] = {}
        for month in self._books.months.values():
            for name, book in month.pools.items():
                totals.setdefault(name, []).append(book)
        for name, text, value in _BY_POOL:
            family = CounterMetricFamily(f"penstock_scaler_{name}", text, labels=("pool",))
            for pool, books in sorted(totals.items()):
                family.add_metric((pool,), sum(value(book) for book in books))
            yield family
        yield self._waits()
        if self._hooks is not None:
            yield from self._of_hooks(self._hooks)

    def _waits(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(
            "penstock_scaler_wait_seconds", "How long pods and requests waited for a node to start."
        )
        counts = [sum(month.waits[place] for month in self._books.months.values()) for place in range(_CLASSES)]
        running, buckets = 0, []
        for bound, count in zip((*(f"{bound:.1f}" for bound in WAIT_CLASSES), "+Inf"), counts, strict=True):
            running += count
            buckets.append((bound, float(running)))
        family.add_metric((), buckets=buckets, sum_value=sum(month.waited_s for month in self._books.months.values()))
        return family

    def _of_hooks(self, hooks: ProgramHooks) -> Iterator[Family]:
        family = CounterMetricFamily(
            "penstock_scaler_hooks", "Programs of hooks that ended, or were not called.", labels=("hook", "outcome")
        )
        for (hook, outcome), count in sorted(hooks.counts.ended.items()):
            family.add_metric((hook, outcome), count)
        yield family
        yield GaugeMetricFamily(
            "penstock_scaler_hooks_waiting", "Happenings that hooks are not told yet.", value=hooks.waiting
        )


_CLASSES = len(WAIT_CLASSES) + 1
