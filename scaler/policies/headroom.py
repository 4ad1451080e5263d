"""Second policy: the minimum of each pool and its spare room, met by keeping before taking back before waking (C11).

What is kept is only marked; `sleep` honours the mark. All bounds, back-offs and boot limits hold here as for demand.
"""

from __future__ import annotations

from scaler.draft import Draft
from scaler.model import Node, NodeState, Snapshot
from scaler.packing import Bin
from scaler.pools import Pool, Spare, capacity
from scaler.trial import Opening


def headroom(snapshot: Snapshot, draft: Draft) -> Draft:  # noqa: ARG001 - every policy has the same shape
    if draft.verdict.all:
        return draft
    for pool in draft.fleet.pools:
        if pool.min:
            _minimum(draft, pool)
        rules = draft.spares.get(pool.name, ())
        for rule in rules:
            _spare_nodes(draft, pool, rule)
            _spare_amounts(draft, pool, rule)
        _next_edge(draft, pool)
    return draft


def _coming(draft: Draft, pool: Pool) -> list[str]:
    starting = [node.name for node in draft.situation.of_pool[pool.name] if node.state is NodeState.STARTING]
    return starting + [name for name, of in draft.opened.items() if of == pool.name]


def _minimum(draft: Draft, pool: Pool) -> None:
    lack = pool.min - len(draft.staying(pool)) - len(_coming(draft, pool))
    if lack > 0:
        _bring(draft, pool, lack, f"minimum of {pool.min} nodes in pool {pool.name}")


def _spare_nodes(draft: Draft, pool: Pool, rule: Spare) -> None:
    if not rule.nodes:
        return
    reason = f"spare: {rule.nodes} nodes of pool {pool.name} are kept free"
    idle = [node for node in draft.staying(pool) if node.state is not NodeState.USED and _free(draft, node)]
    # The one used last stays: it has the longest way to its idle limit anyway, and others may go.
    idle.sort(key=lambda node: (node.name in draft.snapshot.steered, -node.idle_since_ms, node.name))
    for node in idle[: rule.nodes]:
        draft.spared[node.name] = reason
    coming = [name for name in _coming(draft, pool) if name not in draft.reservations]
    lack = rule.nodes - len(idle) - len(coming)
    if lack > 0:
        _bring(draft, pool, lack, reason)


def _free(draft: Draft, node: Node) -> bool:
    reservation = draft.reservations.get(node.name)
    return reservation is None or reservation.until_ms <= draft.now


def _spare_amounts(draft: Draft, pool: Pool, rule: Spare) -> None:
    """Room of any shape: what is free on nodes with work counts first, then that of coming ones, then idle ones."""
    names = draft.axes.names
    target = draft.axes.vector(dict(rule.amounts))
    staying = draft.staying(pool)
    bins = {node.name: draft.bin_of(node, pool) for node in staying}
    if rule.percent:
        used = [0] * len(names)
        for node in staying:
            held = draft.situation.used(node)
            used = [total + held.get(name, 0) for total, name in zip(used, names, strict=True)]
        own = capacity(pool)
        share = [-(-total * rule.percent // 100) if name in own else 0 for total, name in zip(used, names, strict=True)]
        target = [max(pair) for pair in zip(target, share, strict=True)]
    if not any(target):
        return
    reason = f"spare: room is kept free in pool {pool.name}"
    free = [0] * len(names)
    for node in staying:
        if node.state is NodeState.USED:
            free = _plus(free, bins[node.name])
    for name in _coming(draft, pool):
        bin_ = draft.bins.get(name)
        vector = bin_.free if bin_ else draft.axes.vector(capacity(pool))
        free = [total + amount for total, amount in zip(free, vector, strict=True)]
    idle = [node for node in staying if node.state is not NodeState.USED]
    idle.sort(key=lambda node: (node.name in draft.snapshot.steered, -node.idle_since_ms, node.name))
    for node in idle:
        if _met(free, target):
            return
        draft.spared[node.name] = reason
        free = _plus(free, bins[node.name])
    whole = draft.axes.vector(capacity(pool))
    lack = max(
        (-(-(want - have) // each) for want, have, each in zip(target, free, whole, strict=True) if each), default=0
    )
    if lack > 0:
        _bring(draft, pool, lack, reason)


def _plus(free: list[int], bin_: Bin) -> list[int]:
    return [total + max(0, amount) for total, amount in zip(free, bin_.free, strict=True)]


def _met(free: list[int], target: list[int]) -> bool:
    return all(have >= want for have, want in zip(free, target, strict=True))


def _bring(draft: Draft, pool: Pool, count: int, reason: str) -> None:
    """Take back nodes on their way out first, then order others on, as far as the bounds allow."""
    for node in draft.situation.of_pool[pool.name]:
        if (
            count
            and node.state is NodeState.DRAINING
            and node.name not in draft.orders
            and not draft.verdict.wake(pool)
        ):
            draft.release(node, reason)
            draft.spared[node.name] = reason
            count -= 1
    allowed, stop = draft.budget.allow(pool, count)
    if allowed > 0:
        opening = Opening(pool, draft.budget.take(pool, allowed), reason)
        draft.wake(opening.pool, opening.names, opening.reason)
    if stop and allowed < count:
        draft.alarms.append(f"{reason}, {count - allowed} are missing: {stop}")


def _next_edge(draft: Draft, pool: Pool) -> None:
    """The calendar changes something at the next start or end of a window."""
    minute = draft.now // 60_000
    for rule in pool.spare:
        if rule.start_min != rule.until_min:
            for edge in (rule.start_min, rule.until_min):
                ahead = (edge - minute) % 1440 or 1440
                draft.wait_until((minute + ahead) * 60_000)
