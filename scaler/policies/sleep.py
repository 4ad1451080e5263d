"""Third policy: let idle nodes go. Every node that is idle and stays is given the reason (C10, C20).

Only nodes without any work are ever looked at; the service checks again by `scaler.recheck` after the cordon and just
before the power-off (C2, C13). "Not yet" is an answer of its own and burns no retry.
"""

from __future__ import annotations

from scaler.draft import Draft
from scaler.model import IDLE, USED, Node, OrderKind, Snapshot
from scaler.packing import Axes, Bins
from scaler.pools import Pool


def sleep(snapshot: Snapshot, draft: Draft) -> Draft:  # noqa: ARG001 - every policy has the same shape
    frozen_told: set[str] = set()
    for pool in draft.fleet.pools:
        nodes = draft.situation.of_pool[pool.name]
        idle = [node for node in nodes if node.state is IDLE and node.name not in draft.orders]
        if not idle:
            continue
        frozen = draft.verdict.remove(pool)
        if frozen and frozen not in frozen_told:
            frozen_told.add(frozen)
            draft.alarms.append(f"removals are frozen: {frozen}")
        # Nodes on their way out have been subtracted already.
        above = len(draft.staying(pool)) - pool.min
        # Dearest first would gain nothing within a pool: all its nodes are alike. The one idle longest goes first.
        for node in sorted(idle, key=lambda node: node.idle_since_ms):
            if frozen:
                draft.keep(node, f"removals are frozen: {frozen}")
                continue
            reason, until = obstacle_to_sleep(node, pool, draft)
            if not reason and above <= 0:
                reason = f"pool {pool.name} is at its minimum of {pool.min} nodes"
            if reason:
                draft.keep(node, reason, until)
                continue
            above -= 1
            seconds = (draft.now - node.idle_since_ms) // 1000
            kind = OrderKind.REMOVE if pool.made else OrderKind.STOP
            draft.order(kind, node, f"idle for {seconds} s, the limit is {pool.idle_ms // 1000} s")
    return draft


def obstacle_to_sleep(node: Node, pool: Pool, draft: Draft) -> tuple[str, int]:
    """Why this idle node stays, and until when that holds by itself (0 = until something happens)."""
    now = draft.now
    if draft.situation.work.get(node.name):
        return "it has work", 0
    if not node.enabled:
        return "it is disabled: only a person switches it", 0
    if draft.situation.movable.get(node.name) and (homeless := _homeless(node, draft)):
        return homeless, 0
    reservation = draft.reservations.get(node.name)
    if reservation is not None and reservation.until_ms > now:
        return f"it is promised to {len(reservation.owners)} waiting", reservation.until_ms
    if spared := draft.spared.get(node.name):
        return spared, 0
    for until, why in (
        (node.idle_since_ms + pool.idle_ms, f"idle for less than {pool.idle_ms // 1000} s"),
        (node.on_since_ms + pool.min_on_ms, f"on for less than {pool.min_on_ms // 1000} s"),
        (node.not_yet_until_ms, "not yet, said the driver"),
        (node.backoff_until_ms, f"going off failed {node.failures_off} times, the next try is due later"),
        (paid_until(node, pool, now), "its paid interval is not over"),
    ):
        if until > now:
            return why, until
    return "", 0


def _homeless(node: Node, draft: Draft) -> str:
    """Why the pods that may be evicted from it would have nowhere to go; "" = nodes with work have room for them.

    One such node goes per decision: two would count on the same room.
    """
    if any(order.kind.removes and draft.situation.movable.get(order.node) for order in draft.orders.values()):
        return "another node's pods are moved first"
    specs = draft.situation.movable[node.name]
    axes = Axes(specs)
    shelter = Bins(
        axes.width,
        [
            draft.situation.bin(other, pool, axes)
            for pool in draft.fleet.pools
            for other in draft.situation.of_pool[pool.name]
            if other.state is USED
        ],
    )
    for spec in specs:
        if not shelter.fill(spec, axes.need(spec), 1, 0):
            return "its pods may be evicted and would fit on no node with work"
    return ""


def paid_until(node: Node, pool: Pool, now_ms: int) -> int:
    """When the node may be let go by its billing: now, or the start of the last part of the paid interval."""
    if pool.billing is None:
        return now_ms
    interval, margin = pool.billing.interval_ms, pool.billing.margin_ms
    into = (now_ms - node.paid_since_ms) % interval
    return now_ms if into >= interval - margin else now_ms - into + interval - margin
