"""The model of CLUES against its published rules, one test a rule: the comparison must be fair."""

from __future__ import annotations

from typing import Any

import pytest

from scaler.simulate.clues import (
    CluesJob,
    CluesNode,
    CluesOptions,
    CluesRequest,
    Pass,
    Queue,
    RequestState,
    State,
    purge,
    reconsider_jobs,
    recover,
    report,
    run_pass,
)
from scaler.simulate.theirs import Clues
from scaler.simulate.world import World
from tests.scaler.building import make_fleet, make_pool

S, R = State, RequestState
NOW = 10_000_000
SECOND = 1000
OPTIONS = CluesOptions()


def node(name: str = "n1", state: State = S.IDLE, free: int = 4, **changes: Any) -> CluesNode:
    fields: dict[str, Any] = {"name": name, "total": (4,), "free": [free], "state": state, "since_ms": NOW}
    return CluesNode(**(fields | changes))


def request(number: int = 1, cores: int = 1, **changes: Any) -> CluesRequest:
    fields: dict[str, Any] = {"id": number, "job": f"j{number}", "need": (cores,), "since_ms": NOW}
    return CluesRequest(**(fields | changes))


def power_on(nodes: list[CluesNode], *requests: CluesRequest, **options: Any) -> Pass:
    one = Pass(nodes, list(requests), NOW, CluesOptions(**options))
    one.pow_on_requests()
    return one


# 1.2 and 1.3: node states


@pytest.mark.parametrize(
    ("state", "seen", "age", "after"),
    [
        (S.IDLE, S.USED, 0, S.USED),
        (S.USED, S.OFF, 0, S.OFF),
        (S.OFF, S.IDLE, 0, S.IDLE),
        (S.IDLE, S.UNKNOWN, 0, S.UNKNOWN),
        (S.POW_ON, S.IDLE, 9, S.POW_ON),
        (S.POW_ON, S.IDLE, 10, S.IDLE),
        (S.POW_ON, S.OFF, 300, S.POW_ON),
        (S.POW_ON, S.OFF, 301, S.OFF_ERR),
        (S.POW_OFF, S.OFF, 9, S.POW_OFF),
        (S.POW_OFF, S.OFF, 10, S.OFF),
        (S.POW_OFF, S.IDLE, 300, S.POW_OFF),
        (S.POW_OFF, S.USED, 301, S.ON_ERR),
        (S.ON_ERR, S.IDLE, 999, S.ON_ERR),
        (S.ON_ERR, S.OFF, 0, S.OFF),
        (S.OFF_ERR, S.OFF, 999, S.OFF_ERR),
        (S.OFF_ERR, S.IDLE, 0, S.IDLE),
        (S.UNKNOWN, S.OFF, 0, S.OFF),
    ],
)
def test_monitor(state: State, seen: State, age: int, after: State) -> None:
    one = node(state=state)
    changed = report(one, seen, NOW + age * SECOND, OPTIONS)
    assert one.state is after
    assert changed is (after is not state)


def test_counters_and_clocks_on_entering_a_state() -> None:
    one = node(state=S.POW_ON, failures_on=2)
    report(one, S.USED, NOW + 20 * SECOND, OPTIONS)
    assert (one.failures_on, one.on_since_ms, one.since_ms) == (0, NOW + 20 * SECOND, NOW + 20 * SECOND)
    report(one, S.IDLE, NOW + 30 * SECOND, OPTIONS)
    assert (one.on_since_ms, one.since_ms) == (NOW + 20 * SECOND, NOW + 30 * SECOND)
    failed = node(state=S.POW_ON)
    report(failed, S.OFF, NOW + 301 * SECOND, OPTIONS)
    assert failed.failures_on == 1


def test_recovery_up_to_the_limit_and_forced_idle_looks_like_a_fresh_start() -> None:
    on_err, off_err = node("a", S.ON_ERR, failures_off=2), node("b", S.OFF_ERR, failures_on=2)
    assert recover([on_err, off_err], NOW, OPTIONS)
    assert (on_err.state, on_err.since_ms, on_err.on_since_ms, on_err.failures_off) == (S.IDLE, NOW, NOW, 2)
    assert (off_err.state, off_err.failures_on) == (S.OFF, 2)
    stuck = [node("a", S.ON_ERR, failures_off=3), node("b", S.OFF_ERR, failures_on=3)]
    assert not recover(stuck, NOW, OPTIONS)


