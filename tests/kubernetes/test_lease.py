"""The Lease: never two at once whatever the clocks do, and soon another when one is gone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.kubernetes import KubernetesClient, LeaderLease, LeaseTiming
from penstock.adapters.kubernetes.lease import (
    Action,
    LeaseSpec,
    Seen,
    claimed,
    decide,
    manifest,
    observe,
    released,
    trusted,
)

TIMING = LeaseTiming(duration_s=6, renew_every_s=2, margin_s=1.5)
WALL = datetime(2027, 1, 15, tzinfo=UTC)
HELD = Seen(LeaseSpec(holderIdentity="a", leaseDurationSeconds=6, leaseTransitions=4), "1", 100.0)


def test_who_may_do_what() -> None:
    assert decide(None, "a", 0, TIMING) is Action.CREATE
    assert decide(HELD, "a", 10**6, TIMING) is Action.RENEW
    assert decide(HELD, "b", 106.0, TIMING) is Action.WAIT
    assert decide(HELD, "b", 106.1, TIMING) is Action.TAKE
    assert decide(msgspec.structs.replace(HELD, spec=released(HELD.spec)), "b", 100.0, TIMING) is Action.TAKE


def test_an_unchanged_lease_keeps_the_date_it_was_first_seen_at() -> None:
    assert observe(HELD, HELD.spec, "1", 200.0).since == 100.0
    assert observe(HELD, HELD.spec, "2", 200.0).since == 200.0


def test_the_epoch_counts_changes_of_hands_only() -> None:
    assert claimed(None, "a", WALL, TIMING).leaseTransitions == 1
    assert claimed(HELD, "a", WALL, TIMING).leaseTransitions == 4
    taken = claimed(HELD, "b", WALL, TIMING)
    assert (taken.leaseTransitions, taken.holderIdentity, taken.renewTime) == (5, "b", "2027-01-15T00:00:00.000000Z")
    assert "resourceVersion" not in manifest("l", "n", taken)["metadata"]


class World:
    """One Lease and two processes with clocks of their own; each step is one of the things that can happen."""

    def __init__(self, offsets: tuple[float, float]) -> None:
        self.now = 0.0
        self.offsets = offsets
        self.stored: tuple[LeaseSpec, int] | None = None
        self.seen: list[Seen | None] = [None, None]
        self.renewed: list[float | None] = [None, None]
        self.epochs = [0, 0]

    def clock(self, who: int) -> float:
        return self.now + self.offsets[who]

    def turn(self, who: int, delay: float) -> None:
        """Read, decide, and write after a delay during which the other may act."""
        begun = self.clock(who)
        if self.stored is None:
            self.seen[who] = None
        else:
            self.seen[who] = observe(self.seen[who], self.stored[0], str(self.stored[1]), begun)
        seen, me = self.seen[who], "ab"[who]
        action = decide(seen, me, begun, TIMING)
        if action is Action.WAIT:
            self.renewed[who] = None
            return
        self.now += delay
        version = self.stored[1] if self.stored is not None else 0
        if (0 if seen is None else int(seen.version)) != version:
            return  # a conflict
        spec = claimed(seen, me, WALL, TIMING)
        self.stored = (spec, version + 1)
        self.seen[who] = observe(seen, spec, str(version + 1), self.clock(who))
        self.renewed[who], self.epochs[who] = begun, spec.leaseTransitions or 0

    def held(self, who: int) -> bool:
        return trusted(self.renewed[who], self.clock(who), TIMING)


@given(
    st.tuples(st.floats(-1000, 1000), st.floats(-1000, 1000)),
    st.lists(st.tuples(st.integers(0, 1), st.floats(0, 7), st.floats(0, 3)), max_size=60),
)
def test_two_never_act_at_once_and_epochs_only_grow(
    offsets: tuple[float, float], steps: list[tuple[int, float, float]]
) -> None:
    world, highest = World(offsets), 0
    for who, wait, delay in steps:
        world.now += wait
        world.turn(who, delay)
        assert not (world.held(0) and world.held(1))
        if world.held(who):
            assert world.epochs[who] >= highest
            highest = world.epochs[who]


# On the real API server


def lease(api: KubernetesClient, namespace: str, me: str, clock: list[float]) -> LeaderLease:
    return LeaderLease(api, namespace=namespace, name="dispatcher", identity=me, timing=TIMING, clock=lambda: clock[0])


@pytest.mark.components
async def test_one_takes_over_from_another(api: KubernetesClient, namespace: str) -> None:
    clock = [0.0]
    one, two = lease(api, namespace, "one", clock), lease(api, namespace, "two", clock)
    assert (await one.acquire(), one.held) == (1, True)
    assert not await two.turn()
    assert two.holder == "one"
    clock[0] += 4.0
    assert await one.turn()
    assert not await two.turn()
    clock[0] += 4.6  # `one` sleeps: it may act no more before `two` may
    assert not one.held
    assert not await two.turn()
    clock[0] += 1.5
    assert await two.turn()
    assert (two.epoch, two.held) == (2, True)
    assert not await one.turn()  # wakes up and sees it
    await one.step_down()
    assert await two.turn()
    await two.step_down()
    assert not two.held
    assert await one.turn()
    assert one.epoch == 3


@pytest.mark.components
async def test_only_one_of_many_gets_it(api: KubernetesClient, namespace: str) -> None:
    clock = [0.0]
    all_of_them = [lease(api, namespace, f"p{number}", clock) for number in range(10)]
    won = await asyncio.gather(*(one.turn() for one in all_of_them))
    assert sum(won) == 1


@pytest.mark.components
async def test_a_holder_that_cannot_renew_stops_in_time(api: KubernetesClient, namespace: str) -> None:
    timing = LeaseTiming(duration_s=2, renew_every_s=0.2, look_every_s=0.1, margin_s=0.5)
    one = LeaderLease(api, namespace=namespace, name="dispatcher", identity="one", timing=timing)
    two = LeaderLease(api, namespace=namespace, name="dispatcher", identity="two", timing=timing)
    assert await one.acquire() == 1
    holding = asyncio.create_task(one.hold())
    taking = asyncio.create_task(two.acquire())
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/dispatcher"
    async with asyncio.timeout(30):
        while (await api.get(path))["spec"]["renewTime"] == (await api.get(path))["spec"]["acquireTime"]:
            await asyncio.sleep(0.05)
        assert not holding.done()
        # Somebody takes it by force.
        body = {"spec": {"holderIdentity": "three", "leaseTransitions": 7}}
        await api.send("PATCH", path, body, content_type="application/merge-patch+json")
        await holding
        assert not one.held
        assert await taking == 8
