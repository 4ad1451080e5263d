from __future__ import annotations

import pytest
from msgspec.structs import replace

from penstock.model import FunctionDemand
from scaler.engine import decide
from scaler.model import (
    Node,
    NodeState,
    OrderKind,
    PodKind,
    PoolRecord,
    Request,
    Requirement,
    Reservation,
    Snapshot,
    Taint,
    Toleration,
    View,
)
from scaler.pools import Caps
from tests.scaler.building import (
    GIB,
    HOUR,
    MINUTE,
    NOW,
    make_fleet,
    make_node,
    make_pod,
    make_pods,
    make_pool,
    make_snapshot,
    make_spec,
    orders,
    removed,
    why_kept,
    woken,
)

S = NodeState


def test_c5_from_zero_nodes_the_template_says_how_many_are_needed() -> None:
    plan = decide(make_snapshot(pods=make_pods(17)), make_fleet())
    assert woken(plan) == ["cpu-1", "cpu-2", "cpu-3"]
    assert {order.kind for order in plan.orders} == {OrderKind.ADD}
    assert [order.reason for order in plan.orders] == ["wake for 17 pods"] * 3
    assert plan.unhelped == ()


def test_c5_daemon_overhead_is_taken_off_the_template() -> None:
    fleet = make_fleet(make_pool(overhead=(("cpu", 500),)))
    assert len(woken(decide(make_snapshot(pods=make_pods(8)), fleet))) == 2


@pytest.mark.parametrize(
    "pod",
    [
        make_pod(parked="gated"),
        make_pod(parked="suspended"),
        make_pod(parked="terminating"),
        make_pod(parked="nominated"),
        make_pod(kind=PodKind.DAEMON),
        make_pod(kind=PodKind.MIRROR),
        make_pod(unschedulable=False),
        make_pod(node="elsewhere"),
    ],
)
def test_c5_what_is_no_demand_wakes_nothing(pod: object) -> None:
    assert decide(make_snapshot(pods=(pod,)), make_fleet()).orders == ()


def test_c5_nodes_on_their_way_count() -> None:
    nodes = [make_node("cpu-1", S.STARTING, since_ms=NOW), make_node("cpu-2", S.STARTING, since_ms=NOW)]
    plan = decide(make_snapshot(*nodes, pods=make_pods(16)), make_fleet())
    assert plan.orders == ()
    assert len(woken(decide(make_snapshot(*nodes, pods=make_pods(17)), make_fleet()))) == 1


def test_room_that_is_on_is_used_before_anything_is_woken() -> None:
    busy = make_pods(7, prefix="b", node="cpu-1")
    nodes = [make_node("cpu-1", S.USED), make_node("cpu-2", S.IDLE, idle_since_ms=NOW)]
    plan = decide(make_snapshot(*nodes, pods=(*busy, *make_pods(9))), make_fleet())
    assert plan.orders == ()
    assert {reservation.node for reservation in plan.reservations} == {"cpu-1", "cpu-2"}


def test_disabled_nodes_serve_while_they_are_on_and_are_never_started() -> None:
    hosts = make_fleet(make_pool(hosts=("cpu-1", "cpu-2"), max=2))
    nodes = [make_node("cpu-1", S.IDLE, enabled=False), make_node("cpu-2", S.OFF, enabled=False)]
    plan = decide(make_snapshot(*nodes, pods=make_pods(9)), hosts)
    assert plan.orders == ()
    assert [(entry.count, entry.reason) for entry in plan.unhelped] == [(1, "pool cpu has no host left to start")]


def test_c6_max_is_hard_and_the_rest_is_told() -> None:
    plan = decide(make_snapshot(pods=make_pods(100)), make_fleet(make_pool(max=4)))
    assert len(woken(plan)) == 4
    assert [(entry.count, entry.reason) for entry in plan.unhelped] == [(68, "pool cpu is at its maximum of 4 nodes")]


@pytest.mark.parametrize("state", [S.UNKNOWN, S.FAILED_ON, S.FAILED_OFF, S.STOPPING, S.DRAINING, S.STARTING])
def test_c6_whatever_is_not_known_to_be_off_counts_against_max(state: NodeState) -> None:
    node = make_node("cpu-1", state)
    plan = decide(make_snapshot(node, pods=make_pods(100)), make_fleet(make_pool(max=2)))
    assert len(woken(plan)) == 1


