from __future__ import annotations

from typing import Any

import pytest

from penstock.ports import ProviderNode, ProviderState
from scaler.model import Node, NodeState, Snapshot, Taint, View
from scaler.observe import Observed, Sighting, observe
from scaler.pools import Fleet
from tests.scaler.building import HOUR, MINUTE, NOW, make_fleet, make_node, make_pods, make_pool, make_snapshot

S, P = NodeState, ProviderState
MADE = make_fleet()
HOSTS = make_fleet(make_pool(hosts=("cpu-1", "cpu-2"), max=2))


def see(name: str = "cpu-1", **changes: Any) -> Sighting:
    fields: dict[str, Any] = {"name": name, "ready": True, "allocatable": (("cpu", 8000), ("memory", 1))}
    return Sighting(**(fields | changes))


def machine(state: ProviderState, name: str = "cpu-1", **changes: Any) -> ProviderNode:
    return ProviderNode(**({"id": f"id-{name}", "name": name, "state": state, "pool": "cpu"} | changes))


def look(
    *nodes: Node, seen: tuple[Sighting, ...] = (), fleet: Fleet = MADE, **changes: Any
) -> tuple[dict[str, NodeState], Observed]:
    snapshot: Snapshot = make_snapshot(*nodes, **changes)
    observed = observe(snapshot, seen, fleet)
    return {node.name: node.state for node in observed.nodes}, observed


def test_ready_without_and_with_work() -> None:
    assert look(make_node("cpu-1", S.STARTING), seen=(see(),))[0] == {"cpu-1": S.IDLE}
    states, observed = look(make_node("cpu-1", S.STARTING), seen=(see(),), pods=make_pods(1, node="cpu-1"))
    assert states == {"cpu-1": S.USED}
    assert observed.nodes[0].allocatable == (("cpu", 8000), ("memory", 1))
    assert [step.node.name for step in observed.steps] == ["cpu-1"]


def test_c5_a_node_is_coming_until_start_up_taints_are_gone_and_extended_resources_registered() -> None:
    taint = Taint(key="setup")
    resources = (("cpu", 8000), ("memory", 1), ("nvidia.com/gpu", 2))
    fleet = make_fleet(make_pool(resources=resources, startup_taints=(taint,)))
    node = make_node("cpu-1", S.STARTING, since_ms=NOW - MINUTE)
    for sighting, state in (
        (see(), S.STARTING),
        (see(allocatable=resources, taints=(taint,)), S.STARTING),
        (see(allocatable=resources), S.IDLE),
    ):
        assert look(node, seen=(sighting,), fleet=fleet)[0] == {"cpu-1": state}


@pytest.mark.parametrize("state", [S.IDLE, S.USED, S.DRAINING])
def test_w10_a_node_that_is_missing_or_not_ready_is_unknown_not_off(state: NodeState) -> None:
    for seen in ((), (see(ready=False),)):
        states, observed = look(make_node("cpu-1", state), seen=seen, provider=(machine(P.ON),))
        assert states == {"cpu-1": S.UNKNOWN}
        assert observed.nodes[0].before_dark is state


def test_c1_only_a_complete_and_newer_machine_list_says_off() -> None:
    node = make_node("cpu-1", S.STOPPING, since_ms=NOW - 2 * MINUTE)
    gone: dict[str, Any] = {"provider": ()}
    assert look(node, **gone)[0] == {}, "a made machine that is off and gone is forgotten"
    assert look(node, fleet=HOSTS, provider=(machine(P.OFF),))[0]["cpu-1"] is S.OFF
    for view in (
        View(as_of_ms=NOW, complete=False),
        View(as_of_ms=NOW - 40_000),
        View(as_of_ms=NOW - 3 * MINUTE),
    ):
        assert look(node, provider_views={"simulated": view}, **gone)[0] == {"cpu-1": S.STOPPING}
    assert look(node, fleet=HOSTS)[0]["cpu-1"] is S.STOPPING, "a host that a list forgets is not off"


