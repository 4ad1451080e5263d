"""One attempt at serving all groups of demand in one order: what fits where, what must be ordered on, what stays
unserved.

A trial changes nothing but itself, so several orders can be tried and the cheapest taken (C7). Nodes are opened for the
cheapest way to serve what is left of a group; smaller groups then fill them up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from scaler.budget import Budget
from scaler.demand import Group
from scaler.model import PodSpec, Unhelped
from scaler.packing import Axes, Bin, Bins, Need, Placement
from scaler.pools import Fleet, Pool, capacity
from scaler.predicates import obstacle

_OWNERS_SHOWN = 20


class Opening(msgspec.Struct):
    """Nodes of one pool to be ordered on for one reason."""

    pool: Pool
    names: list[str]
    reason: str


class Way(msgspec.Struct):
    """How the rest of a group can be served: (pool, nodes, units on them), and what cannot, why, and whether for
    good.
    """

    steps: list[tuple[Pool, int, int]] = []
    short: int = 0
    reason: str = ""
    hopeless: bool = False


@lru_cache(maxsize=65_536)
def per_node(spec: PodSpec, pool: Pool, most: int) -> tuple[int, str]:
    """How many units a new, empty node of the pool would hold (`most` = limit per node, 0 = none), or why none."""
    if reason := obstacle(spec, pool.labels, pool.taints):
        return 0, reason
    offers = capacity(pool)
    units = most or 1 << 30
    for name, amount in spec.requests:
        if amount <= 0:
            continue
        fits = offers.get(name, 0) // amount
        if fits <= 0:
            return 0, f"a node offers {_amount(name, offers.get(name, 0))} and {_amount(name, amount)} is needed"
        units = min(units, fits)
    return (1 if spec.host_ports else units), ""


def _amount(name: str, amount: int) -> str:
    return f"{amount / 1000:g} cpu" if name == "cpu" else f"{amount} {name}"


class Trial:
    def __init__(
        self, fleet: Fleet, axes: Axes, present: Sequence[Bin], leaving: Sequence[Bin], budget: Budget
    ) -> None:
        self._fleet = fleet
        self._axes = axes
        self.present = Bins(axes.width, present)
        self.leaving = Bins(axes.width, leaving)
        self.new = Bins(axes.width)
        self.budget = budget
        self.openings: list[Opening] = []
        self.released: dict[str, str] = {}
        self.unhelped: list[Unhelped] = []
        self.placed: list[tuple[Group, list[Placement]]] = []

    def run(self, groups: Iterable[Group]) -> Trial:
        for group in groups:
            self._serve(group)
        return self

    def cost(self) -> tuple[int, float, float, int]:
        """Fewer unserved units first, then money, watts and nodes."""
        pools = [(opening.pool, len(opening.names)) for opening in self.openings]
        return (
            sum(entry.count for entry in self.unhelped),
            sum(pool.price_per_hour * count for pool, count in pools),
            sum(pool.power.max * count for pool, count in pools) + 0.0,
            sum(count for _, count in pools) + len(self.released),
        )

    def _serve(self, group: Group) -> None:
        if group.spec.unmodelled:
            self._fail(group, group.count, f"not modelled: {', '.join(group.spec.unmodelled)}", hopeless=True)
            return
        need = self._axes.need(group.spec)
        filled = self._fill(group, need)
        placed = [placement for _, found in filled for placement in found]
        left = group.count - sum(units for _, units in placed)
        way = self._way(group, left) if left and group.wakes else Way(short=left)
        if group.gang and way.short:
            for bins, found in filled:
                bins.give_back(group.spec, need, found)
            self._fail(group, group.count, way.reason, hopeless=way.hopeless)
            return
        for pool, count, units in way.steps:
            placed.extend(self._open(group, need, pool, count, units))
        if way.short:
            self._fail(group, way.short, way.reason, hopeless=way.hopeless)
        for bins, found in filled:
            if bins is self.leaving:
                self.released.update((bin_.name, f"needed again for {group.title}") for bin_, _ in found)
        self.placed.append((group, placed))

    def _fill(self, group: Group, need: Need) -> list[tuple[Bins, list[Placement]]]:
        """Use what is on, coming, taken back or opened already; only demand that may wake takes more than the first."""
        left = group.count
        filled: list[tuple[Bins, list[Placement]]] = []
        for bins in (self.present, self.leaving, self.new) if group.wakes else (self.present,):
            if left > 0 and bins:
                found = bins.fill(group.spec, need, left, group.per_node)
                left -= sum(units for _, units in found)
                filled.append((bins, found))
        return filled

    def _way(self, group: Group, left: int) -> Way:
        """Which pools to open nodes of for what is left of a group."""
        fits: list[tuple[Pool, int]] = []
        misfits: list[str] = []
        for pool in self._fleet.pools:
            units, why = per_node(group.spec, pool, group.per_node)
            if units:
                fits.append((pool, units))
            else:
                misfits.append(f"{pool.name}: {why}")
        if not fits:
            reason = f"no pool has a node for it ({'; '.join(misfits) or 'there is no pool'})"
            return Way(short=left, reason=reason, hopeless=True)
        most_ever = sum(units * pool.max for pool, units in fits)
        if group.gang and most_ever < group.count:
            reason = f"{group.count} at once are asked for; all pools at their maximum hold {most_ever}"
            return Way(short=left, reason=reason, hopeless=True)
        return self._cheapest(fits, left)

    def _cheapest(self, fits: list[tuple[Pool, int]], left: int) -> Way:
        budget = self.budget.copy()
        steps: list[tuple[Pool, int, int]] = []
        stops: dict[str, None] = {}
        while left > 0 and fits:
            pool, units = min(fits, key=lambda fit: _rank(fit, left))
            # Whole nodes of the best pool; what is left over may be served better by another.
            allowed, stop = budget.allow(pool, max(1, left // units))
            if stop:
                stops[stop] = None
                fits = [fit for fit in fits if fit[0] is not pool]
            if allowed > 0:
                budget.spend(pool, allowed)
                served = min(left, allowed * units)
                steps.append((pool, allowed, served))
                left -= served
        return Way(steps=steps, short=left, reason="; ".join(stops))

    def _open(self, group: Group, need: Need, pool: Pool, count: int, units: int) -> list[Placement]:
        names = self.budget.take(pool, count)
        self.openings.append(Opening(pool, names, f"wake for {group.title}"))
        each = per_node(group.spec, pool, group.per_node)[0]
        free = self._axes.vector(capacity(pool))
        placed: list[Placement] = []
        for name in names:
            bin_ = Bin(name, list(free), pool.labels, pool.taints, group.spec.host_ports)
            share = min(each, units)
            bin_.take(need, share)
            units -= share
            self.new.append(bin_)
            placed.append((bin_, share))
        return placed

    def _fail(self, group: Group, count: int, reason: str, *, hopeless: bool) -> None:
        if group.wakes:
            owners = group.owners[len(group.owners) - count :] if len(group.owners) >= count else group.owners
            self.unhelped.append(Unhelped(owners=owners[:_OWNERS_SHOWN], count=count, reason=reason, hopeless=hopeless))


def _rank(fit: tuple[Pool, int], left: int) -> tuple[int, float, float, str]:
    """Heavier pools first, then the least money, then the least watts, per unit served by the next node."""
    pool, units = fit
    served = min(units, left)
    return (-pool.weight, pool.price_per_hour / served, pool.power.max / served, pool.name)
