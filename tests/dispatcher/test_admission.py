"""Who starts next: fairness by time used, weights, priorities, limits."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.admission import Admission
from penstock.model import Function, Limits
from tests.factories import NOW, make_function


def _function(name: str, **limits: float) -> Function:
    return make_function(name, limits=Limits(**limits))  # type: ignore[arg-type]  # ints and floats by name


class Shop:
    """A simulation on the real admission: so many slots, every function with its item time and queue length."""

    def __init__(self, slots: int) -> None:
        self.admission = Admission()
        self.slots = slots
        self.now = NOW
        self.queues: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.starts: list[tuple[int, str]] = []
        self._running: list[tuple[int, str, str, float]] = []
        self._jobs = 0

    def add(self, function: Function, queued: int, seconds: float) -> None:
        self.admission.put(function)
        self.queues[function.uid] = queued
        self.seconds[function.uid] = seconds

    def start_what_can(self) -> None:
        while len(self._running) < self.slots:
            due = [uid for uid, queued in self.queues.items() if queued]
            for uid in self.admission.order(due):
                self.admission.busy(uid)
                if self.admission.check(self.admission.lanes[uid], self.now) is None:
                    break
            else:
                return
            self._jobs += 1
            job = f"job-{self._jobs}"
            self.admission.planned(uid, 1, self.now)
            self.admission.started(uid, job, 1)
            self.queues[uid] -= 1
            if not self.queues[uid]:
                self.admission.idle(uid)
            self.starts.append((self.now, uid))
            self._running.append((self.now + int(self.seconds[uid] * 1000), job, uid, self.seconds[uid]))

    def step(self) -> bool:
        self.start_what_can()
        if not self._running:
            return False
        self._running.sort()
        end, job, uid, seconds = self._running.pop(0)
        self.now = max(self.now, end)
        self.admission.lanes[uid].pace.observe(start_s=None, item_s=seconds)
        self.admission.ended(job, seconds)
        return True

    def run(self, until_ms: int = 10**15) -> None:
        while self.now < until_ms and self.step():
            pass


def _count(shop: Shop, since: int = 0) -> Counter[str]:
    return Counter(uid for moment, uid in shop.starts if moment >= since)


def test_a_small_queue_is_not_delayed_by_a_large_one() -> None:
    shop = Shop(slots=2)
    shop.add(_function("a"), 20_000, 0.1)
    shop.run(until_ms=NOW + 60_000)
    came = shop.now
    shop.add(_function("b"), 10, 0.1)
    shop.run(until_ms=came + 5_000)
    starts = [moment - came for moment, uid in shop.starts if uid == "uid-b"]
    # Ideal: one of two slots, so the tenth starts after nine items; plus one running item.
    assert len(starts) == 10
    assert max(starts) <= 9 * 100 * 1.1 + 100


def test_shares_are_of_time_not_of_starts() -> None:
    shop = Shop(slots=2)
    shop.add(_function("long"), 10**6, 10.0)
    shop.add(_function("short"), 10**6, 0.1)
    shop.run(until_ms=NOW + 1_000_000)
    starts = _count(shop)
    assert starts["uid-short"] * 0.1 == pytest.approx(starts["uid-long"] * 10.0, rel=0.1)


def test_weight_is_a_share() -> None:
    shop = Shop(slots=1)
    shop.add(_function("heavy", weight=3.0), 10**6, 1.0)
    shop.add(_function("light"), 10**6, 1.0)
    shop.run(until_ms=NOW + 400_000)
    starts = _count(shop)
    assert starts["uid-heavy"] == pytest.approx(3 * starts["uid-light"], rel=0.05)


def test_priority_goes_first_always() -> None:
    shop = Shop(slots=1)
    shop.add(_function("low", priority=-1), 5, 1.0)
    shop.add(_function("high", priority=1), 5, 1.0)
    shop.run()
    assert [uid for _, uid in shop.starts] == ["uid-high"] * 5 + ["uid-low"] * 5


def test_nobody_saves_up_credit_while_idle() -> None:
    shop = Shop(slots=1)
    shop.add(_function("busy"), 10**6, 1.0)
    shop.add(_function("idle"), 0, 1.0)
    shop.run(until_ms=NOW + 1_000_000)
    came = shop.now
    shop.queues["uid-idle"] = 1000
    shop.run(until_ms=came + 100_000)
    starts = _count(shop, since=came)
    assert starts["uid-busy"] == pytest.approx(starts["uid-idle"], abs=2)


def test_concurrency_is_exact() -> None:
    shop = Shop(slots=8)
    shop.add(_function("a", concurrency=3), 100, 1.0)
    shop.start_what_can()
    assert len(shop.starts) == 3
    wait = shop.admission.check(shop.admission.lanes["uid-a"], NOW)
    assert wait is not None
    assert "3 running at once" in wait.why


def test_rate_is_exact_over_time() -> None:
    admission = Admission()
    admission.put(_function("a", rate=2.0))
    lane, started = admission.lanes["uid-a"], 0
    for millisecond in range(0, 10_000, 10):
        if admission.check(lane, NOW + millisecond) is None:
            admission.planned("uid-a", 1, NOW + millisecond)
            started += 1
    assert started in {20, 21, 22}
    while admission.check(lane, NOW + 10_000) is None:
        admission.planned("uid-a", 1, NOW + 10_000)
    wait = admission.check(lane, NOW + 10_000)
    assert wait is not None
    assert wait.until_ms is not None
    assert admission.check(lane, wait.until_ms) is None


def test_a_paused_or_parked_function_says_why() -> None:
    admission = Admission()
    admission.put(make_function("a", paused=True))
    wait = admission.check(admission.lanes["uid-a"], NOW)
    assert wait is not None
    assert "paused" in wait.why
    admission.put(make_function("a"))
    admission.park("uid-a", "the namespace's quota is used up", NOW)
    assert admission.check(admission.lanes["uid-a"], NOW + 49) is not None
    assert admission.check(admission.lanes["uid-a"], NOW + 1000) is None


def test_what_is_planned_counts_for_concurrency_and_a_refusal_gives_the_use_back() -> None:
    admission = Admission()
    lane = admission.put(_function("a", concurrency=1))
    admission.planned("uid-a", 1, NOW)
    assert admission.check(lane, NOW) is not None
    admission.started("uid-a", "j", 1)
    used = lane.usage
    admission.refused("j")
    assert (lane.planned, lane.running) == (1, 0)
    assert lane.usage < used
    admission.started("uid-a", "j", 1)
    admission.ended("j", 2.0)
    assert (lane.planned, lane.running) == (0, 0)
    assert lane.usage == pytest.approx(2.0, rel=0.01)
    assert admission.check(lane, NOW) is None


def test_the_end_of_an_unknown_job_or_of_a_dropped_function_is_no_error() -> None:
    admission = Admission()
    admission.put(make_function("a"))
    admission.planned("uid-a", 1, NOW)
    admission.started("uid-a", "j", 1)
    admission.drop("uid-a")
    admission.ended("j", 1.0)
    admission.ended("never", 1.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.5, 1.0, 4.0]), st.sampled_from([0.5, 1.0, 2.0])), min_size=2, max_size=5
    ),
    st.integers(1, 4),
)
def test_use_of_time_is_in_proportion_to_weight(mix: list[tuple[float, float]], slots: int) -> None:
    """Over a long run no function gets less than its share by more than two of its items and two of the longest."""
    shop = Shop(slots)
    for number, (seconds, weight) in enumerate(mix):
        shop.add(_function(f"f{number}", weight=weight), 10**7, seconds)
    length_s = 400
    shop.run(until_ms=NOW + length_s * 1000)
    starts, total = _count(shop), sum(weight for _, weight in mix)
    longest = max(seconds for seconds, _ in mix)
    for number, (seconds, weight) in enumerate(mix):
        used = starts[f"uid-f{number}"] * seconds
        share = slots * length_s * weight / total
        # A function with one long item at a time per slot cannot be finer than its item.
        assert used >= share - 2 * seconds - 2 * longest * slots
