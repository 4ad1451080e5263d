"""Last policy, and a first step towards consolidation: let nodes empty without moving anything.

A scheduler that spreads pods keeps a whole pool half empty and never idle. Nodes that the present load does not need
get a PreferNoSchedule taint: a scheduler fills them last, so they drain by themselves, while pods that fit nowhere
else still get in. Nothing waits longer for it. Nodes that are steered already stay so, lest the choice wander.
"""

from __future__ import annotations

from scaler.draft import Draft
from scaler.model import IDLE, Node, Snapshot
from scaler.pools import Pool, capacity


def steer(snapshot: Snapshot, draft: Draft) -> Draft:
    if not draft.fleet.options.steer or draft.verdict.all:
        draft.steered = snapshot.steered
        return draft
    chosen: set[str] = set()
    for pool in draft.fleet.pools:
        nodes = [node for node in draft.staying(pool) if node.enabled and node.name not in draft.orders]
        if len(nodes) > 1 and len(nodes) > pool.min:
            chosen.update(_surplus(snapshot, draft, pool, nodes))
    draft.steered = frozenset(chosen)
    return draft


def _surplus(snapshot: Snapshot, draft: Draft, pool: Pool, nodes: list[Node]) -> list[str]:
    whole = capacity(pool)
    total: dict[str, int] = {}
    used = draft.situation.used
    load: dict[str, float] = {}
    for node in nodes:
        share = 0.0
        if node.state is not IDLE:
            for name, amount in used(node).items():
                if size := whole.get(name):
                    total[name] = total.get(name, 0) + amount
                    part = amount / size
                    share = part if part > share else share  # noqa: FURB136 - `max` costs thrice that
        load[node.name] = share
    slack = 100 + draft.fleet.options.steer_slack_percent
    needed = max((-(-amount * slack // (100 * whole[name])) for name, amount in total.items()), default=0)
    needed = max(needed, pool.min, 1)
    if needed >= len(nodes):
        return []
    steered = snapshot.steered
    ranked = sorted(nodes, key=lambda node: (node.name in steered, -load[node.name], node.name))
    return [node.name for node in ranked[needed:]]
