"""Which pod serves whom: in order, never more than fit, nothing lost whatever comes and goes."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.resident.balance import AGAIN_S, OTHERS_S, Balancer, Full, Target


def pod(name: str, generation: int = 1) -> Target:
    return Target(name=name, address=f"http://{name}", generation=generation)


def names(given: list[tuple[object, Target]]) -> list[tuple[object, str]]:
    return [(ticket, target.name) for ticket, target in given]


def test_first_come_first_served_by_the_newest_then_the_least_used() -> None:
    balancer = Balancer(slots=2, queue=10)
    for ticket in "abcdef":
        balancer.join(ticket)
    assert balancer.assign(0) == []
    balancer.offer([pod("old"), pod("x", 2), pod("y", 2)])
    given = names(balancer.assign(0))
    assert given == [("a", "x"), ("b", "y"), ("c", "x"), ("d", "y"), ("e", "old"), ("f", "old")]
    assert (balancer.waiting, balancer.mine) == (0, 6)
    balancer.join("g")
    assert balancer.assign(0) == []
    balancer.over("y")
    assert names(balancer.assign(0)) == [("g", "y")]


def test_the_queue_is_bounded_but_for_those_who_were_in_it() -> None:
    balancer = Balancer(slots=1, queue=2)
    balancer.join("a")
    balancer.join("b")
    with pytest.raises(Full):
        balancer.join("c")
    balancer.offer([pod("x")])
    assert names(balancer.assign(0)) == [("a", "x")]
    balancer.join("c")
    balancer.over("x")
    balancer.refused("x", 0)
    balancer.join_first("a")
    assert balancer.waiting == 3
    assert balancer.assign(0) == [], "it has just refused"
    assert balancer.again_s(0) == AGAIN_S
    assert balancer.others(0) == 1, "somebody else uses it"
    assert names(balancer.assign(AGAIN_S)) == [("a", "x")], "back at the head"
    assert balancer.others(OTHERS_S) == 0


def test_a_pod_that_leaves_keeps_what_it_has_and_gets_no_more() -> None:
    balancer = Balancer(slots=2, queue=9)
    balancer.offer([pod("x")])
    balancer.join("a")
    assert len(balancer.assign(0)) == 1
    balancer.offer([])
    balancer.join("b")
    assert balancer.assign(0) == []
    assert balancer.again_s(0) is None, "only a pod can help"
    balancer.offer([pod("x")])
    assert balancer.mine == 1, "its run is not forgotten when it comes back"
    balancer.offer([])
    balancer.over("x")
    balancer.offer([pod("x")])
    assert balancer.mine == 0


class Traffic(RuleBasedStateMachine):
    """Runs and pods come and go in any order."""

    SLOTS, QUEUE = 2, 5

    def __init__(self) -> None:
        super().__init__()
        self.balancer = Balancer(slots=self.SLOTS, queue=self.QUEUE)
        self.waiting: list[int] = []
        self.running: list[tuple[int, str]] = []
        self.offered: set[str] = set()
        self.count = 0
        self.now = 0.0

    @rule()
    def arrive(self) -> None:
        self.count += 1
        try:
            self.balancer.join(self.count)
        except Full:
            assert len(self.waiting) >= self.QUEUE
        else:
            self.waiting.append(self.count)

    @rule(pods=st.sets(st.sampled_from("xyz")))
    def offer(self, pods: set[str]) -> None:
        self.balancer.offer([pod(name) for name in pods])
        self.offered = pods

    @rule()
    def assign(self) -> None:
        for ticket, target in self.balancer.assign(self.now):
            assert ticket == self.waiting.pop(0)
            assert target.name in self.offered
            assert isinstance(ticket, int)
            self.running.append((ticket, target.name))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), begun=st.booleans())
    def end(self, data: st.DataObject, begun: bool) -> None:
        ticket, name = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.balancer.over(name)
        if not begun:
            self.balancer.refused(name, self.now)
            self.balancer.join_first(ticket)
            self.waiting.insert(0, ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        self.balancer.leave(self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1))))

    @rule(seconds=st.floats(0, 1))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_hold(self) -> None:
        assert self.balancer.waiting == len(self.waiting)
        for name in self.offered:
            assert sum(where == name for _, where in self.running) <= self.SLOTS
        assert self.balancer.mine == sum(where in self.offered for _, where in self.running)

    @invariant()
    def nobody_waits_beside_a_free_pod_for_ever(self) -> None:
        free = any(sum(where == name for _, where in self.running) < self.SLOTS for name in self.offered)
        if self.waiting and free:
            pause = self.balancer.again_s(self.now)
            assert pause is not None
            assert pause <= AGAIN_S + 1e-6, "but for rounding"


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
