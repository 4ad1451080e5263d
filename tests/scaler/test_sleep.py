from __future__ import annotations

import pytest
from msgspec.structs import replace

from scaler.engine import decide
from scaler.model import NodeState, OrderKind, PodKind, Reservation, View
from scaler.pools import Billing, Spare
from scaler.recheck import recheck
from tests.scaler.building import (
    GIB,
    HOUR,
    MINUTE,
    NOW,
    make_fleet,
    make_node,
    make_order,
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


def test_c10_an_idle_node_goes_after_its_time_and_not_before() -> None:
    fleet = make_fleet()
    early = make_node("cpu-1", idle_since_ms=NOW - 5 * MINUTE + 1)
    plan = decide(make_snapshot(early), fleet)
    assert removed(plan) == []
    assert why_kept(plan, "cpu-1") == "idle for less than 300 s"
    assert plan.next_ms == NOW + 1
    due = decide(make_snapshot(early, now_ms=NOW + 1), fleet)
    assert orders(due, OrderKind.REMOVE) == ["cpu-1"]
    assert due.orders[0].reason == "idle for 300 s, the limit is 300 s"


def test_hosts_are_stopped_and_made_machines_removed() -> None:
    hosts = make_fleet(make_pool(hosts=("cpu-1",), max=1))
    assert [order.kind for order in decide(make_snapshot(make_node("cpu-1")), hosts).orders] == [OrderKind.STOP]


def test_c10_minimum_on_time() -> None:
    fleet = make_fleet(make_pool(min_on_ms=30 * MINUTE))
    plan = decide(make_snapshot(make_node("cpu-1", on_since_ms=NOW - 29 * MINUTE)), fleet)
    assert why_kept(plan, "cpu-1") == "on for less than 1800 s"
    assert plan.next_ms == NOW + MINUTE


@pytest.mark.parametrize(
    ("into", "goes"), [(10, False), (54, False), (55, True), (59, True), (60 + 10, False), (118, True)]
)
def test_c10_w5_a_node_goes_only_at_the_end_of_a_paid_interval_and_waiting_is_no_failure(into: int, goes: bool) -> None:
    # CLUES reported the wait as a failed power-off; three of those stranded the node for ever.
    pool = make_pool(billing=Billing(interval_ms=HOUR, margin_ms=5 * MINUTE))
    node = make_node("cpu-1", paid_since_ms=NOW - into * MINUTE)
    plan = decide(make_snapshot(node), make_fleet(pool))
    assert removed(plan) == (["cpu-1"] if goes else [])
    if not goes:
        assert why_kept(plan, "cpu-1") == "its paid interval is not over"
        later = decide(make_snapshot(node, now_ms=plan.next_ms), make_fleet(pool))
        assert removed(later) == ["cpu-1"]


def test_c10_the_driver_s_not_yet_is_waited_for() -> None:
    plan = decide(make_snapshot(make_node("cpu-1", not_yet_until_ms=NOW + HOUR)), make_fleet())
    assert why_kept(plan, "cpu-1") == "not yet, said the driver"


def test_c6_the_minimum_stays_and_is_brought_up() -> None:
    fleet = make_fleet(make_pool(min=2))
    plan = decide(make_snapshot(*(make_node(f"cpu-{number}") for number in (1, 2, 3))), fleet)
    assert removed(plan) == ["cpu-1"]
    assert why_kept(plan, "cpu-2") == "pool cpu is at its minimum of 2 nodes"
    assert len(woken(decide(make_snapshot(), fleet))) == 2
    assert woken(decide(make_snapshot(make_node("cpu-1", S.USED), make_node("cpu-2", S.STARTING)), fleet)) == []


@pytest.mark.parametrize("state", [state for state in S if state not in {S.IDLE, S.FAILED_ON, S.FAILED_OFF}])
def test_c2_only_nodes_without_work_are_ever_taken_out(state: NodeState) -> None:
    pods = make_pods(1, node="cpu-1") if state is S.USED else ()
    plan = decide(make_snapshot(make_node("cpu-1", state), pods=pods), make_fleet())
    assert removed(plan) == []


@pytest.mark.parametrize("state", [S.IDLE, S.FAILED_ON, S.FAILED_OFF])
def test_c2_a_bound_pod_pins_its_node_whatever_the_record_says(state: NodeState) -> None:
    plan = decide(make_snapshot(make_node("cpu-1", state), pods=make_pods(1, node="cpu-1")), make_fleet())
    assert removed(plan) == []


@pytest.mark.parametrize("kind", [PodKind.DAEMON, PodKind.MIRROR])
def test_daemons_and_static_pods_are_no_work(kind: PodKind) -> None:
    plan = decide(make_snapshot(make_node("cpu-1"), pods=(make_pod(node="cpu-1", kind=kind),)), make_fleet())
    assert removed(plan) == ["cpu-1"]


def test_a_disabled_node_is_never_switched() -> None:
    plan = decide(make_snapshot(make_node("cpu-1", enabled=False)), make_fleet())
    assert plan.orders == ()
    assert "disabled" in why_kept(plan, "cpu-1")


def test_w19_a_node_that_was_promised_is_not_switched_off() -> None:
    # CLUES granted a node to a request and switched it off 5 s later: it had been idle long enough.
    node = make_node("cpu-1")
    granted = decide(make_snapshot(node, pods=make_pods(1, unschedulable=False)), make_fleet())
    assert removed(granted) == []
    five_later = make_snapshot(
        node, pods=make_pods(1, unschedulable=False), reservations=granted.reservations, now_ms=NOW + 5_000
    )
    assert removed(decide(five_later, make_fleet())) == []


@pytest.mark.parametrize(
    "broken",
    [
        {"nodes_view": View(as_of_ms=NOW - 31_000)},
        {"nodes_view": View(as_of_ms=NOW, complete=False)},
        {"pods_view": View(as_of_ms=NOW - 31_000)},
        {"pods_view": View(as_of_ms=NOW, complete=False)},
        {"provider_views": {"simulated": View(as_of_ms=NOW - 31_000)}},
        {"provider_views": {"simulated": View(as_of_ms=NOW, complete=False)}},
        {"provider_views": {}},
        {"nodes_view": View(as_of_ms=NOW + 3_600_000)},
    ],
)
def test_c1_w1_w2_nothing_is_done_on_a_stale_or_incomplete_view(broken: dict[str, object]) -> None:
    # CLUES read an API outage as "all off" and deleted every worker; a failed pod list as "all idle".
    snapshot = make_snapshot(make_node("cpu-1"), make_node("cpu-2", S.FAILED_ON), pods=make_pods(20), **broken)
    plan = decide(snapshot, make_fleet())
    assert plan.orders == ()
    assert plan.unhelped[0].reason
    assert "removals are frozen" in why_kept(plan, "cpu-1")
    assert any("frozen" in alarm for alarm in plan.alarms)


def test_c1_a_stale_backlog_freezes_removals_and_not_waking() -> None:
    stale = View(as_of_ms=NOW, complete=False)
    plan = decide(make_snapshot(make_node("cpu-1"), pods=make_pods(20), backlog_view=stale), make_fleet())
    assert removed(plan) == []
    assert len(woken(plan)) == 2


def test_c1_one_driver_s_outage_holds_its_own_pools_only() -> None:
    fleet = make_fleet(make_pool("a", driver="one"), make_pool("b", driver="two"))
    views = {"one": View(as_of_ms=NOW, complete=False), "two": View(as_of_ms=NOW)}
    plan = decide(make_snapshot(make_node("a-1"), make_node("b-1"), provider_views=views), fleet)
    assert removed(plan) == ["b-1"]


@pytest.mark.parametrize(("dark", "on", "frozen"), [(3, 3, False), (4, 2, True), (4, 20, False), (8, 16, True)])
def test_c1_mass_loss_freezes_every_removal_and_waking_goes_on(dark: int, on: int, frozen: bool) -> None:
    lost = [make_node(f"cpu-{number}", S.UNKNOWN) for number in range(dark)]
    used = [make_node(f"cpu-{100 + number}", S.USED) for number in range(on)]
    fleet = make_fleet(make_pool(max=100))
    plan = decide(make_snapshot(*lost, *used, make_node("cpu-99"), pods=make_pods(40, make_spec(8000))), fleet)
    assert len(woken(plan)) == 40 - on - 1
    quiet = decide(make_snapshot(*lost, *used, make_node("cpu-99")), fleet)
    assert removed(quiet) == ([] if frozen else ["cpu-99"])
    assert any("went dark within" in alarm for alarm in quiet.alarms) is frozen


def test_w3_w10_a_node_that_is_not_seen_is_left_alone_and_told() -> None:
    plan = decide(make_snapshot(make_node("cpu-1", S.UNKNOWN, dark_since_ms=NOW - HOUR)), make_fleet())
    assert plan.orders == ()
    assert "left alone" in why_kept(plan, "cpu-1")
    assert plan.alarms == ("node cpu-1 went dark; look at it, then reset or remove it",)


def test_c11_spare_nodes_are_kept_before_any_is_woken() -> None:
    pool = make_pool(spare=(Spare(nodes=2),))
    idle = [make_node(f"cpu-{number}", idle_since_ms=NOW - number * HOUR) for number in (1, 2, 3)]
    plan = decide(make_snapshot(*idle), make_fleet(pool))
    assert removed(plan) == ["cpu-3"]
    assert woken(plan) == []
    assert why_kept(plan, "cpu-1") == "spare: 2 nodes of pool cpu are kept free"
    back = decide(make_snapshot(idle[0], make_node("cpu-2", S.DRAINING)), make_fleet(pool))
    assert (orders(back, OrderKind.RELEASE), woken(back)) == (["cpu-2"], [])
    assert len(woken(decide(make_snapshot(idle[0]), make_fleet(pool)))) == 1


def test_c11_spare_is_bounded_and_what_lacks_is_told() -> None:
    pool = make_pool(max=2, max_booting=1, spare=(Spare(nodes=5),))
    plan = decide(make_snapshot(), make_fleet(pool))
    assert len(woken(plan)) == 1
    assert "4 are missing: pool cpu may start 1 nodes at once" in plan.alarms[0]


def test_c11_w20_spare_respects_disabled_hosts() -> None:
    pool = make_pool(hosts=("cpu-1", "cpu-2"), max=2, spare=(Spare(nodes=1),))
    nodes = [make_node("cpu-1", S.OFF, enabled=False), make_node("cpu-2", S.OFF)]
    assert woken(decide(make_snapshot(*nodes), make_fleet(pool))) == ["cpu-2"]


def test_c11_spare_amounts_count_the_room_on_nodes_with_work() -> None:
    pool = make_pool(spare=(Spare(amounts=(("cpu", 4000),)),))
    used = make_node("cpu-1", S.USED)
    roomy = make_snapshot(used, make_node("cpu-2"), pods=make_pods(2, node="cpu-1"))
    assert removed(decide(roomy, make_fleet(pool))) == ["cpu-2"]
    full = replace(roomy, pods=make_pods(7, node="cpu-1"))
    assert removed(decide(full, make_fleet(pool))) == []
    assert len(woken(decide(replace(full, nodes=(used,)), make_fleet(pool)))) == 1


def test_c11_spare_in_per_cent_follows_the_load_down_to_zero() -> None:
    pool = make_pool(spare=(Spare(percent=50),))
    nodes = [make_node("cpu-1", S.USED), make_node("cpu-2", S.USED)]
    busy = make_snapshot(*nodes, pods=(*make_pods(8, node="cpu-1"), *make_pods(8, node="cpu-2", prefix="q")))
    assert len(woken(decide(busy, make_fleet(pool)))) == 1
    assert decide(make_snapshot(), make_fleet(pool)).orders == ()


def test_c11_spare_by_calendar() -> None:
    # NOW is Friday 2027-01-15 08:00 UTC.
    office = Spare(nodes=1, days=(0, 1, 2, 3, 4), start_min=8 * 60, until_min=18 * 60)
    fleet = make_fleet(make_pool(spare=(office,)))
    assert len(woken(decide(make_snapshot(now_ms=NOW), fleet))) == 1
    before = decide(make_snapshot(now_ms=NOW - 1), fleet)
    assert before.orders == ()
    assert before.next_ms == NOW
    assert decide(make_snapshot(now_ms=NOW + 10 * HOUR), fleet).orders == ()
    assert decide(make_snapshot(now_ms=NOW + 24 * HOUR), fleet).orders == ()
    night = make_fleet(make_pool(spare=(replace(office, start_min=22 * 60, until_min=6 * 60),)))
    assert len(woken(decide(make_snapshot(now_ms=NOW + 15 * HOUR), night))) == 1
    # Saturday 03:00 belongs to the window that began on Friday; Sunday 03:00 to none.
    assert len(woken(decide(make_snapshot(now_ms=NOW + 19 * HOUR), night))) == 1
    assert decide(make_snapshot(now_ms=NOW + 43 * HOUR), night).orders == ()


def test_steering_empties_what_the_load_does_not_need_and_does_not_wander() -> None:
    nodes = [make_node(f"cpu-{number}", S.USED) for number in (1, 2, 3)]
    pods = tuple(make_pod(f"b{number}", make_spec(2000), node=f"cpu-{number}") for number in (1, 2, 3))
    plan = decide(make_snapshot(*nodes, pods=pods), make_fleet())
    assert plan.steered == {"cpu-2", "cpu-3"}
    heavier = replace(pods[1], spec=make_spec(2500))
    again = decide(make_snapshot(*nodes, pods=(pods[0], heavier, pods[2]), steered=plan.steered), make_fleet())
    assert again.steered == plan.steered
    loaded = (*pods, make_pod("b4", make_spec(6000), node="cpu-2"))
    assert len(decide(make_snapshot(*nodes, pods=loaded), make_fleet()).steered) == 1
    assert decide(make_snapshot(*nodes, pods=pods), make_fleet(steer=False)).steered == frozenset()
    assert decide(make_snapshot(*nodes, pods=pods), make_fleet(make_pool(min=3))).steered == frozenset()


STOP = make_order(OrderKind.REMOVE, "cpu-1")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"pods": make_pods(1, node="cpu-1")}, "1 pods run on node cpu-1"),
        ({"pods": (make_pod(node="cpu-1", kind=PodKind.DAEMON),)}, ""),
        ({"pods_view": View(as_of_ms=NOW - 40_000)}, "the pod list is incomplete or older than 30 s"),
        ({"provider_views": {}}, "the machine list of driver 'simulated' is incomplete or older than 30 s"),
        ({"backlog_view": View(as_of_ms=0)}, "the backlog is incomplete or older than 30 s"),
        ({"nodes": ()}, "node cpu-1 has no record"),
        ({"nodes": (make_node("cpu-1", S.USED),)}, "node cpu-1 is used"),
        ({"nodes": (make_node("cpu-1", S.UNKNOWN),)}, "node cpu-1 is unknown"),
        ({"nodes": (make_node("cpu-1", enabled=False),)}, "node cpu-1 was disabled"),
        (
            {"reservations": (Reservation(node="cpu-1", owners=("p",), until_ms=NOW + 1),)},
            "node cpu-1 was promised to 1 waiting",
        ),
        ({"reservations": (Reservation(node="cpu-1", owners=("p",), until_ms=NOW),)}, ""),
    ],
)
def test_c2_c13_the_last_look_before_a_power_off(changes: dict[str, object], why: str) -> None:
    snapshot = replace(make_snapshot(make_node("cpu-1", S.DRAINING)), **changes)
    assert recheck(STOP, snapshot, make_fleet()) == why


