"""Planned Jobs wait per function."""

from __future__ import annotations

from dataclasses import dataclass

from dispatcher.admission import Lane
from dispatcher.ahead import Ahead
from dispatcher.batching import Pace
from dispatcher.plan import make_plan
from dispatcher.slots import Slots
from penstock.model import Batch, BatchMode, JobPlan, Limits
from penstock.ports import Room
from tests.dispatcher.test_lifecycle import _planned
from tests.factories import NOW, make_function


@dataclass
class Job:
    plan: JobPlan
    not_before_ms: int = 0


def _job(name: str, attempt: int = 1, not_before_ms: int = 0) -> Job:
    return Job(make_plan(make_function(name), [_planned(attempt=attempt)]), not_before_ms)


def test_each_function_has_its_own_order() -> None:
    ahead: Ahead[Job] = Ahead()
    first, second, other = _job("a"), _job("a", 2), _job("b")
    for job in (first, second, other):
        ahead.push(job)
    assert (len(ahead), ahead.count("uid-a"), ahead.count("uid-b"), ahead.count("uid-c")) == (3, 2, 1, 0)
    assert set(ahead.ready(NOW)) == {"uid-a", "uid-b"}
    assert ahead.first("uid-a") is first
    assert [ahead.pop("uid-a"), ahead.pop("uid-a")] == [first, second]
    assert ahead.ready(NOW) == ["uid-b"]


def test_a_refused_job_waits_for_its_moment_and_holds_up_its_own_function_alone() -> None:
    ahead: Ahead[Job] = Ahead()
    ahead.push(_job("a", not_before_ms=NOW + 10))
    ahead.push(_job("b"))
    assert ahead.ready(NOW) == ["uid-b"]
    assert ahead.next_due(NOW) == NOW + 10
    assert set(ahead.ready(NOW + 10)) == {"uid-a", "uid-b"}
    assert ahead.next_due(NOW + 10) is None


def test_a_dropped_function_takes_its_plans_along() -> None:
    ahead: Ahead[Job] = Ahead()
    ahead.push(_job("a"))
    ahead.push(_job("b"))
    ahead.drop("uid-a")
    ahead.drop("uid-a")
    assert len(ahead) == 1
    assert ahead.ready(NOW) == ["uid-b"]


def test_more_short_jobs_are_planned_ahead_than_long_ones() -> None:
    slots, ahead = Slots(Room(cpu_millis=2000, memory_bytes=None)), Ahead[Job]()

    def deep(item_s: float, where: Slots = slots, **keys: object) -> int:
        return ahead.depth(Lane(make_function("f", **keys), pace=Pace(item_s=item_s, samples=1)), where, 4)

    assert ahead.depth(None, slots, 4) == 4
    assert [deep(0.0), deep(10.0), deep(0.02), deep(0.001)] == [4, 4, 10, 32]
    assert deep(0.02, limits=Limits(concurrency=1)) == 5
    assert deep(0.02, batch=Batch(mode=BatchMode.LIST, max_items=50)) == 4
    assert deep(0.02, Slots(Room(pending_jobs=10))) == 4  # a cluster does not say how many run at once
    ahead.took(0.0625)  # a slow disk
    assert [deep(10.0), deep(0.02)] == [4, 19]
    ahead.took(0.0)
    assert deep(0.02) == 17
    for _ in range(50):
        ahead.took(0.0)
    assert deep(0.02) == 10
