"""Pools and limits: what an operator says about the machines. Values only; `scaler.configuration` reads and checks
them.

A pool's template is the node that would join, so that from zero nodes the engine can tell what a new one will hold.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import msgspec

from scaler.model import Amounts, Labels, Taint

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class PowerModel(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """Watts at the socket: off (management board), while booting or going down, on without load, at full load."""

    off: float = 0.0
    boot: float = 0.0
    idle: float = 0.0
    max: float = 0.0

    def on(self, load: float) -> float:
        """Watts at a load of 0 to 1: linear between idle and max."""
        return self.idle + (self.max - self.idle) * load


class Billing(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """Paid intervals: a node is let go only in the last `margin_ms` of one."""

    interval_ms: int
    margin_ms: int


class Spare(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """Room to keep free in a pool: the largest of the three, at all times or in a weekly window (UTC)."""

    nodes: int = 0
    amounts: Amounts = ()
    #: Per cent of what the pool's work uses now.
    percent: int = 0
    #: 0 = Monday; empty = every day.
    days: tuple[int, ...] = ()
    #: Minutes after midnight; `until` before `start` runs over midnight. Equal = the whole day.
    start_min: int = 0
    until_min: int = 0


class Pool(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    name: str
    driver: str = "simulated"
    #: Machines that exist, by name: started and stopped. Empty = machines are made and deleted.
    hosts: tuple[str, ...] = ()
    #: Names of made machines, "{n}" replaced by the lowest free number from 1.
    name_pattern: str = ""
    min: int = 0
    max: int
    resources: Amounts
    #: What daemon pods and reserves take of `resources` on every node.
    overhead: Amounts = ()
    labels: Labels = ()
    taints: tuple[Taint, ...] = ()
    #: Taints that a node carries only until it is set up.
    startup_taints: tuple[Taint, ...] = ()
    #: Higher is tried first.
    weight: int = 0
    price_per_hour: float = 0.0
    power: PowerModel = PowerModel()
    billing: Billing | None = None
    #: What a start usually takes, for forecasts and simulation, and when it counts as failed.
    boot_ms: int = 120_000
    boot_timeout_ms: int = 600_000
    stop_ms: int = 20_000
    stop_timeout_ms: int = 600_000
    idle_ms: int = 1_500_000
    min_on_ms: int = 0
    #: Nodes that may be starting at once; 0 = no limit.
    max_booting: int = 0
    spare: tuple[Spare, ...] = ()

    @property
    def made(self) -> bool:
        """Machines are created and deleted rather than started and stopped."""
        return not self.hosts


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """Limits over all pools; None = none."""

    nodes: int | None = None
    #: Of the templates of all nodes that are not off.
    amounts: Amounts = ()
    #: Sum of the larger of boot and full-load watts of all nodes that are not off.
    watts: float | None = None
    price_per_hour: float | None = None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How careful and how eager the engine is."""

    #: Older views are stale (C1).
    fresh_ms: int = 30_000
    #: Removals freeze when more nodes than both of these went dark within the window (C1).
    loss_nodes: int = 3
    loss_percent: int = 30
    loss_window_ms: int = 600_000
    #: A node dark for less keeps its clocks.
    glitch_ms: int = 120_000
    #: How long a promise of a node that is on protects it.
    hold_ms: int = 120_000
    #: Doubles per failure up to the limit; jitter takes up to half off.
    backoff_ms: int = 30_000
    backoff_limit_ms: int = 1_800_000
    #: After so many failures in a row a node is tried no more for demand, but every `probe_ms`.
    tries: int = 5
    probe_ms: int = 6 * HOUR_MS
    #: Soft-taint nodes that the present load does not need, so that they empty.
    steer: bool = True
    #: Room kept unsteered above the present use, per cent.
    steer_slack_percent: int = 0
    #: With more groups than this, only one order of packing is tried.
    orders_tried_up_to: int = 1000
    caps: Caps = Caps()


class Fleet(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All pools with their limits: the configuration of the engine."""

    pools: tuple[Pool, ...]
    options: Options = Options()

    @cached_property
    def by_name(self) -> dict[str, Pool]:
        return {pool.name: pool for pool in self.pools}


@lru_cache(maxsize=1024)
def capacity(pool: Pool) -> dict[str, int]:
    """What a node of the pool offers to pods: its template less the overhead, never below 0."""
    overhead = dict(pool.overhead)
    return {name: max(0, amount - overhead.get(name, 0)) for name, amount in pool.resources}


def spare_now(pool: Pool, now_ms: int) -> tuple[Spare, ...]:
    """The spare rules that hold at this time."""
    if not pool.spare:
        return ()
    # 1970-01-01 was a Thursday (day 3).
    day, minute = (now_ms // DAY_MS + 3) % 7, now_ms % DAY_MS // 60_000
    return tuple(rule for rule in pool.spare if _holds(rule, day, minute))


def _holds(rule: Spare, day: int, minute: int) -> bool:
    if rule.start_min == rule.until_min:
        inside, began = True, day
    elif rule.start_min < rule.until_min:
        inside, began = rule.start_min <= minute < rule.until_min, day
    else:
        inside = minute >= rule.start_min or minute < rule.until_min
        # After midnight the window belongs to the day on which it began.
        began = day if minute >= rule.start_min else (day - 1) % 7
    return inside and (not rule.days or began in rule.days)
