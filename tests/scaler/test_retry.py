from __future__ import annotations

import pytest
from msgspec.structs import replace

from penstock.ports import Outcome
from scaler.backoff import backoff_ms, pool_failed, pool_worked
from scaler.engine import decide
from scaler.model import NodeState, OrderKind, PoolRecord
from scaler.pools import Options
from tests.scaler.building import (
    HOUR,
    MINUTE,
    NOW,
    make_fleet,
    make_node,
    make_pods,
    make_pool,
    make_snapshot,
    orders,
    removed,
    why_kept,
    woken,
)

S = NodeState
HOSTS = make_fleet(make_pool(hosts=("cpu-1",), max=1))


def test_c12_a_node_that_did_not_come_up_is_switched_off_for_certain_first() -> None:
    failed = make_node("cpu-1", S.FAILED_ON, failures_on=1, backoff_until_ms=NOW + MINUTE)
    plan = decide(make_snapshot(failed, pods=make_pods(1)), HOSTS)
    assert orders(plan, OrderKind.STOP) == ["cpu-1"]
    made = decide(make_snapshot(failed), make_fleet())
    assert orders(made, OrderKind.REMOVE) == ["cpu-1"]
    assert made.orders[0].provider_id == "id-cpu-1"
    unlisted = decide(make_snapshot(replace(failed, provider_id="")), make_fleet())
    assert unlisted.orders == ()
    assert "has not listed it" in why_kept(unlisted, "cpu-1")


def test_c12_after_its_back_off_it_is_tried_again_for_demand() -> None:
    off = make_node("cpu-1", S.OFF, failures_on=2, backoff_until_ms=NOW + MINUTE)
    snapshot = make_snapshot(off, pods=make_pods(1))
    plan = decide(snapshot, HOSTS)
    assert plan.orders == ()
    assert plan.unhelped[0].reason == "1 hosts of pool cpu are off and wait after failed starts"
    assert plan.next_ms == NOW + MINUTE
    assert woken(decide(replace(make_snapshot(off, pods=make_pods(1), now_ms=plan.next_ms)), HOSTS)) == ["cpu-1"]


def test_w13_a_node_that_failed_too_often_is_probed_never_stuck() -> None:
    # CLUES: after three failures nothing but a person's reset freed the node.
    tries = HOSTS.options.tries
    off = make_node("cpu-1", S.OFF, failures_on=tries, since_ms=NOW)
    waiting = decide(make_snapshot(off, pods=make_pods(1)), HOSTS)
    assert waiting.orders == ()
    assert "only probed now and then" in why_kept(waiting, "cpu-1")
    assert waiting.next_ms == NOW + HOSTS.options.probe_ms
    probe = decide(make_snapshot(off, now_ms=waiting.next_ms), HOSTS)
    assert woken(probe) == ["cpu-1"]
    assert probe.orders[0].reason == f"probe after {tries} failed starts in a row"
    full = make_fleet(make_pool(hosts=("cpu-1", "cpu-2"), max=1))
    held = decide(make_snapshot(off, make_node("cpu-2", S.USED), now_ms=waiting.next_ms), full)
    assert held.orders == ()
    assert "its probe is due but pool cpu is at its maximum" in why_kept(held, "cpu-1")


def test_w13_a_node_that_did_not_go_off_is_tried_again_for_ever_ever_more_slowly() -> None:
    stuck = make_node("cpu-1", S.FAILED_OFF, failures_off=9, backoff_until_ms=NOW + MINUTE)
    assert removed(decide(make_snapshot(stuck), HOSTS)) == []
    assert removed(decide(make_snapshot(stuck, now_ms=NOW + MINUTE), HOSTS)) == ["cpu-1"]
    idle_again = make_node("cpu-1", failures_off=9, backoff_until_ms=NOW + MINUTE)
    assert "going off failed 9 times" in why_kept(decide(make_snapshot(idle_again), HOSTS), "cpu-1")
    assert removed(decide(make_snapshot(idle_again, now_ms=NOW + MINUTE), HOSTS)) == ["cpu-1"]


def test_disabled_failed_nodes_are_told_and_left() -> None:
    plan = decide(make_snapshot(make_node("cpu-1", S.FAILED_ON, enabled=False)), HOSTS)
    assert plan.orders == ()
    assert "disabled" in why_kept(plan, "cpu-1")


@pytest.mark.parametrize("outcome", list(Outcome))
def test_c12_only_what_speaks_of_the_pool_makes_the_pool_wait(outcome: Outcome) -> None:
    record = PoolRecord(name="a")
    after = pool_failed(record, outcome, NOW, Options())
    if outcome in {Outcome.NO_CAPACITY, Outcome.CREDENTIALS, Outcome.CONFIGURATION}:
        assert after.failures == 1
        assert NOW < after.backoff_until_ms <= NOW + Options().backoff_ms
        assert after.why == outcome.value
        assert pool_worked(after) == record
    else:
        assert after == record


def test_c12_back_off_doubles_is_capped_and_spreads() -> None:
    options = Options()
    for failures in (1, 2, 5, 40):
        nominal = min(options.backoff_limit_ms, options.backoff_ms * 2 ** (failures - 1))
        waits = {backoff_ms(f"n{number}", failures, options) for number in range(50)}
        assert len(waits) > 40
        assert all(nominal // 2 <= wait <= nominal for wait in waits)
    assert backoff_ms("n", 3, options) == backoff_ms("n", 3, options)
    assert options.probe_ms == 6 * HOUR