@pytest.mark.parametrize(
    ("caps", "most", "why"),
    [
        (Caps(nodes=3), 3, "all pools together are at their cap of 3 nodes"),
        (Caps(watts=500), 2, "one more node would exceed 500 W"),
        (Caps(price_per_hour=0.3), 3, "one more node would cost more than 0.3 an hour"),
        (Caps(amounts=(("cpu", 16_000),)), 2, "one more node would exceed the cap on cpu"),
        (Caps(amounts=(("memory", 100 * GIB),)), 3, "one more node would exceed the cap on memory"),
    ],
)
def test_c6_caps_over_all_pools(caps: Caps, most: int, why: str) -> None:
    fleet = make_fleet(make_pool("a", price_per_hour=0.1), make_pool("b", price_per_hour=0.1), caps=caps)
    plan = decide(make_snapshot(pods=make_pods(200)), fleet)
    assert len(woken(plan)) == most
    assert why in plan.unhelped[0].reason


def test_c7_one_hopeless_group_blocks_nobody_and_says_why_w18() -> None:
    # CLUES: one hopeless request blocked all later ones while an earlier one lived.
    gpu = make_spec(requests=(("cpu", 1000), ("nvidia.com/gpu", 1)))
    large = make_spec(cpu=64_000)
    pods = (make_pod("g", gpu), make_pod("l", large), *make_pods(3))
    plan = decide(make_snapshot(pods=pods), make_fleet())
    assert woken(plan) == ["cpu-1"]
    told = {entry.owners: (entry.reason, entry.hopeless) for entry in plan.unhelped}
    lacking = "no pool has a node for it (cpu: a node offers 0 nvidia.com/gpu and 1 nvidia.com/gpu is needed)"
    assert told["g",] == (lacking, True)
    assert told["l",] == ("no pool has a node for it (cpu: a node offers 8 cpu and 64 cpu is needed)", True)


def test_c7_large_pods_first_so_that_small_ones_fill_up() -> None:
    pods = (*make_pods(8, make_spec(2000), "s"), *make_pods(4, make_spec(6000), "l"))
    assert len(woken(decide(make_snapshot(pods=pods), make_fleet()))) == 5


def test_c7_alike_pods_are_one_entry() -> None:
    plan = decide(make_snapshot(pods=make_pods(500, make_spec(9000))), make_fleet())
    assert [(entry.count, len(entry.owners)) for entry in plan.unhelped] == [(500, 20)]


def test_not_modelled_constraints_are_refused_rather_than_guessed() -> None:
    spec = make_spec(unmodelled=("pod anti-affinity",))
    plan = decide(make_snapshot(make_node(), pods=(make_pod("a", spec),)), make_fleet())
    assert [(entry.reason, entry.hopeless) for entry in plan.unhelped] == [("not modelled: pod anti-affinity", True)]


def test_c7_the_cheapest_pool_per_pod_and_heavier_pools_before_it() -> None:
    small = make_pool("small", price_per_hour=1.0)
    large = make_pool("large", price_per_hour=1.5, resources=(("cpu", 16_000), ("memory", 64 * GIB), ("pods", 110)))
    fleet = make_fleet(small, large)
    assert woken(decide(make_snapshot(pods=make_pods(16)), fleet)) == ["large-1"]
    # The rest of 20 fits the cheaper node.
    assert sorted(woken(decide(make_snapshot(pods=make_pods(20)), fleet))) == ["large-1", "small-1"]
    favoured = make_fleet(replace(small, weight=1), large)
    assert woken(decide(make_snapshot(pods=make_pods(16)), favoured)) == ["small-1", "small-2"]


def test_c12_a_pool_that_backs_off_gives_way_to_the_next() -> None:
    fleet = make_fleet(make_pool("a", price_per_hour=1.0), make_pool("b", price_per_hour=2.0))
    record = PoolRecord(name="a", failures=2, backoff_until_ms=NOW + MINUTE, why="no_capacity")
    plan = decide(make_snapshot(pods=make_pods(8), pools=(record,)), fleet)
    assert woken(plan) == ["b-1"]
    assert plan.next_ms == NOW + MINUTE
    alone = decide(make_snapshot(pods=make_pods(8), pools=(record,)), make_fleet(make_pool("a")))
    assert alone.unhelped[0].reason == "pool a waits 60 s after 2 failures (no_capacity)"