def test_c6_the_last_look_knows_the_bounds() -> None:
    both = make_snapshot(make_node("cpu-1", S.DRAINING), make_node("cpu-2"))
    assert recheck(STOP, both, make_fleet(make_pool(min=1))) == ""
    assert "minimum of 2" in recheck(STOP, both, make_fleet(make_pool(min=2)))
    add = make_order(OrderKind.ADD, "cpu-3")
    assert recheck(add, both, make_fleet()) == ""
    assert recheck(add, both, make_fleet(make_pool(max=2))) == "pool cpu is at its maximum of 2 nodes"
    written = make_snapshot(make_node("cpu-3", S.STARTING, generation=1))
    assert recheck(add, written, make_fleet(make_pool(max=1))) == "", "written down before it is sent: counted once"
    other = make_snapshot(make_node("cpu-3", S.STARTING, generation=2))
    assert recheck(add, other, make_fleet()) == "node cpu-3 is starting"
    assert recheck(make_order(OrderKind.RELEASE, "cpu-2"), both, make_fleet()) == "node cpu-2 is not on its way out"
    assert (
        recheck(make_order(OrderKind.ADD, "x-1", pool="gone"), both, make_fleet())
        == "pool gone is no longer configured"
    )


def test_memory_is_a_bound_like_any_other() -> None:
    plan = decide(make_snapshot(pods=make_pods(3, make_spec(100, 20 * GIB))), make_fleet())
    assert len(woken(plan)) == 3