@pytest.mark.parametrize(
    "broken", [{"nodes_view": View(as_of_ms=0)}, {"pods_view": View(as_of_ms=NOW, complete=False)}]
)
def test_c1_w1_w2_nothing_is_concluded_from_a_view_that_is_not_whole(broken: dict[str, Any]) -> None:
    nodes = (
        make_node("cpu-1", S.USED),
        make_node("cpu-2", S.STARTING, since_ms=NOW - HOUR),
        make_node("cpu-3", S.STOPPING, since_ms=NOW - HOUR),
    )
    assert look(*nodes, **broken)[1] == Observed(nodes)


def test_bound_pods_hold_a_node_that_a_list_calls_off() -> None:
    node = make_node("cpu-1", S.USED)
    states, _ = look(node, provider=(machine(P.OFF),), pods=make_pods(1, node="cpu-1"))
    assert states == {"cpu-1": S.UNKNOWN}


def test_time_outs_of_starting_and_stopping() -> None:
    late = NOW - 11 * MINUTE
    nodes = (make_node("cpu-1", S.STARTING, since_ms=late), make_node("cpu-2", S.STOPPING, since_ms=late))
    machines = (machine(P.ON), machine(P.ON, "cpu-2"))
    states, observed = look(*nodes, provider=machines)
    assert states == {"cpu-1": S.FAILED_ON, "cpu-2": S.FAILED_OFF}
    assert [node.failures_on + node.failures_off for node in observed.nodes] == [1, 1]
    assert look(make_node("cpu-1", S.STARTING, since_ms=NOW - 9 * MINUTE))[0] == {"cpu-1": S.STARTING}


def test_a_late_boot_is_welcome() -> None:
    assert look(make_node("cpu-1", S.FAILED_ON), seen=(see(),))[0] == {"cpu-1": S.IDLE}


def test_hosts_get_records_and_are_unknown_until_their_provider_says() -> None:
    states, _ = look(fleet=HOSTS, provider=(machine(P.OFF, "cpu-2"),))
    assert states == {"cpu-1": S.UNKNOWN, "cpu-2": S.OFF}


def test_c3_a_machine_of_ours_without_a_record_is_a_lost_answer_and_a_foreign_one_a_stranger() -> None:
    ours = machine(P.ON, ours=True, created_ms=NOW - MINUTE)
    foreign = machine(P.ON, "other", pool="")
    states, observed = look(provider=(ours, foreign))
    assert states == {"cpu-1": S.STARTING}
    assert observed.nodes[0].since_ms == NOW - MINUTE
    assert observed.nodes[0].provider_id == "id-cpu-1"
    assert observed.strangers == ("other",)
    # Older than the boot time-out: it failed, and may now be removed.
    old = machine(P.ON, ours=True, created_ms=NOW - HOUR)
    assert look(provider=(old,))[0] == {"cpu-1": S.FAILED_ON}


def test_nodes_that_carry_the_pool_s_label_are_adopted_and_others_ignored() -> None:
    states, _ = look(seen=(see("new", labels=(("penstock.dev/pool", "cpu"),)), see("foreign")))
    assert states == {"new": S.IDLE}


def test_c12_a_machine_that_its_provider_gave_up_is_not_waited_for() -> None:
    node = make_node("cpu-1", S.STARTING, since_ms=NOW - MINUTE)
    assert look(node, provider=(machine(P.FAILED),))[0] == {"cpu-1": S.FAILED_ON}
    old = {"simulated": View(as_of_ms=NOW - 2 * MINUTE)}
    assert look(node, provider=(machine(P.FAILED),), provider_views=old)[0] == {"cpu-1": S.STARTING}
    assert look(make_node("cpu-1"), seen=(see(),), provider=(machine(P.FAILED),))[0] == {"cpu-1": S.IDLE}