def test_w17_the_boot_limit_is_never_overshot_and_stops_only_its_pool() -> None:
    # CLUES: the cap stopped the whole pass, and one request might overshoot it.
    fleet = make_fleet(make_pool("a", max_booting=2, weight=1), make_pool("b"))
    plan = decide(make_snapshot(make_node("a-7", S.STARTING), pods=make_pods(32)), fleet)
    assert woken(plan) == ["a-1", "b-1", "b-2"]
    only = decide(make_snapshot(pods=make_pods(100)), make_fleet(make_pool("a", max_booting=2)))
    assert len(woken(only)) == 2
    assert only.unhelped[0].reason == "pool a may start 2 nodes at once"


def test_w17_demand_during_power_off_waits_for_off_and_then_wakes() -> None:
    # CLUES ordered the node on in the same pass, was refused and burnt a retry.
    fleet = make_fleet(make_pool(hosts=("cpu-1",), max=1))
    stopping = make_snapshot(make_node("cpu-1", S.STOPPING), pods=make_pods(1))
    plan = decide(stopping, fleet)
    assert plan.orders == ()
    assert "at its maximum" in plan.unhelped[0].reason or "once off" in plan.unhelped[0].reason
    off = decide(replace(stopping, nodes=(make_node("cpu-1", S.OFF),)), fleet)
    assert woken(off) == ["cpu-1"]


def test_c13_demand_before_the_power_off_takes_a_draining_node_back() -> None:
    plan = decide(make_snapshot(make_node("cpu-1", S.DRAINING), pods=make_pods(3)), make_fleet())
    assert orders(plan, OrderKind.RELEASE) == ["cpu-1"]
    assert woken(plan) == []


def test_c8_a_gang_is_all_or_nothing() -> None:
    pool = make_pool(max=3)
    fits = make_pods(24, gang="g", gang_size=24)
    assert len(woken(decide(make_snapshot(pods=fits), make_fleet(pool)))) == 3
    busy = make_node("cpu-9", S.USED)
    held = make_pods(8, prefix="b", node="cpu-9")
    plan = decide(make_snapshot(busy, pods=(*held, *fits)), make_fleet(pool))
    assert plan.orders == ()
    assert [(entry.count, entry.hopeless) for entry in plan.unhelped] == [(24, False)]


def test_c8_members_that_do_not_exist_yet_are_wanted_too() -> None:
    plan = decide(make_snapshot(pods=make_pods(4, gang="g", gang_size=16)), make_fleet())
    assert len(woken(plan)) == 2


def test_c8_a_gang_across_pools_and_at_most_so_many_per_node() -> None:
    fleet = make_fleet(make_pool("a", max=1), make_pool("b", max=2))
    assert sorted(woken(decide(make_snapshot(pods=make_pods(24, gang="g")), fleet))) == ["a-1", "b-1", "b-2"]
    spread = make_pods(4, gang="g", gang_per_node=1)
    assert len(woken(decide(make_snapshot(pods=spread), make_fleet()))) == 4


def test_c8_an_impossible_gang_is_rejected_not_blocked_w18() -> None:
    # CLUES: an oversize gang stayed BLOCKED for ever, and everything behind it.
    pods = (*make_pods(100, prefix="g", gang="g"), *make_pods(1))
    plan = decide(make_snapshot(pods=pods), make_fleet(make_pool(max=2)))
    assert woken(plan) == ["cpu-1"]
    assert [(entry.reason, entry.hopeless) for entry in plan.unhelped] == [
        ("100 at once are asked for; all pools at their maximum hold 16", True)
    ]


def test_c8_a_gang_that_fails_leaves_its_room_to_others() -> None:
    node = make_node("cpu-1", S.IDLE, idle_since_ms=NOW)
    pods = (*make_pods(12, prefix="g", gang="g"), *make_pods(8))
    plan = decide(make_snapshot(node, pods=pods), make_fleet(make_pool(max=1)))
    assert plan.orders == ()
    assert plan.reservations[0].owners == tuple(f"p{number}" for number in range(8))


