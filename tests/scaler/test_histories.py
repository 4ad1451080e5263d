from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaler.model import NodeState
from scaler.pools import Fleet, Spare
from tests.scaler.building import MINUTE, make_fleet, make_pool
from tests.scaler.history import History

HOSTS = tuple(f"host-{number}" for number in range(6))
FLEETS = {
    "hosts": make_fleet(make_pool("cpu", hosts=HOSTS, max=5, min=1, max_booting=2, idle_ms=2 * MINUTE)),
    "made": make_fleet(make_pool("cpu", max=4, idle_ms=MINUTE)),
    "both": make_fleet(
        make_pool("cpu", hosts=HOSTS[:3], max=3, idle_ms=MINUTE, weight=1),
        make_pool("cloud", max=3, idle_ms=MINUTE, spare=(Spare(nodes=1),)),
    ),
}
ACTIONS: dict[str, Callable[[History, int], None]] = {
    name: getattr(History, name)
    for name in (
        *(
            "submit",
            "finish",
            "lose",
            "flap",
            "stick",
            "cut_api",
            "cut_provider",
            "heal",
            "wait",
            "tick",
            "send",
            "restart",
        ),
    )
}
#: Most steps are the ordinary life of a scaler; otherwise no history gets far.
STEPS = st.tuples(
    st.sampled_from([*ACTIONS, *("wait", "tick", "send") * 3, "finish", "submit"]),
    st.integers(min_value=0, max_value=20),
)


@pytest.mark.parametrize("fleet", FLEETS.values(), ids=FLEETS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, min_size=20, max_size=100))
def test_c1_c2_c3_c6_no_history_powers_off_work_exceeds_a_bound_or_acts_blindly(
    fleet: Fleet, steps: list[tuple[str, int]]
) -> None:
    history = History(fleet)
    for name, argument in steps:
        ACTIONS[name](history, argument)


@pytest.mark.parametrize("fleet", FLEETS.values(), ids=FLEETS)
def test_c1_c2_c3_c6_nor_does_a_long_one(fleet: Fleet) -> None:
    """Deeper than what can be shrunk: an idle node must be reached, and then a race about it."""
    rng = Random(7)
    names = [*ACTIONS, *("wait", "tick", "send", "finish") * 4, *("heal", "submit", "tick", "send")]
    removals = 0
    for _ in range(100):
        history = History(fleet)
        for _ in range(300):
            ACTIONS[rng.choice(names)](history, rng.randrange(16))
        removals += history.removals
    assert removals > 300, "histories in which nothing is taken out prove nothing"


@pytest.mark.parametrize("fleet", FLEETS.values(), ids=FLEETS)
def test_an_ordinary_day_scales_up_and_back_down(fleet: Fleet) -> None:
    """The histories above would hold too if nothing ever happened; here it must."""
    history = History(fleet)
    history.tick(0)
    history.submit(5)
    for _ in range(60):
        history.wait(5)
        history.tick(0)
        history.send(0)
    assert all(pod.node for pod in history.pods.values())
    history.pods.clear()
    for _ in range(60):
        history.wait(5)
        history.tick(0)
        history.send(0)
    kept = sum(max(pool.min, *(spare.nodes for spare in pool.spare), 0) for pool in fleet.pools)
    assert sum(machine.power != "off" for machine in history.machines.values()) == kept
    assert history.powered_off > 0


def test_w1_an_api_outage_of_a_minute_kills_no_worker_and_makes_no_duplicate() -> None:
    # CLUES: two busy workers gone some 35 s into an outage.
    history = History(FLEETS["made"])
    history.submit(5)
    for _ in range(40):
        history.wait(5)
        history.tick(0)
        history.send(0)
    machines = dict(history.machines)
    assert machines
    for kind in (0, 1, 2):
        history.cut_api(kind)
        for step in range(20):
            history.wait(3)
            history.tick(0)
            history.send(0)
            if step == 7:
                history.restart(0)
        history.cut_api(0)
        history.wait(1)
        history.tick(0)
        history.send(0)
    assert history.machines.keys() == machines.keys()
    assert history.removals == 0
    assert {node.state for node in history.stored.nodes} <= {NodeState.USED, NodeState.IDLE}


def test_w3_a_provider_outage_forgets_no_machine() -> None:
    history = History(FLEETS["made"])
    history.submit(5)
    for _ in range(40):
        history.wait(5)
        history.tick(0)
        history.send(0)
    names = set(history.machines)
    for kind in (0, 1, 2):
        history.cut_provider(kind)
        for _ in range(20):
            history.wait(4)
            history.submit(3)
            history.tick(0)
            history.send(0)
        assert set(history.machines) == names
        history.cut_provider(0)
