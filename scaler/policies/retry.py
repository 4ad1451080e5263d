"""Fourth policy: what failed is not forgotten (C12). Nothing here serves demand; it brings nodes back to a known state.

A node that did not come up is switched off for certain (or deleted) before it is tried again; one that did not go off
is tried again after its back-off; one that failed too often is probed now and then; one that went dark is told, never
taken.
"""

from __future__ import annotations

from scaler.draft import Draft
from scaler.model import Node, NodeState, OrderKind, Snapshot
from scaler.pools import Pool


def retry(snapshot: Snapshot, draft: Draft) -> Draft:  # noqa: ARG001 - every policy has the same shape
    for pool in draft.fleet.pools:
        for node in draft.situation.of_pool[pool.name]:
            if not node.failures_on and node.state in _SOUND:
                continue
            if node.name in draft.orders:
                continue
            if node.state is NodeState.UNKNOWN:
                _tell_dark(draft, node)
            elif node.state in {NodeState.FAILED_ON, NodeState.FAILED_OFF}:
                _clean_up(draft, node, pool)
            elif node.state is NodeState.OFF and node.failures_on >= draft.fleet.options.tries:
                _probe(draft, node, pool)
            elif node.state is NodeState.OFF and node.failures_on:
                draft.wait_until(node.backoff_until_ms)
    return draft


_SOUND = (NodeState.OFF, NodeState.USED, NodeState.IDLE, NodeState.STARTING)


def _tell_dark(draft: Draft, node: Node) -> None:
    if node.dark_since_ms:
        seconds = (draft.now - node.dark_since_ms) // 1000
        draft.keep(node, f"not seen for {seconds} s: unknown is never off, so it is left alone")
        if draft.now - node.dark_since_ms > draft.fleet.options.glitch_ms:
            draft.alarms.append(f"node {node.name} went dark; look at it, then reset or remove it")
    else:
        draft.keep(node, "never seen yet")


def _clean_up(draft: Draft, node: Node, pool: Pool) -> None:
    went_on = node.state is NodeState.FAILED_ON
    what = "did not come up" if went_on else "did not go off"
    if not node.enabled:
        draft.keep(node, f"it {what}; it is disabled: only a person switches it")
    elif draft.situation.work.get(node.name):
        draft.keep(node, f"it {what}, and pods are bound to it")
    elif frozen := draft.verdict.remove(pool):
        draft.keep(node, f"it {what}; removals are frozen: {frozen}")
    elif pool.made and not node.provider_id:
        draft.keep(node, f"it {what}; its provider has not listed it")
    elif not went_on and node.backoff_until_ms > draft.now:
        draft.keep(node, f"it {what} {node.failures_off} times, the next try is due later", node.backoff_until_ms)
    else:
        kind = OrderKind.REMOVE if pool.made else OrderKind.STOP
        draft.order(kind, node, f"it {what} in time: switched off for certain before it is tried again")


def _probe(draft: Draft, node: Node, pool: Pool) -> None:
    due = max(node.since_ms + draft.fleet.options.probe_ms, node.backoff_until_ms)
    if not node.enabled:
        return
    if due > draft.now:
        draft.keep(node, f"failed to start {node.failures_on} times in a row: only probed now and then", due)
        return
    allowed, stop = draft.budget.allow_host(pool)
    if not allowed:
        draft.keep(node, f"failed to start {node.failures_on} times in a row; its probe is due but {stop}")
        return
    draft.budget.spend_host(pool)
    draft.wake(pool, [node.name], f"probe after {node.failures_on} failed starts in a row")
