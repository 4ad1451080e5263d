"""What may still be ordered on, under every bound (C6). Pure; trials take a copy and spend it.

Everything that is not known to be off counts: a node that went dark may well run on, and a machine that failed to
start may exist. That can make the engine wait; it cannot make it exceed a bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from scaler.model import OFF, STARTING, NodeState
from scaler.pools import Pool
from scaler.situation import Situation

#: Sums of prices and watts are not exact; a cap is not missed for that.
_ROUNDING = 1e-9


class Budget:
    def __init__(self, situation: Situation, refused: dict[str, str]) -> None:
        self._situation = situation
        #: Why a pool may not be touched at all.
        self.refused = refused
        self._occupied: dict[str, int] = {}
        self._booting: dict[str, int] = {}
        #: How many hosts, or numbers of made machines, are handed out already.
        self._given: dict[str, int] = {}
        self._spent: defaultdict[str, float] = defaultdict(float)
        for pool in situation.fleet.pools:
            nodes = situation.of_pool[pool.name]
            self._occupied[pool.name] = len([node for node in nodes if node.state is not OFF])
            self._booting[pool.name] = len([node for node in nodes if node.state is STARTING])
            self._given[pool.name] = 0
            self._charge(pool, self._occupied[pool.name])

    def copy(self) -> Budget:
        other = Budget.__new__(Budget)
        other._situation, other.refused = self._situation, self.refused  # noqa: SLF001 - a copy of itself
        other._occupied, other._booting = dict(self._occupied), dict(self._booting)  # noqa: SLF001
        other._spent, other._given = self._spent.copy(), dict(self._given)  # noqa: SLF001
        return other

    def _charge(self, pool: Pool, count: int) -> None:
        spent = self._spent
        spent["nodes"] += count
        spent["watts"] += count * max(pool.power.boot, pool.power.max)
        spent["price"] += count * pool.price_per_hour
        if self._situation.fleet.options.caps.amounts:
            for name, amount in pool.resources:
                spent[f"resource {name}"] += count * amount

    def allow(self, pool: Pool, want: int) -> tuple[int, str]:
        """How many of `want` nodes may be ordered on, and what stops the rest."""
        room, reason = self._bounds(pool)
        if room > 0 and not pool.made:
            off = len(self._situation.eligible(pool)) - self._given[pool.name]
            if off < room:
                room, reason = off, self._why_no_host(pool)
        room = max(0, room)
        return min(room, want), "" if room >= want else reason

    def allow_host(self, pool: Pool) -> tuple[int, str]:
        """As `allow` for one given node, whether or not it would be chosen for demand."""
        room, reason = self._bounds(pool)
        return (1, "") if room > 0 else (0, reason)

    def _bounds(self, pool: Pool) -> tuple[int, str]:
        if reason := self.refused.get(pool.name, ""):
            return 0, reason
        room, reason = pool.max - self._occupied[pool.name], f"pool {pool.name} is at its maximum of {pool.max} nodes"
        booting = self._booting[pool.name]
        if pool.max_booting and pool.max_booting - booting < room:
            room, reason = pool.max_booting - booting, f"pool {pool.name} may start {pool.max_booting} nodes at once"
        for limit, why in self._caps(pool):
            if limit < room:
                room, reason = limit, why
        return room, reason

    def _caps(self, pool: Pool) -> Iterator[tuple[int, str]]:
        caps = self._situation.fleet.options.caps
        if caps.nodes is not None:
            yield int(caps.nodes - self._spent["nodes"]), f"all pools together are at their cap of {caps.nodes} nodes"
        watts = max(pool.power.boot, pool.power.max)
        if caps.watts is not None and watts:
            left = (caps.watts - self._spent["watts"]) / watts + _ROUNDING
            yield int(left), f"one more node would exceed {caps.watts:g} W"
        price = pool.price_per_hour
        if caps.price_per_hour is not None and price:
            left = (caps.price_per_hour - self._spent["price"]) / price + _ROUNDING
            yield int(left), f"one more node would cost more than {caps.price_per_hour:g} an hour"
        offered = dict(pool.resources) if caps.amounts else {}
        for name, amount in caps.amounts:
            if offered.get(name):
                left = (amount - self._spent[f"resource {name}"]) / offered[name]
                yield int(left), f"one more node would exceed the cap on {name}"

    def spend(self, pool: Pool, count: int) -> None:
        """Count nodes as ordered on without naming them, for what-if questions."""
        self._occupied[pool.name] += count
        self._booting[pool.name] += count
        self._charge(pool, count)
        if not pool.made:
            self._given[pool.name] += count

    def spend_host(self, pool: Pool) -> None:
        """A given node that is not among those for demand is ordered on; `allow_host` said it may."""
        self._occupied[pool.name] += 1
        self._booting[pool.name] += 1
        self._charge(pool, 1)

    def take(self, pool: Pool, count: int) -> list[str]:
        """Names of `count` nodes to order on; `allow` said that many may be."""
        start = self._given[pool.name]
        self.spend(pool, count)
        if not pool.made:
            return [node.name for node in self._situation.eligible(pool)[start : start + count]]
        names: list[str] = []
        while len(names) < count:
            self._given[pool.name] += 1
            name = pool.name_pattern.replace("{n}", str(self._given[pool.name]))
            if name not in self._situation.taken_names:
                names.append(name)
        return names

    def _why_no_host(self, pool: Pool) -> str:
        nodes = self._situation.of_pool[pool.name]
        stopping = sum(node.state is NodeState.STOPPING for node in nodes)
        if stopping:
            return f"pool {pool.name} has no host left to start; {stopping} still stopping will be started once off"
        waiting = sum(node.state is OFF and node.enabled for node in nodes)
        if waiting > self._given[pool.name]:
            return f"{waiting} hosts of pool {pool.name} are off and wait after failed starts"
        return f"pool {pool.name} has no host left to start"
