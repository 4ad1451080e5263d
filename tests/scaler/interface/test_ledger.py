"""C16: energy and money of real nodes beside always on, with the price in waiting and switching."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.control import NodeInfo
from scaler.interface.ledger import Books, Ledger, load_of, month_of, report
from scaler.model import NodeState, Reservation, ScalePlan
from tests.scaler.building import make_fleet, make_pool

NOW = int(datetime(2026, 11, 10, 12, tzinfo=UTC).timestamp() * 1000)
SECOND, HOUR = 1000, 3_600_000
HOSTS = ("n1", "n2", "n3")
FLEET = make_fleet(make_pool(hosts=HOSTS, max=3, price_per_hour=2.0))
S = NodeState


def node(name: str, state: NodeState = S.OFF, cpu: int = 0, **fields: Any) -> NodeInfo:
    return NodeInfo(
        name=name,
        pool="cpu",
        state=state,
        enabled=True,
        offers=(("cpu", 8000),),
        used=(("cpu", cpu),) if cpu else (),
        **fields,
    )


def looked(ledger: Ledger, nodes: list[NodeInfo], *, hours: float, step_s: int = 10, start: int = NOW) -> int:
    """Looks at unchanging nodes for so long; returns the time of the last look."""
    now, end = start, start + round(hours * HOUR)
    while now <= end:
        ledger.look(now, nodes)
        now += step_s * SECOND
    return now - step_s * SECOND


def test_c16_an_hour_by_hand() -> None:
    ledger = Ledger(FLEET)
    looked(ledger, [node("n1", S.USED, 4000), node("n2", S.STARTING), node("n3")], hours=1)
    found = report(ledger.books, FLEET, "2026-11", energy_price=0.5)
    # Half load of 100 to 250 W, booting at 150 W, off at 5 W.
    assert found.total.kwh == pytest.approx((175 + 150 + 5) / 1000)
    # Always on: three at idle, and what the work adds.
    assert found.total.baseline_kwh == pytest.approx((300 + 75) / 1000)
    assert found.total.saved_share == pytest.approx(1 - 330 / 375)
    assert found.total.money == pytest.approx(2 * 2.0 + 0.33 * 0.5)
    assert found.total.baseline_money == pytest.approx(3 * 2.0 + 0.375 * 0.5)
    assert found.total.node_hours == pytest.approx({"off": 1, "starting": 1, "used": 1})
    assert found.total.core_hours == pytest.approx(4)
    assert found.measured_share == 1.0


def test_c16_a_node_whose_power_is_not_known_is_taken_to_be_on() -> None:
    for state in (S.UNKNOWN, S.FAILED_ON, S.FAILED_OFF, S.DRAINING, S.IDLE):
        ledger = Ledger(FLEET)
        looked(ledger, [node("n1", state)], hours=1)
        # The two that are not listed are off.
        assert report(ledger.books, FLEET, "2026-11").total.kwh == pytest.approx(0.11), state


def test_machines_that_are_deleted_draw_nothing() -> None:
    fleet = make_fleet(make_pool(max=4))
    ledger = Ledger(fleet)
    looked(ledger, [node("cpu-1", S.IDLE)], hours=1)
    found = report(ledger.books, fleet, "2026-11")
    assert (found.total.kwh, found.total.baseline_kwh) == pytest.approx((0.1, 0.4))


def test_time_that_nobody_looked_at_is_unmeasured_and_a_clock_that_goes_back_is_not_entered() -> None:
    ledger = Ledger(FLEET)
    nodes = [node("n1", S.IDLE)]
    end = looked(ledger, nodes, hours=1)
    again = Ledger(FLEET, ledger.books)
    later = looked(again, nodes, hours=1, start=end + 2 * HOUR)
    again.look(later - HOUR, nodes)
    found = report(again.books, FLEET, "2026-11")
    assert found.total.node_hours["idle"] == pytest.approx(2)
    assert found.measured_share == pytest.approx(0.5)


def test_starts_and_failed_starts_are_counted_once_also_over_a_restart() -> None:
    ledger = Ledger(FLEET)
    ledger.look(NOW, [node("n1", cycles=7, failures_on=1)])
    ledger.look(NOW + SECOND, [node("n1", S.STARTING, cycles=8, failures_on=1)])
    ledger.look(NOW + 2 * SECOND, [node("n1", S.FAILED_ON, cycles=8, failures_on=2)])
    stored = msgspec.json.decode(msgspec.json.encode(ledger.books), type=Books)
    again = Ledger(FLEET, stored)
    again.look(NOW + 3 * SECOND, [node("n1", S.IDLE, cycles=9), node("new", cycles=1)])
    total = report(again.books, FLEET, "2026-11").total
    assert (total.starts, total.failed_starts) == (3, 1)


def plan(*promises: tuple[str, tuple[str, ...]], until_ms: int = NOW + HOUR) -> ScalePlan:
    made = tuple(Reservation(node=name, owners=owners, until_ms=until_ms) for name, owners in promises)
    return ScalePlan(now_ms=NOW, reservations=made)


def test_c16_the_price_in_waiting_stands_beside() -> None:
    ledger = Ledger(FLEET)
    starting, ready = [node("n1", S.STARTING)], [node("n1", S.USED)]
    ledger.look(NOW, starting, plan(("n1", ("a", "b")), ("n2", ("c",))))
    ledger.look(NOW + 40 * SECOND, starting, plan(("n1", ("a", "b")), ("n2", ("c",))))
    # c went away; then the node is ready, and its promise no longer makes anybody wait.
    ledger.look(NOW + 50 * SECOND, starting, plan(("n1", ("a", "b"))))
    ledger.look(NOW + 100 * SECOND, ready, plan(("n1", ("a", "b"))))
    found = report(ledger.books, FLEET, "2026-11")
    assert (found.waited, found.wait_p50_s, found.wait_p95_s, found.wait_max_s) == (3, 100, 100, 100)
    ledger.look(NOW + 101 * SECOND, starting, plan(("n1", ("d",))))
    ledger.look(NOW + 103 * SECOND, starting, plan())
    found = report(ledger.books, FLEET, "2026-11")
    assert (found.waited, found.wait_p50_s) == (4, 60)
    assert report(ledger.books, FLEET, "2026-10").waited == 0


def test_months_are_apart_and_old_ones_are_forgotten() -> None:
    ledger = Ledger(FLEET)
    for month in (9, 10, 11):
        looked(
            ledger, [node("n1", S.IDLE)], hours=0.1, start=int(datetime(2026, month, 1, tzinfo=UTC).timestamp()) * 1000
        )
    assert report(ledger.books, FLEET, "2026-10").months == ("2026-09", "2026-10", "2026-11")
    ledger.forget(2)
    assert sorted(ledger.books.months) == ["2026-10", "2026-11"]
    assert month_of(0) == "1970-01"


@given(
    states=st.lists(
        st.tuples(st.sampled_from(list(S)), st.integers(0, 9000), st.integers(0, 50)), min_size=2, max_size=40
    )
)
def test_the_books_balance(states: list[tuple[NodeState, int, int]]) -> None:
    ledger = Ledger(FLEET)
    now = NOW
    for state, cpu, seconds in states:
        now += seconds * SECOND
        ledger.look(now, [node("n1", state, cpu), node("n2")])
    found = report(ledger.books, FLEET, "2026-11")
    wall_h = (now - NOW - states[0][2] * SECOND) / HOUR
    assert sum(found.total.node_hours.values()) == pytest.approx(3 * wall_h)
    low, high = 5 * 3 * wall_h / 1000, (250 + 10) * wall_h / 1000
    assert low - 1e-9 <= found.total.kwh <= high + 1e-9
    assert 0 <= load_of(node("n1", S.USED, states[0][1])) <= 1
