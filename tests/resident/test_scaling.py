"""How many pods there are: never beyond the bounds, never fewer while anybody waits, and none in the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.resident.scaling import Bounds, Load, PodUse, bounds, lowered, needed, raised
from penstock.model import Function, Limits, Scale

LIMITS = st.tuples(st.integers(0, 8), st.integers(1, 8)).map(lambda pair: Bounds(min(pair), max(pair)))
LOADS = st.builds(Load, waiting=st.integers(0, 60), mine=st.integers(0, 30), others=st.integers(0, 10))
USES = st.lists(st.builds(PodUse, idle_s=st.floats(0, 600)), max_size=10)
IDLE_S = 300.0


def function(low: int = 0, high: int = 0, concurrency: int = 0, *, paused: bool = False) -> Function:
    scale, limits = Scale(min_scale=low, max_scale=high), Limits(concurrency=concurrency)
    return Function(name="f", synchronous=scale, limits=limits, paused=paused)


def test_the_bounds_are_the_function_s_within_the_installation_s() -> None:
    assert bounds(function(), slots=1, most=20) == Bounds(0, 20), "0 = as many as the installation allows"
    assert bounds(function(2, 5), slots=1, most=20) == Bounds(2, 5)
    assert bounds(function(30, 50), slots=1, most=20) == Bounds(20, 20)
    assert bounds(function(0, 5, concurrency=2), slots=1, most=20) == Bounds(0, 2)
    assert bounds(function(0, 5, concurrency=4), slots=4, most=20) == Bounds(0, 1)
    assert bounds(function(0, 5, concurrency=1), slots=4, most=20) == Bounds(0, 1), "one pod at least"
    assert bounds(function(2, paused=True), slots=1, most=20) == Bounds(0, 20), "nothing is kept warm"


def test_everything_that_waits_or_runs_has_a_slot() -> None:
    limits = Bounds(0, 10)
    assert needed(Load(waiting=0), limits, slots=1) == 0
    assert needed(Load(waiting=3, mine=2), limits, slots=1) == 5
    assert needed(Load(waiting=3, mine=2), limits, slots=2) == 3
    assert needed(Load(waiting=1, others=4), limits, slots=1) == 5, "what others use is not ours to take"
    assert needed(Load(waiting=100), limits, slots=1) == 10


@given(current=st.integers(0, 12), load=LOADS, limits=LIMITS, slots=st.integers(1, 4))
def test_raising_is_within_the_bounds_and_only_up(current: int, load: Load, limits: Bounds, slots: int) -> None:
    more = raised(current, load, limits, slots=slots)
    if more is None:
        assert current >= needed(load, limits, slots=slots)
    else:
        assert current < more <= limits.high
        assert raised(more, load, limits, slots=slots) is None, "once is enough"


@given(current=st.integers(0, 12), uses=USES, load=LOADS, limits=LIMITS)
def test_lowering_takes_idle_pods_only(current: int, uses: list[PodUse], load: Load, limits: Bounds) -> None:
    fewer = lowered(current, uses, load, limits, idle_s=IDLE_S)
    if fewer is None:
        return
    assert limits.low <= fewer < current
    if current <= limits.high:
        assert not load.waiting
        assert current - fewer <= sum(use.idle_s >= IDLE_S for use in uses)


@given(limits=LIMITS, data=st.data())
def test_without_any_use_it_comes_down_to_its_least_and_stays(limits: Bounds, data: st.DataObject) -> None:
    current = data.draw(st.integers(limits.low, limits.high))
    quiet = Load(waiting=0)
    idle = [PodUse(idle_s=IDLE_S)] * current
    fewer = lowered(current, idle, quiet, limits, idle_s=IDLE_S)
    assert (current if fewer is None else fewer) == limits.low
    assert raised(limits.low, quiet, limits, slots=1) is None


def test_a_lower_max_scale_takes_pods_away_though_they_are_used() -> None:
    assert lowered(5, [PodUse()] * 5, Load(waiting=3), Bounds(0, 2), idle_s=IDLE_S) == 2
