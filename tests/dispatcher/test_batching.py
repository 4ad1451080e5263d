"""How long lists are, and what they would gain."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.batching import Pace, gain, ideal_items, list_size
from dispatcher.plan import make_plan
from dispatcher.settings import DispatcherSettings
from dispatcher.slots import Slots
from penstock.model import Batch, BatchMode, Resources, UploadOnFailure
from penstock.ports import Room
from tests.dispatcher.test_lifecycle import _planned
from tests.factories import make_function

SETTINGS = DispatcherSettings()
LIST_50 = Batch(mode=BatchMode.LIST, max_items=50)
AUTO = Batch(mode=BatchMode.AUTO)


def _pace(start_s: float, item_s: float) -> Pace:
    return Pace(start_s=start_s, item_s=item_s, samples=10)


def test_single_is_one_whatever_waits() -> None:
    assert list_size(Batch(), _pace(30, 0.1), due=1000, free_slots=1, settings=SETTINGS) == 1


def test_a_list_is_shared_out_among_the_free_slots() -> None:
    assert list_size(LIST_50, Pace(), due=1000, free_slots=2, settings=SETTINGS) == 50
    assert list_size(LIST_50, Pace(), due=10, free_slots=2, settings=SETTINGS) == 5
    assert list_size(LIST_50, Pace(), due=1, free_slots=4, settings=SETTINGS) == 1


def test_auto_begins_with_one_and_grows_with_the_cost_of_starting() -> None:
    assert ideal_items(Pace(), SETTINGS) == 1
    assert ideal_items(_pace(3.6, 10.0), SETTINGS) == 3
    assert ideal_items(_pace(3.6, 0.5), SETTINGS) == 60, "not longer than auto_max_s of work"
    assert ideal_items(_pace(30.0, 0.001), SETTINGS) == SETTINGS.auto_max_items


@given(st.floats(0, 1000), st.floats(0, 1000), st.integers(1, 10**6), st.integers(0, 100))
def test_a_list_is_never_empty_nor_longer_than_what_is_due(start: float, item: float, due: int, free: int) -> None:
    for batch in (Batch(), LIST_50, AUTO):
        size = list_size(batch, _pace(start, item), due=due, free_slots=free, settings=SETTINGS)
        assert 1 <= size <= max(1, due)


def test_gain_compares_one_item_per_start_with_the_ideal_list() -> None:
    assert gain(Pace(), SETTINGS) == 1.0
    assert gain(_pace(3.6, 0.4), SETTINGS) == pytest.approx(4.0 / (3.6 / 75 + 0.4), rel=0.01)


def test_pace_follows_a_change() -> None:
    pace = Pace()
    for _ in range(50):
        pace.observe(start_s=1.0, item_s=2.0)
    for _ in range(50):
        pace.observe(start_s=None, item_s=4.0)
    assert pace.item_s == pytest.approx(4.0, rel=0.02)
    assert pace.start_s == pytest.approx(1.0)


def test_slots_count_processors_and_memory() -> None:
    slots = Slots(Room(cpu_millis=2000, memory_bytes=1000))
    half = make_plan(make_function(resources=Resources(cpu_millis=500)), [_planned()])
    hungry = make_plan(make_function("h", resources=Resources(cpu_millis=9000, memory_bytes=700)), [_planned()])
    assert slots.needs(hungry) == (2000, 700), "what asks for more than there is takes all"
    slots.take(half)
    slots.take(half)
    assert slots.cpu_millis == 500, "taken once per Job"
    assert slots.free(500) == 3
    assert not slots.fits(hungry)
    slots.give_back(half.name)
    slots.give_back(half.name)
    assert slots.cpu_millis == 0
    assert slots.fits(hungry)


def test_the_plan_is_the_same_for_the_same_records() -> None:
    function, records = make_function(), [_planned(), _planned(attempt=2)]
    assert make_plan(function, records) == make_plan(function, records)
    assert make_plan(function, records).name != make_plan(function, records[:1]).name


def test_outputs_of_a_failure_are_published_on_the_last_attempt_only() -> None:
    def publishes(**changes: Any) -> bool:
        function = make_function(**changes)
        return make_plan(function, [_planned(script_failures=0)]).items[0].publish_on_failure

    assert publishes()
    assert not publishes(retries=1)
    assert not publishes(upload_on_failure=UploadOnFailure.NEVER)
