"""The books: what the nodes drew and cost, month by month, beside the same pools always on (C16). Pure.

The nodes are looked at every few seconds, and each look pays for the time since the last one. Time that nobody looked
at (the scaler was down) is counted as unmeasured and never guessed. Savings stand beside their price: how long pods
waited for nodes to start, how often nodes were switched, how many starts failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from scaler.control import NodeInfo
from scaler.model import NodeState, ScalePlan
from scaler.pools import HOUR_MS, Fleet, Pool

#: Upper bounds in seconds of the classes of waits; beyond the last, the longest wait tells.
WAIT_CLASSES = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 150, 180, 240, 300, 450, 600, 900, 1200, 1800, 3600, 7200, 21600)
#: Owners followed at once; beyond that waits are not measured, so that memory stays bounded.
MOST_OWNERS = 200_000
_ON = frozenset({NodeState.IDLE, NodeState.USED, NodeState.DRAINING, NodeState.FAILED_OFF})
_MOVING = frozenset({NodeState.STARTING, NodeState.STOPPING})


class PoolBook(msgspec.Struct, kw_only=True):
    """One pool in one month."""

    energy_j: float = 0.0
    baseline_j: float = 0.0
    money: float = 0.0
    baseline_money: float = 0.0
    #: Node-seconds by state.
    seconds: dict[str, float] = {}
    #: Core-seconds that pods took.
    core_s: float = 0.0
    starts: int = 0
    failed_starts: int = 0


class MonthBook(msgspec.Struct, kw_only=True):
    pools: dict[str, PoolBook] = {}
    #: Wall-clock seconds that were looked at, and that were not.
    measured_s: float = 0.0
    unmeasured_s: float = 0.0
    #: Waits for a node to start, by class (one more than there are bounds).
    waits: list[int] = msgspec.field(default_factory=lambda: [0] * (len(WAIT_CLASSES) + 1))
    waited_s: float = 0.0
    longest_wait_s: float = 0.0


class Books(msgspec.Struct, kw_only=True):
    """Everything that is stored. Months by name, as "2026-11" (UTC)."""

    months: dict[str, MonthBook] = {}
    #: The last look, and what of each node's counters is in the books already.
    as_of_ms: int = 0
    cycles: dict[str, int] = {}
    failures: dict[str, int] = {}


class Ledger:
    """Books that are being written."""

    def __init__(self, fleet: Fleet, books: Books | None = None, *, longest_gap_ms: int = 60_000) -> None:
        self._fleet = fleet
        self.books = books or Books()
        self._longest_gap_ms = longest_gap_ms
        self._waiting: dict[str, int] = {}
        self._before: dict[str, NodeInfo] = {}

    def look(self, now_ms: int, nodes: Iterable[NodeInfo], plan: ScalePlan | None = None) -> None:
        """Enter the time since the last look. A clock that went back is not entered."""
        current = {node.name: node for node in nodes}
        before, span = self.books.as_of_ms, now_ms - self.books.as_of_ms
        if before and span > 0:
            month = self._month(now_ms)
            if span > self._longest_gap_ms or not self._before:
                month.unmeasured_s += span / 1000
            else:
                month.measured_s += span / 1000
                # What was true at the last look is taken to have held until now.
                self._enter(month, span, self._before)
        self._count(now_ms, current)
        if plan is not None:
            self._wait(now_ms, current, plan)
        self._before = current
        self.books.as_of_ms = now_ms

    def _month(self, now_ms: int) -> MonthBook:
        name = month_of(now_ms)
        return self.books.months.setdefault(name, MonthBook())

    def _book(self, month: MonthBook, pool: Pool) -> PoolBook:
        return month.pools.setdefault(pool.name, PoolBook())

    def _enter(self, month: MonthBook, span_ms: int, nodes: Mapping[str, NodeInfo]) -> None:
        members: dict[str, list[NodeInfo]] = {pool.name: [] for pool in self._fleet.pools}
        for node in nodes.values():
            if node.pool in members:
                members[node.pool].append(node)
        for pool in self._fleet.pools:
            self._enter_pool(self._book(month, pool), pool, members[pool.name], span_ms / 1000)

    def _enter_pool(self, book: PoolBook, pool: Pool, nodes: list[NodeInfo], seconds: float) -> None:
        size = len(pool.hosts) or pool.max
        work_w = 0.0
        off = size - len(nodes)
        for node in nodes:
            load = load_of(node)
            extra = (pool.power.max - pool.power.idle) * load
            watts = watts_of(node.state, pool, extra)
            work_w += extra if node.state in _ON else 0.0
            book.energy_j += watts * seconds
            if node.state is not NodeState.OFF:
                book.money += pool.price_per_hour * seconds / 3600
            book.seconds[node.state.value] = book.seconds.get(node.state.value, 0.0) + seconds
            book.core_s += dict(node.used).get("cpu", 0) / 1000 * seconds
        if off > 0:
            book.seconds[NodeState.OFF.value] = book.seconds.get(NodeState.OFF.value, 0.0) + off * seconds
            book.energy_j += off * watts_of(NodeState.OFF, pool, 0.0) * seconds
        # The same work on the same machines, none of them ever off: idle draw of all, and what the work adds.
        book.baseline_j += (size * pool.power.idle + work_w) * seconds
        book.baseline_money += size * pool.price_per_hour * seconds / 3600

    def _count(self, now_ms: int, nodes: Mapping[str, NodeInfo]) -> None:
        """Starts and failed starts since the last look. What was counted before the books began is not theirs."""
        known = bool(self.books.as_of_ms)
        for node in nodes.values():
            pool = self._fleet.by_name.get(node.pool)
            starts = node.cycles - self.books.cycles.get(node.name, 0 if known else node.cycles)
            failed = node.failures_on - self.books.failures.get(node.name, 0 if known else node.failures_on)
            if pool is not None and (starts > 0 or failed > 0):
                book = self._book(self._month(now_ms), pool)
                book.starts += max(0, starts)
                book.failed_starts += max(0, failed)
        self.books.cycles = {node.name: node.cycles for node in nodes.values()}
        self.books.failures = {node.name: node.failures_on for node in nodes.values()}

    def _wait(self, now_ms: int, nodes: Mapping[str, NodeInfo], plan: ScalePlan) -> None:
        """Who is promised a node that is not ready yet waits for it; who is no longer has waited."""
        ready = {name for name, node in nodes.items() if node.state in _ON}
        waiting = {
            owner
            for promise in plan.reservations
            if promise.until_ms > 0 and promise.node not in ready
            for owner in promise.owners
        }
        for owner in self._waiting.keys() - waiting:
            self._waited(now_ms, (now_ms - self._waiting.pop(owner)) / 1000)
        for owner in waiting - self._waiting.keys():
            if len(self._waiting) < MOST_OWNERS:
                self._waiting[owner] = now_ms

    def _waited(self, now_ms: int, seconds: float) -> None:
        month = self._month(now_ms)
        place = next((number for number, bound in enumerate(WAIT_CLASSES) if seconds <= bound), len(WAIT_CLASSES))
        month.waits[place] += 1
        month.waited_s += seconds
        month.longest_wait_s = max(month.longest_wait_s, seconds)

    def forget(self, keep_months: int) -> None:
        """Drop all but the newest months."""
        for name in sorted(self.books.months)[: -keep_months or None]:
            del self.books.months[name]


def month_of(now_ms: int) -> str:
    return datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m")


def load_of(node: NodeInfo) -> float:
    """Share of its processors that pods take, from 0 to 1."""
    offers, used = dict(node.offers).get("cpu", 0), dict(node.used).get("cpu", 0)
    return min(1.0, used / offers) if offers else 0.0


def watts_of(state: NodeState, pool: Pool, work_w: float) -> float:
    """What a node draws. One whose power is not known is taken to be on: books must not flatter."""
    if state is NodeState.OFF:
        # A machine that is deleted draws nothing at all.
        return 0.0 if pool.made else pool.power.off
    if state in _MOVING:
        return pool.power.boot
    return pool.power.idle + (work_w if state in _ON else 0.0)


class LedgerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One pool, or all of them, in a month."""

    pool: str
    kwh: float
    baseline_kwh: float
    #: 1 - kWh / kWh of the baseline; 0 where there is no baseline.
    saved_share: float
    money: float
    baseline_money: float
    #: Node-hours by state.
    node_hours: dict[str, float]
    core_hours: float
    starts: int
    failed_starts: int
    starts_per_node_day: float