# 1.3: commands


@pytest.mark.parametrize("state", list(S))
def test_power_on_changes_nothing_on_nodes_that_are_on_or_coming(state: State) -> None:
    assert _commanded(state, on=True) is (state if state in {S.IDLE, S.USED, S.POW_ON, S.ON_ERR} else S.POW_ON)


@pytest.mark.parametrize("state", list(S))
def test_power_off_changes_nothing_on_nodes_that_are_off_or_going(state: State) -> None:
    assert _commanded(state, on=False) is (state if state in {S.OFF, S.POW_OFF, S.OFF_ERR} else S.POW_OFF)


def _commanded(state: State, *, on: bool) -> State:
    controller = Clues()
    World(make_fleet(make_pool(hosts=("n1",), max=1)), [], controller)
    controller._by_name["n1"].state = state
    controller._order("n1", on=on)
    return controller._by_name["n1"].state


# 3: PowOn_Requests


def test_step_1_room_on_nodes_that_are_on_serves_the_first_and_blocks_later_ones() -> None:
    first, second = request(1), request(2)
    one = power_on([node(state=S.ON_ERR)], first, second)
    assert (first.state, second.state, one.on) == (R.SERVED, R.SERVED, [])
    waiting = request(1, 8, state=R.ATTENDED)
    later = request(2)
    one = power_on([node()], waiting, later)
    assert later.state is R.BLOCKED
    assert one.free["n1"] == [3], "allocated either way"


def test_step_2_a_booting_node_attends() -> None:
    one = request()
    assert power_on([node(state=S.POW_ON)], one).on == []
    assert one.state is R.ATTENDED
    assert one.booked == [("n1", 1)]


def test_steps_3_and_4_further_nodes_by_list_order_and_chosen_ones_first() -> None:
    nodes = [node("n1", S.OFF, enabled=False), node("n2", S.OFF), node("n3", S.OFF)]
    requests = [request(1, 3), request(2, 1), request(3, 2)]
    one = power_on(nodes, *requests)
    assert one.on == ["n2", "n3"]
    assert [entry.booked for entry in requests] == [[("n2", 1)], [("n2", 1)], [("n3", 1)]]


def test_step_5_a_node_that_is_going_off_is_ordered_on_in_the_same_pass() -> None:
    assert power_on([node(state=S.POW_OFF)], request()).on == ["n1"]


def test_failed_nodes_are_never_candidates() -> None:
    one = request()
    assert power_on([node(state=S.OFF_ERR)], one).on == []
    assert one.state is R.BLOCKED


def test_step_6_not_served_if_no_node_holds_one_task_else_blocked() -> None:
    hopeless, oversize = request(1, 5), request(2, 4, tasks=3)
    power_on([node(state=S.OFF)], hopeless, oversize)
    assert (hopeless.state, oversize.state) == (R.NOT_SERVED, R.BLOCKED)


def test_step_6_the_pass_ends_when_an_earlier_request_is_alive() -> None:
    attended, hopeless, fits = request(1, 4), request(2, 9), request(3, 4)
    one = power_on([node("n1", S.OFF), node("n2", S.OFF)], attended, hopeless, fits)
    assert one.on == ["n1"]
    assert (attended.state, hopeless.state, fits.state) == (R.ATTENDED, R.PENDING, R.PENDING)


def test_the_boot_limit_stops_the_whole_pass_and_one_request_may_overshoot_it() -> None:
    nodes = [node(f"n{number}", S.OFF) for number in range(6)]
    wide, narrow = request(1, 4, tasks=3), request(2, 4)
    one = power_on(nodes, wide, narrow, max_booting=2)
    assert len(one.on) == 3
    assert narrow.state is R.PENDING


def test_a_gang_fits_at_once_or_not_with_a_limit_per_node() -> None:
    nodes = [node("n1", S.OFF), node("n2", S.OFF)]
    gang = request(1, 1, tasks=4, per_node=2)
    assert power_on(nodes, gang).on == ["n1", "n2"]
    assert gang.booked == [("n1", 2), ("n2", 2)]


