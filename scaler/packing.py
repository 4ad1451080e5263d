"""Where units of demand would fit: first fit of groups into bins, in blocks so that full nodes are passed over fast.
Pure.

A bin is a node that is on, coming, or yet to be opened. Groups of alike units are placed whole: the cost is near
groups x blocks, not pods x nodes. A block knows the largest free amount of each resource in it, so a thousand full
nodes cost some thirty comparisons per group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scaler.model import Labels, PodSpec, Taint
from scaler.pools import Pool, capacity
from scaler.predicates import obstacle, ports_free

_BLOCK = 32
#: (position of the resource in a bin's vector, amount per unit); only resources that are asked for.
Need = tuple[tuple[int, int], ...]

_NO_PORTS: frozenset[str] = frozenset()


class Bin:
    """Free room of one node. Belongs to one decision."""

    __slots__ = ("free", "labels", "name", "ports", "taints")

    def __init__(
        self, name: str, free: list[int], labels: Labels, taints: tuple[Taint, ...], ports: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.free = free
        self.labels = labels
        self.taints = taints
        self.ports = frozenset(ports) if ports else _NO_PORTS

    def room(self, need: Need, most: int) -> int:
        """How many units fit, up to `most`."""
        free = self.free
        for position, amount in need:
            fits = free[position] // amount
            if fits < most:
                if fits <= 0:
                    return 0
                most = fits
        return most

    def take(self, need: Need, count: int) -> None:
        """Count may be negative: give back."""
        for position, amount in need:
            self.free[position] -= amount * count


Placement = tuple[Bin, int]


class Bins:
    """Bins in a fixed order of preference."""

    def __init__(self, width: int, bins: Sequence[Bin] = ()) -> None:
        self._width = width
        self._blocks = [list(bins[start : start + _BLOCK]) for start in range(0, len(bins), _BLOCK)]
        #: The largest free amounts in each block; None = it changed since they were looked for.
        self._tops: list[list[int] | None] = [None] * len(self._blocks)

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def _top(self, number: int) -> list[int]:
        top = self._tops[number]
        if top is None:
            block = self._blocks[number]
            top = [max([bin_.free[position] for bin_ in block]) for position in range(self._width)]
            self._tops[number] = top
        return top

    def append(self, bin_: Bin) -> None:
        if not self._blocks or len(self._blocks[-1]) >= _BLOCK:
            self._blocks.append([])
            self._tops.append([-1] * self._width)
        self._blocks[-1].append(bin_)
        top = self._tops[-1]
        if top is not None:
            self._tops[-1] = [max(most, free) for most, free in zip(top, bin_.free, strict=True)]

    def fill(self, spec: PodSpec, need: Need, count: int, per_bin: int) -> list[Placement]:
        """Place up to `count` units, at most `per_bin` (0 = no limit) on each; returns where."""
        placed: list[Placement] = []
        per_bin = 1 if spec.host_ports else per_bin or count
        # One block alone is looked through as fast as its largest amounts are found.
        many = len(self._blocks) > 1
        for number, block in enumerate(self._blocks):
            if count <= 0:
                break
            if many:
                top = self._top(number)
                if any(top[position] < amount for position, amount in need):
                    continue
            found = _fill_block(block, spec, need, count, per_bin)
            if found:
                placed.extend(found)
                count -= sum(units for _, units in found)
                self._tops[number] = None
        return placed

    def give_back(self, spec: PodSpec, need: Need, placed: list[Placement]) -> None:
        """Undo placements of `fill` (a gang that did not fit whole)."""
        for bin_, units in placed:
            bin_.take(need, -units)
            bin_.ports -= frozenset(spec.host_ports)
        self._tops = [None] * len(self._blocks)


def _fill_block(block: list[Bin], spec: PodSpec, need: Need, count: int, per_bin: int) -> list[Placement]:
    placed: list[Placement] = []
    for bin_ in block:
        units = bin_.room(need, min(count, per_bin))
        if units <= 0 or obstacle(spec, bin_.labels, bin_.taints):
            continue
        if spec.host_ports:
            if not ports_free(spec.host_ports, bin_.ports):
                continue
            bin_.ports |= frozenset(spec.host_ports)
        bin_.take(need, units)
        placed.append((bin_, units))
        count -= units
        if count <= 0:
            break
    return placed


class Axes:
    """Which resources a decision looks at, and at which position of a vector each stands."""

    def __init__(self, specs: Iterable[PodSpec], more: Iterable[str] = ()) -> None:
        names = {name for spec in specs for name, _ in spec.requests} | set(more)
        self.names = sorted(names)
        self._position = {name: position for position, name in enumerate(self.names)}
        self._needs: dict[PodSpec, Need] = {}
        self._pools: dict[str, list[int]] = {}

    @property
    def width(self) -> int:
        return len(self.names)

    def need(self, spec: PodSpec) -> Need:
        found = self._needs.get(spec)
        if found is None:
            found = tuple((self._position[name], amount) for name, amount in spec.requests if amount > 0)
            self._needs[spec] = found
        return found

    def least(self, specs: Sequence[PodSpec]) -> Need:
        """What every one of them needs at least, of resources that all of them need."""
        first, *others = [dict(self.need(spec)) for spec in specs]
        for other in others:
            first = {position: min(amount, other[position]) for position, amount in first.items() if position in other}
        return tuple(first.items())

    def of_pool(self, pool: Pool) -> list[int]:
        """What a new node of the pool offers, not to be changed."""
        found = self._pools.get(pool.name)
        if found is None:
            found = self._pools[pool.name] = self.vector(capacity(pool))
        return found

    def vector(self, amounts: dict[str, int]) -> list[int]:
        return [amounts.get(name, 0) for name in self.names]