class LedgerReport(msgspec.Struct, frozen=True, kw_only=True):
    month: str
    months: tuple[str, ...]
    as_of_ms: int
    #: Share of the time since the books began this month that was looked at.
    measured_share: float
    total: LedgerLine
    pools: tuple[LedgerLine, ...]
    #: Of pods and requests that waited for a node to start: how many, and seconds. Upper bounds of classes.
    waited: int
    wait_p50_s: float
    wait_p95_s: float
    wait_max_s: float


def report(books: Books, fleet: Fleet, month: str, *, energy_price: float = 0.0) -> LedgerReport:
    """The figures of a month; zeros for one without an entry. `energy_price` per kWh is added to the money."""
    entry = books.months.get(month, MonthBook())
    lines = []
    for name, book in sorted(entry.pools.items()):
        pool = fleet.by_name.get(name)
        size = (len(pool.hosts) or pool.max) if pool is not None else 0
        lines.append(_line(name, book, size * entry.measured_s / 86_400, energy_price))
    total = PoolBook()
    for book in entry.pools.values():
        _add(total, book)
    node_days = sum(sum(book.seconds.values()) for book in entry.pools.values()) / 86_400
    looked = entry.measured_s + entry.unmeasured_s
    return LedgerReport(
        month=month,
        months=tuple(sorted(books.months)),
        as_of_ms=books.as_of_ms,
        measured_share=entry.measured_s / looked if looked else 0.0,
        total=_line("all", total, node_days, energy_price),
        pools=tuple(lines),
        waited=sum(entry.waits),
        wait_p50_s=_percentile(entry, 0.5),
        wait_p95_s=_percentile(entry, 0.95),
        wait_max_s=entry.longest_wait_s,
    )