# 3: bookings


def test_an_attended_request_holds_its_nodes_while_one_is_on_its_way_and_returns_to_pending_after() -> None:
    held = request(state=R.ATTENDED, booked=[("n1", 1)], since_ms=NOW - SECOND)
    one = Pass([node(state=S.POW_ON)], [held], NOW, OPTIONS)
    one.book(set(), NOW)
    assert (one.free["n1"], held.state) == ([3], R.ATTENDED)
    ready = Pass([node(state=S.IDLE)], [held], NOW, OPTIONS)
    ready.book(set(), NOW)
    assert (ready.free["n1"], held.state, held.booked) == ([4], R.PENDING, [])


def test_a_served_request_holds_its_room_for_the_cooldown_or_until_its_job_starts() -> None:
    served = request(state=R.SERVED, booked=[("n1", 1)])
    for later, started, free in ((119, set(), 3), (120, set(), 4), (1, {"j1"}, 4)):
        one = Pass([node()], [request(state=R.SERVED, booked=list(served.booked))], NOW + later * SECOND, OPTIONS)
        one.book(started, NOW)
        assert one.free["n1"] == [free]


# 3: the other schedulers


def test_reconsider_jobs_needs_a_minute_and_no_live_or_late_request() -> None:
    queue = Queue(jobs={"j1": CluesJob("j1", (1,), since_ms=NOW)})
    reconsider_jobs(queue, NOW + 60 * SECOND, OPTIONS)
    assert queue.requests == []
    reconsider_jobs(queue, NOW + 61 * SECOND, OPTIONS)
    assert [(entry.job, entry.state) for entry in queue.requests] == [("j1", R.PENDING)]
    reconsider_jobs(queue, NOW + 200 * SECOND, OPTIONS)
    assert len(queue.requests) == 1
    queue.requests[0].state, queue.requests[0].since_ms = R.SERVED, NOW + 200 * SECOND
    reconsider_jobs(queue, NOW + 260 * SECOND, OPTIONS)
    assert len(queue.requests) == 1
    reconsider_jobs(queue, NOW + 261 * SECOND, OPTIONS)
    assert len(queue.requests) == 2


def test_idle_nodes_go_whatever_is_booked_on_them() -> None:
    old = NOW - 1801 * SECOND
    nodes = [
        node("old", since_ms=old),
        node("new", since_ms=NOW - 1800 * SECOND),
        node("used", S.USED, since_ms=old),
        node("disabled", since_ms=old, enabled=False),
    ]
    booked = request(state=R.SERVED, booked=[("old", 1)])
    off, _ = run_pass(Queue(requests=[booked]), nodes, NOW, OPTIONS)
    assert off == ["old"]
    assert run_pass(Queue(), nodes, NOW, CluesOptions(cooldown_nodes_ms=NOW))[0] == []


def test_warm_spare_rescues_first_and_then_wakes_by_name() -> None:
    old = NOW - 1801 * SECOND
    nodes = [node("b", since_ms=old), node("a", since_ms=old), node("d", S.OFF), node("c", S.OFF_ERR, failures_on=1)]
    off, on = run_pass(Queue(), nodes, NOW, CluesOptions(extra_nodes=1))
    assert (off, on) == (["b"], [])
    off, on = run_pass(Queue(), nodes, NOW, CluesOptions(extra_nodes=3))
    assert (off, on) == ([], ["d"])


def test_a_new_request_is_looked_at_in_the_next_pass() -> None:
    queue = Queue(jobs={"j1": CluesJob("j1", (1,), since_ms=NOW - 61 * SECOND)})
    nodes = [node(state=S.OFF)]
    assert run_pass(queue, nodes, NOW, OPTIONS) == ([], [])
    assert run_pass(queue, nodes, NOW + 5 * SECOND, OPTIONS) == ([], ["n1"])


def test_requests_are_purged_after_the_cooldown() -> None:
    requests = [request(1, state=R.SERVED), request(2), request(3, state=R.NOT_SERVED)]
    purge(requests, NOW + 120 * SECOND, OPTIONS)
    assert len(requests) == 3
    purge(requests, NOW + 121 * SECOND, OPTIONS)
    assert [entry.id for entry in requests] == [2]
