"""What is listed when: pure decisions, time as an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.schedule import (
    SETTLED,
    Hot,
    Idle,
    Policy,
    Scope,
    Sweep,
    cover,
    decide,
    full_interval_s,
    note_failure,
    note_news,
    note_swept,
    worst_case_s,
)

POLICY = Policy()
NOW = 1_700_000_000_000


def plan_of(*scopes: Scope, policy: Policy = POLICY, now_ms: int = NOW) -> Sweep | Idle:
    return decide(scopes, policy, now_ms)


def test_nothing_to_watch_is_idle_for_long() -> None:
    assert plan_of() == Idle(POLICY.max_interval_s)


def test_everything_is_listed_at_once_after_a_start() -> None:
    plan = plan_of(Scope(bucket="a"), Scope(bucket="b", swept_ms=NOW))
    assert plan == Sweep(bucket="a", prefix="", scope="", why="start")


def test_an_urgent_listing_goes_before_an_overdue_one() -> None:
    overdue = Scope(bucket="a", swept_ms=NOW - 3_600_000)
    urgent = Scope(bucket="b", swept_ms=NOW - 1000, urgent="gap")
    assert plan_of(overdue, urgent) == Sweep(bucket="b", prefix="", scope="", why="gap")
    urgent.urgent = ""
    assert plan_of(overdue, urgent) == Sweep(bucket="a", prefix="", scope="", why="interval")


def test_a_cheap_scope_is_listed_each_minute() -> None:
    scope = Scope(bucket="a", swept_ms=NOW, cost_s=0.01, keys=100)
    assert plan_of(scope, now_ms=NOW + 59_000) == Idle(1.0)
    assert isinstance(plan_of(scope, now_ms=NOW + 60_000), Sweep)


def test_a_failed_listing_waits_even_when_urgent() -> None:
    scope = Scope(bucket="a", urgent="gap", not_before_ms=NOW + 5000)
    assert plan_of(scope) == Idle(5.0)
    assert isinstance(plan_of(scope, now_ms=NOW + 5000), Sweep)


@pytest.mark.parametrize("why", ["start", "gap", "a function was added or changed"])
def test_what_an_urgent_listing_left_out_as_unfinished_is_listed_once_more(why: str) -> None:
    policy = Policy(settle_s=2.5)
    scope = Scope(bucket="a", swept_ms=NOW, cost_s=0.01)
    note_swept(scope, policy, why=why, begun_ms=NOW, now_ms=NOW + 10)
    assert plan_of(scope, policy=policy, now_ms=NOW + 10) == Idle(2.5)
    again = plan_of(scope, policy=policy, now_ms=NOW + 2510)
    assert again == Sweep(bucket="a", prefix="", scope="", why=SETTLED)
    scope.swept_ms = NOW + 2510
    note_swept(scope, policy, why=SETTLED, begun_ms=NOW + 2510, now_ms=NOW + 2520)
    assert plan_of(scope, policy=policy, now_ms=NOW + 2520) == Idle(59.99), "once, not for ever"


def test_a_listing_in_the_interval_is_not_repeated_nor_one_where_nothing_is_left_out() -> None:
    scope = Scope(bucket="a", swept_ms=NOW)
    note_swept(scope, Policy(settle_s=2.5), why="interval", begun_ms=NOW, now_ms=NOW)
    assert not scope.again_ms
    note_swept(scope, Policy(), why="start", begun_ms=NOW, now_ms=NOW)
    assert not scope.again_ms


def test_gaps_in_quick_succession_leave_two_thirds_of_the_time_free() -> None:
    scope = Scope(bucket="a", swept_ms=NOW, urgent="gap", cost_s=2.0)
    assert plan_of(scope, now_ms=NOW + 2000) == Idle(4.0)
    assert isinstance(plan_of(scope, now_ms=NOW + 6000), Sweep)


def test_failures_in_a_row_are_retried_more_and_more_rarely() -> None:
    scope = Scope(bucket="a", swept_ms=NOW - 10_000, urgent="gap", cost_s=2.0)
    pauses = []
    for _ in range(7):
        note_failure(scope, POLICY, 1, NOW)
        pauses.append(plan_of(scope))
    assert pauses == [Idle(5.0), Idle(10.0), Idle(20.0), Idle(40.0), Idle(80.0), Idle(100.0), Idle(100.0)]


def test_a_costly_scope_is_listed_rarely_and_its_hot_folders_in_between() -> None:
    scope = Scope(bucket="a", swept_ms=NOW, cost_s=60.0, keys=10**6)
    assert full_interval_s(scope, POLICY, 1) == 3000.0
    scope.hot["new/"] = Hot(NOW, cost_s=0.1)
    assert plan_of(scope, now_ms=NOW + 60_000) == Sweep(bucket="a", prefix="new/", scope="", why="recent news")
    scope.hot["new/"].swept_ms = NOW + 60_000
    assert plan_of(scope, now_ms=NOW + 61_000) == Idle(59.0)


def test_hot_folders_are_not_listed_when_the_full_listing_is_cheap() -> None:
    scope = Scope(bucket="a", swept_ms=NOW, hot={"new/": Hot(NOW - 60_000)})
    assert plan_of(scope, now_ms=NOW + 30_000) == Idle(30.0)


def test_the_budget_of_keys_lengthens_the_interval_up_to_a_day() -> None:
    policy = Policy(keys_per_minute=10_000)
    assert full_interval_s(Scope(bucket="a", keys=100_000), policy, 1) == 600.0
    assert full_interval_s(Scope(bucket="a", keys=100_000), policy, 3) == 1800.0
    assert full_interval_s(Scope(bucket="a", keys=10**9), policy, 1) == 86_400.0


costs = st.lists(st.tuples(st.floats(0, 1000), st.integers(0, 10**6)), min_size=1, max_size=8)


@given(costs, st.sampled_from([0, 10_000, 600_000]))
def test_share_and_budget_are_kept_over_all_scopes_unless_daily_is_more(
    measured: list[tuple[float, int]], keys_per_minute: int
) -> None:
    policy = Policy(keys_per_minute=keys_per_minute)
    scopes = [Scope(bucket=str(n), cost_s=cost, keys=keys) for n, (cost, keys) in enumerate(measured)]
    intervals = [full_interval_s(scope, policy, len(scopes)) for scope in scopes]
    assert all(policy.min_interval_s <= interval <= policy.max_interval_s for interval in intervals)
    if max(intervals) < policy.max_interval_s:
        share = sum(scope.cost_s / interval for scope, interval in zip(scopes, intervals, strict=True))
        assert share <= policy.share * 1.0001
        if keys_per_minute:
            rate = sum(60 * scope.keys / interval for scope, interval in zip(scopes, intervals, strict=True))
            assert rate <= keys_per_minute * 1.0001


@given(costs, st.integers(0, 10))
def test_the_worst_case_is_never_exceeded_in_a_simulated_week(measured: list[tuple[float, int]], seed: int) -> None:
    """Carry out what `decide` says on a simulated clock: no scope waits longer than the number says."""
    scopes = [Scope(bucket=str(n), cost_s=cost, keys=keys) for n, (cost, keys) in enumerate(measured)]
    limit_s = worst_case_s(scopes, POLICY)
    now = NOW + seed
    for _ in range(60):
        plan = plan_of(*scopes, now_ms=now)
        if isinstance(plan, Idle):
            now += int(1000 * plan.seconds) + 1
            continue
        scope = next(scope for scope in scopes if scope.bucket == plan.bucket)
        begun, now = now, now + int(1000 * scope.cost_s)
        if scope.swept_ms:
            # A version that came just after the listing before had passed its place is found when this one ends.
            assert (now - scope.swept_ms) / 1000 <= limit_s + scope.cost_s + 0.01 * len(scopes)
        scope.swept_ms = begun


def test_the_worst_case_of_nothing_is_nothing() -> None:
    assert worst_case_s([], POLICY) == 0.0
    assert worst_case_s([Scope(bucket="a", cost_s=0.5)], POLICY) == 60.5


def test_news_makes_folders_hot_for_a_while_and_not_too_many() -> None:
    scope = Scope(bucket="a", prefix="in/")
    note_news(scope, ["in/x", "in/d/1", "in/d/2", "out/d/3", "in/e/f/4"], POLICY, NOW)
    assert set(scope.hot) == {"in/d/", "in/e/f/"}
    note_news(scope, [f"in/{n}/x" for n in range(100)], POLICY, NOW + 1000)
    assert list(scope.hot) == [f"in/{n}/" for n in range(68, 100)]
    note_news(scope, ["in/70/y"], POLICY, NOW + 2000)
    assert list(scope.hot)[-1] == "in/70/"
    note_news(scope, [], POLICY, NOW + 2000 + int(1000 * POLICY.hot_s))
    assert list(scope.hot) == ["in/70/"]


@given(st.lists(st.text("ab/", max_size=4), max_size=8))
def test_a_cover_is_complete_and_without_overlap(prefixes: list[str]) -> None:
    chosen = cover(prefixes)
    assert all(any(prefix.startswith(part) for part in chosen) for prefix in prefixes)
    assert not [(a, b) for a in chosen for b in chosen if a != b and a.startswith(b)]


@pytest.mark.parametrize("prefixes", [["", "a/"], ["a/", ""], [""]])
def test_a_whole_bucket_covers_all(prefixes: list[str]) -> None:
    assert cover(prefixes) == [""]