def test_a_gang_of_unlike_pods_is_refused() -> None:
    pods = (make_pod("a", gang="g"), make_pod("b", make_spec(2000), gang="g"))
    plan = decide(make_snapshot(pods=pods), make_fleet())
    assert [entry.reason for entry in plan.unhelped] == ["not modelled: a gang of unlike pods"]


def test_c20_a_request_is_demand_until_its_end() -> None:
    request = Request(id="r1", spec=make_spec(8000), tasks=2, until_ms=NOW + HOUR)
    plan = decide(make_snapshot(requests=(request,)), make_fleet())
    assert len(woken(plan)) == 2
    assert {reservation.until_ms for reservation in plan.reservations} == {NOW + HOUR}
    assert decide(make_snapshot(requests=(replace(request, until_ms=NOW),)), make_fleet()).orders == ()


def _demand(**changes: object) -> FunctionDemand:
    plain = FunctionDemand(
        function="f", function_uid="u", time_ms=NOW, queued=40, running=0, cpu_millis=1000, memory_bytes=GIB
    )
    return replace(plain, **changes)


def test_nodes_start_for_the_backlog_before_pods_pile_up() -> None:
    fresh = View(as_of_ms=NOW)
    for demand, nodes in (
        (_demand(), 5),
        (_demand(items_per_job=10), 1),
        (_demand(concurrency=10, running=2), 1),
        (_demand(concurrency=10, running=10), 0),
        (_demand(queued=0), 0),
    ):
        plan = decide(make_snapshot(backlog=(demand,), backlog_view=fresh), make_fleet())
        assert len(woken(plan)) == nodes


def test_a_stale_backlog_wakes_nothing_and_lets_nothing_go() -> None:
    stale = View(as_of_ms=NOW - HOUR)
    plan = decide(make_snapshot(make_node("cpu-1"), backlog=(_demand(),), backlog_view=stale), make_fleet())
    assert plan.orders == ()
    assert "backlog" in why_kept(plan, "cpu-1")


def test_work_that_waits_keeps_idle_nodes_on() -> None:
    snapshot = make_snapshot(make_node("cpu-1"), make_node("cpu-2"), backlog_view=View(as_of_ms=NOW))
    assert sorted(removed(decide(snapshot, make_fleet()))) == ["cpu-1", "cpu-2"]
    plan = decide(replace(snapshot, backlog=(_demand(queued=16),)), make_fleet())
    assert removed(plan) == []


def test_w22_w23_any_label_key_and_tolerated_taints_match() -> None:
    pool = make_pool(
        labels=(("kubernetes.io/arch", "arm64"), ("zone.example.org/rack-1", "a")),
        taints=(Taint(key="dedicated", value="ai"),),
    )
    terms = ((Requirement("zone.example.org/rack-1", "In", ("a", "b")),),)
    spec = make_spec(
        selector=(("kubernetes.io/arch", "arm64"),),
        affinity=terms,
        tolerations=(Toleration(key="dedicated", operator="Exists"),),
    )
    assert woken(decide(make_snapshot(pods=(make_pod("a", spec),)), make_fleet(pool))) == ["cpu-1"]
    plan = decide(make_snapshot(pods=(make_pod("a", replace(spec, tolerations=())),)), make_fleet(pool))
    assert "taint dedicated=ai:NoSchedule is not tolerated" in plan.unhelped[0].reason


def test_host_ports_take_a_node_each() -> None:
    spec = make_spec(host_ports=("TCP/80",))
    held = make_pod("b", spec, node="cpu-1")
    pods = (held, make_pod("a", spec), make_pod("c", spec))
    plan = decide(make_snapshot(make_node("cpu-1", S.USED), pods=pods), make_fleet())
    assert len(woken(plan)) == 2


def test_hosts_that_failed_least_and_cycled_least_come_first() -> None:
    fleet = make_fleet(make_pool(hosts=("cpu-1", "cpu-2", "cpu-3"), max=3))
    nodes = [
        make_node("cpu-1", S.OFF, failures_on=1),
        make_node("cpu-2", S.OFF, cycles=9),
        make_node("cpu-3", S.OFF, cycles=2),
    ]
    assert woken(decide(make_snapshot(*nodes, pods=make_pods(9)), fleet)) == ["cpu-3", "cpu-2"]


