"""The whole decision at the size that counts; processor time, so that a busy machine does not matter."""

from __future__ import annotations

import gc
import time
from random import Random

import pytest

from penstock.ports import OrderAnswer, Outcome
from scaler.engine import decide
from scaler.model import NodeState, OrderKind, Pod, ScalePlan, Snapshot
from scaler.observe import Sighting, observe
from scaler.records import State, answered, planned
from tests.scaler.building import (
    GIB,
    NOW,
    make_fleet,
    make_node,
    make_order,
    make_pod,
    make_pool,
    make_snapshot,
    make_spec,
    woken,
)


def crowded(nodes: int, *, alike: bool) -> Snapshot:
    """Full nodes with 30 pods each, and one pending pod per node: one shape or as many as pods."""
    rng = Random(1)
    held = [make_spec(235 + number % 20, GIB + number) for number in range(50)]
    pods: list[Pod] = []
    for number in range(nodes):
        pods.extend(make_pod(f"b{number}-{index}", rng.choice(held), node=f"cpu-{number}") for index in range(30))
        size = 1000 if alike else rng.randrange(1000, 8000)
        pods.append(make_pod(f"p{number}", make_spec(size, GIB if alike else rng.randrange(GIB, 30 * GIB))))
    return make_snapshot(*(make_node(f"cpu-{number}", NodeState.USED) for number in range(nodes)), pods=tuple(pods))


@pytest.mark.parametrize("alike", [True, False], ids=["alike", "all different"])
def test_c4_c7_w16_a_thousand_nodes_in_under_a_second_and_near_linear(alike: bool) -> None:
    fleet = make_fleet(make_pool(max=5000))
    seconds = {}
    for nodes in (100, 1000):
        snapshot = crowded(nodes, alike=alike)
        # In a long test run the collector walks everything that other tests left: not what is measured here.
        gc.collect()
        gc.disable()
        try:
            began = time.process_time()
            plan = decide(snapshot, fleet)
            seconds[nodes] = time.process_time() - began
        finally:
            gc.enable()
        assert plan.unhelped == ()
        assert len(woken(plan)) >= nodes // 8
    assert seconds[1000] < 1.0
    assert seconds[1000] < 40 * max(seconds[100], 0.001)


def test_w24_a_thousand_nodes_and_thirty_thousand_pods_are_observed_in_a_moment() -> None:
    """Each pod is looked at once, not once per node."""
    fleet = make_fleet(make_pool(max=5000))
    seconds = {}
    for nodes in (100, 1000):
        snapshot = crowded(nodes, alike=True)
        allocatable = (("cpu", 8000), ("memory", 32 * GIB))
        seen = [Sighting(name=f"cpu-{number}", ready=True, allocatable=allocatable) for number in range(nodes)]
        gc.collect()
        gc.disable()
        try:
            began = time.process_time()
            found = observe(snapshot, seen, fleet)
            seconds[nodes] = time.process_time() - began
        finally:
            gc.enable()
        assert {node.state for node in found.nodes} == {NodeState.USED}
    assert seconds[1000] < 1.0
    assert seconds[1000] < 40 * max(seconds[100], 0.001)


def test_w24_five_thousand_answers_to_one_call_are_written_down_in_a_moment() -> None:
    """One change of the records for each answer must not look through all of them."""
    fleet = make_fleet(make_pool(max=5000))
    orders = [make_order(OrderKind.ADD, f"cpu-{number}") for number in range(5000)]
    state = planned(State(), ScalePlan(now_ms=NOW, orders=tuple(orders)), fleet)
    began = time.process_time()
    for order in orders:
        answer = OrderAnswer(key=order.key, outcome=Outcome.ACCEPTED, id=f"id-{order.node}")
        state = answered(state, order, answer, NOW + 1, fleet)
    assert time.process_time() - began < 2.0
    assert [node.provider_id for node in state.nodes] == [f"id-cpu-{number}" for number in range(5000)]
    assert all(pending.accepted for pending in state.orders.values())
