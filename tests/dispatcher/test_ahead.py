"""Planned Jobs wait per function."""

from __future__ import annotations

from dataclasses import dataclass

from dispatcher.ahead import Ahead
from dispatcher.plan import make_plan
from penstock.model import JobPlan
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