def test_made_nodes_get_the_lowest_name_that_neither_a_record_nor_a_machine_has() -> None:
    plan = decide(make_snapshot(make_node("cpu-2", S.USED), pods=make_pods(30)), make_fleet())
    assert woken(plan)[:2] == ["cpu-1", "cpu-3"]


def test_c3_the_same_order_has_the_same_key() -> None:
    snapshot = make_snapshot(make_node("cpu-1", S.OFF, generation=6), pods=make_pods(1))
    fleet = make_fleet(make_pool(hosts=("cpu-1",), max=1))
    first, second = decide(snapshot, fleet), decide(replace(snapshot, now_ms=NOW + 1), fleet)
    assert [order.key for order in first.orders] == [order.key for order in second.orders] == ["cpu-1/7"]


def test_c9_a_promise_lapses_when_its_pods_are_bound_or_gone_or_its_time_is_over() -> None:
    node = make_node("cpu-1")
    promise = Reservation(node="cpu-1", owners=("p0",), until_ms=NOW + MINUTE)
    waiting = make_pods(1, unschedulable=False)
    kept = decide(make_snapshot(node, pods=waiting, reservations=(promise,)), make_fleet())
    assert why_kept(kept, "cpu-1") == "it is promised to 1 waiting"
    assert kept.reservations == (promise,)
    assert kept.next_ms == NOW + MINUTE
    gone = decide(make_snapshot(node, reservations=(promise,)), make_fleet())
    assert removed(gone) == ["cpu-1"]
    assert gone.reservations == ()
    over = decide(make_snapshot(node, pods=waiting, reservations=(replace(promise, until_ms=NOW),)), make_fleet())
    assert removed(over) == ["cpu-1"]
    assert over.reservations[0].until_ms == -NOW


def test_c9_a_pod_that_no_scheduler_places_is_told_and_does_not_wake_node_after_node() -> None:
    promise = Reservation(node="cpu-1", owners=("p0",), until_ms=NOW - 1)
    first = decide(make_snapshot(make_node("cpu-1"), pods=make_pods(1), reservations=(promise,)), make_fleet())
    assert removed(first) == ["cpu-1"]
    assert "the scheduler did not use it" in first.unhelped[0].reason
    # The node is gone; half an hour long the pod wakes no other, then it gets another chance.
    gone = make_snapshot(pods=make_pods(1), reservations=first.reservations, now_ms=NOW + MINUTE)
    later = decide(gone, make_fleet())
    assert later.orders == ()
    assert later.reservations == first.reservations
    assert later.next_ms == NOW + 30 * MINUTE
    assert len(woken(decide(make_again(gone, later.next_ms), make_fleet()))) == 1


def make_again(snapshot: Snapshot, now_ms: int) -> Snapshot:
    """The same at a later time, freshly read."""
    return make_snapshot(now_ms=now_ms, pods=snapshot.pods, reservations=snapshot.reservations)


@pytest.mark.parametrize("nodes", [(), (make_node("cpu-1", S.USED),), (make_node("cpu-1", S.FAILED_ON),)])
def test_c9_a_promise_that_was_broken_is_demand_again(nodes: tuple[Node, ...]) -> None:
    """Somebody else took the room, or the node failed: nobody can blame the pod."""
    promise = Reservation(node="cpu-1", owners=("p0",), until_ms=NOW - 1)
    taken = make_pods(8, prefix="x", node="cpu-1") if nodes else ()
    plan = decide(make_snapshot(*nodes, pods=(*taken, *make_pods(1)), reservations=(promise,)), make_fleet())
    assert len(woken(plan)) == 1


def test_c18_the_same_snapshot_gives_the_same_plan() -> None:
    nodes = [make_node(f"cpu-{number}", S.USED if number % 2 else S.IDLE) for number in range(1, 9)]
    pods = (
        *make_pods(40, make_spec(3000)),
        *make_pods(9, make_spec(5000), "q"),
        *make_pods(3, node="cpu-1", prefix="b"),
    )
    snapshot = make_snapshot(*nodes, pods=pods)
    assert decide(snapshot, make_fleet()) == decide(snapshot, make_fleet())
