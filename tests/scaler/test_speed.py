"""The whole decision at the size that counts; processor time, so that a busy machine does not matter."""

from __future__ import annotations

import gc
import time
from random import Random

import pytest

from scaler.engine import decide
from scaler.model import NodeState, Pod, Snapshot
from scaler.observe import Sighting, observe
from tests.scaler.building import GIB, make_fleet, make_node, make_pod, make_pool, make_snapshot, make_spec, woken


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