def _add(total: PoolBook, book: PoolBook) -> None:
    total.energy_j += book.energy_j
    total.baseline_j += book.baseline_j
    total.money += book.money
    total.baseline_money += book.baseline_money
    total.core_s += book.core_s
    total.starts += book.starts
    total.failed_starts += book.failed_starts
    for state, seconds in book.seconds.items():
        total.seconds[state] = total.seconds.get(state, 0.0) + seconds


def _line(name: str, book: PoolBook, node_days: float, energy_price: float) -> LedgerLine:
    kwh, baseline = book.energy_j / 3.6e6, book.baseline_j / 3.6e6
    return LedgerLine(
        pool=name,
        kwh=kwh,
        baseline_kwh=baseline,
        saved_share=1 - kwh / baseline if baseline else 0.0,
        money=book.money + kwh * energy_price,
        baseline_money=book.baseline_money + baseline * energy_price,
        node_hours={state: seconds * 1000 / HOUR_MS for state, seconds in sorted(book.seconds.items())},
        core_hours=book.core_s / 3600,
        starts=book.starts,
        failed_starts=book.failed_starts,
        starts_per_node_day=book.starts / node_days if node_days else 0.0,
    )


def _percentile(entry: MonthBook, share: float) -> float:
    wanted = share * sum(entry.waits)
    seen = 0
    for bound, count in zip(WAIT_CLASSES, entry.waits, strict=False):
        seen += count
        if count and seen >= wanted:
            return min(float(bound), entry.longest_wait_s)
    return entry.longest_wait_s
