"""The service over a played cluster: it does what the engine says, in the order of C13, and survives anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from scaler.control import Happening, HookEvent
from scaler.model import NodeState, PodKind
from scaler.pools import Fleet, Spare
from scaler.reading import Fresh
from scaler.records import released
from tests.scaler.building import MINUTE, make_fleet, make_pod, make_pool, make_spec
from tests.scaler.play import Play

HOSTS = tuple(f"host-{number}" for number in range(5))
FLEETS = {
    "hosts": make_fleet(make_pool("host", hosts=HOSTS, max=4, min=1, max_booting=2, boot_ms=20_000, idle_ms=MINUTE)),
    "made": make_fleet(make_pool("cpu", max=4, boot_ms=20_000, idle_ms=MINUTE)),
    "both": make_fleet(
        make_pool("host", hosts=HOSTS[:2], max=2, boot_ms=20_000, idle_ms=MINUTE, weight=1),
        make_pool("cpu", max=3, boot_ms=20_000, idle_ms=MINUTE, spare=(Spare(nodes=1),)),
    ),
}
fleets = pytest.mark.parametrize("fleet", FLEETS.values(), ids=FLEETS)


class Listener:
    """A hook that remembers, and vetoes what it is told to."""

    def __init__(self) -> None:
        self.events: list[HookEvent] = []
        self.veto: dict[Happening, str] = {}
        self.hangs = False

    async def allow(self, event: HookEvent) -> str:
        self.events.append(event)
        if self.hangs:
            await asyncio.Event().wait()
        return self.veto.get(event.kind, "")

    def told(self, events: Sequence[HookEvent]) -> None:
        self.events += events

    def kinds(self, node: str) -> list[str]:
        return [event.kind.value for event in self.events if event.node == node]


def states(play: Play) -> dict[str, NodeState]:
    return {node.name: node.state for node in play.service.journal.state.nodes}


@fleets
async def test_a_day_from_nothing_and_back(fleet: Fleet) -> None:
    play = Play(fleet)
    await play.live(60)
    least = play.on()
    play.cluster.submit(6)
    await play.live(120)
    assert all(pod.node for pod in play.cluster.pods.values())
    play.cluster.pods.clear()
    await play.live(300)
    assert len(play.on()) == len(least)
    assert play.cloud.removals
    assert not play.cluster.cordoned & play.on(), "a node that serves must not stay cordoned"
    assert play.service.journal.state.orders == {}
    if not fleet.pools[0].hosts:
        assert play.cluster.objects == play.on(), "the object of a deleted machine is deleted"


async def test_c3_killed_at_every_single_call_no_node_is_lost_or_made_twice() -> None:
    """The whole life of a burst, killed at its nth call to the outside, for every n, before and after its effect."""

    async def burst(at: int, *, after: bool) -> Play:
        play = Play(FLEETS["made"])
        play.trap.at, play.trap.after = at, after
        play.cluster.submit(4)
        await play.live(90, step=3)
        assert all(pod.node for pod in play.cluster.pods.values()), f"killed at {at}: the work never ran"
        made = len(play.on())
        play.cluster.pods.clear()
        await play.live(300, step=3)
        assert play.on() == set(), f"killed at {at}: {play.on()} stayed on for ever"
        assert play.cluster.objects == set()
        assert play.service.journal.state.nodes == ()
        assert made == reference
        return play

    reference = 2
    calls = (await burst(0, after=False)).trap.calls
    assert calls > 15
    for at in range(1, calls + 1):
        for after in (False, True):
            play = await burst(at, after=after)
            assert play.crashes == 1 or play.trap.calls < at or after


@fleets
async def test_c13_the_order_of_a_removal(fleet: Fleet) -> None:
    listener = Listener()
    play = Play(fleet, listener)
    play.cluster.submit(2)
    await play.live(60)
    play.cluster.pods.clear()
    # Until it is picked:
    while NodeState.DRAINING not in states(play).values():
        await play.live(2)
    (name,) = [node for node, state in states(play).items() if state is NodeState.DRAINING][:1]
    assert name in play.cluster.cordoned, "the cordon is first"
    assert name in play.on()
    assert "pre_poweroff" not in listener.kinds(name), "nobody is asked before the re-check"
    await play.live(60)
    assert name not in play.on()
    seen = listener.kinds(name)
    order = [seen.index(kind) for kind in ("pre_poweron", "post_poweron", "poweredon")]
    assert order == sorted(order)
    order = [seen.index(kind) for kind in ("poweredon", "pre_poweroff", "post_poweroff", "poweredoff")]
    assert order == sorted(order)


async def _draining(play: Play) -> str:
    """The one node, which had work and is now on its way out."""
    play.cluster.submit(1)
    await play.live(60)
    play.cluster.pods.clear()
    while NodeState.DRAINING not in states(play).values():
        await play.live(2)
    (name,) = play.on()
    return name


async def test_c2_c13_a_pod_bound_between_cordon_and_power_off_saves_its_node() -> None:
    play = Play(FLEETS["made"])
    name = await _draining(play)
    # A scheduler that had not seen the cordon yet.
    play.cluster.pods["late"] = make_pod("late", node=name)
    await play.live(20)
    assert play.on() == {name}
    assert states(play)[name] is NodeState.USED
    assert name not in play.cluster.cordoned


async def test_c13_a_removal_that_is_withdrawn_while_its_node_is_read_ends_quietly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A read past every cache takes seconds on a busy API server, and much may be decided meanwhile."""
    play = Play(FLEETS["made"])
    name = await _draining(play)
    read = play.cluster.read

    async def slow(wanted: str) -> Fresh:
        seen = await read(wanted)
        monkeypatch.setattr(play.cluster, "read", read)
        pending = play.service.journal.state.orders[wanted]
        await play.service.journal.change(
            lambda state: released(state, pending.order, play.clock.now, play.fleet, hold_ms=MINUTE)
        )
        play.service._sender.turn()
        return seen

    monkeypatch.setattr(play.cluster, "read", slow)
    await play.live(10)
    assert play.cluster.read is read, "it was read"
    assert play.service._sender.aside.failure is None
    assert play.on() == {name}


async def test_c13_demand_before_the_power_off_takes_the_node_back_and_after_it_waits_for_off() -> None:
    play = Play(FLEETS["hosts"], settle_ms=20_000)
    play.cluster.submit(3)
    await play.live(90)
    play.cluster.pods.clear()
    while NodeState.DRAINING not in states(play).values():
        await play.live(2)
    before = play.cloud.removals
    play.cluster.submit(12)
    await play.live(6)
    assert play.cloud.removals == before
    assert NodeState.DRAINING not in states(play).values()
    assert not play.cluster.cordoned


async def test_c13_what_may_be_evicted_is_evicted_when_it_fits_elsewhere() -> None:
    play = Play(make_fleet(make_pool("cpu", max=3, boot_ms=20_000, idle_ms=MINUTE)))
    for uid in ("a", "b"):
        play.cluster.pods[uid] = make_pod(uid, make_spec(5000), unschedulable=False)
    await play.live(60)
    assert len(play.on()) == 2
    host = {uid: play.cluster.pods[uid].node for uid in ("a", "b")}
    play.cluster.pods["a"] = replace(play.cluster.pods["a"], spec=make_spec(2000), kind=PodKind.MOVABLE)
    await play.live(120)
    assert play.on() == {host["b"]}
    assert "a" not in play.cluster.pods


async def test_c13_what_may_be_evicted_and_fits_nowhere_keeps_its_node() -> None:
    play = Play(make_fleet(make_pool("cpu", max=3, boot_ms=20_000, idle_ms=MINUTE)))
    play.cluster.submit(1)
    await play.live(60)
    (uid,) = play.cluster.pods
    play.cluster.pods[uid] = replace(play.cluster.pods[uid], kind=PodKind.MOVABLE)
    await play.live(200)
    assert len(play.on()) == 1
    assert play.service.plan is not None
    assert [kept.reason for kept in play.service.plan.kept] == [
        "its pods may be evicted and would fit on no node with work"
    ]


async def test_c1_w1_w2_w3_an_outage_of_the_cluster_switches_nothing() -> None:
    play = Play(FLEETS["made"])
    play.cluster.submit(3)
    await play.live(90)
    before, removals = play.on(), play.cloud.removals
    for kind in ("stale", "partial"):
        play.cluster.down = kind
        for number in range(100):
            await play.live(2)
            if number == 40:
                await play.die()
        assert play.on() == before
        play.cluster.down = ""
        await play.live(10)
        assert play.on() == before
    assert play.cloud.removals == removals
    assert set(states(play).values()) <= {NodeState.USED, NodeState.IDLE}


async def test_c1_w3_a_provider_that_does_not_answer_is_not_an_empty_one() -> None:
    play = Play(FLEETS["made"])
    play.cluster.submit(3)
    await play.live(90)
    before = play.on()
    play.cloud.down = True
    await play.live(200)
    assert play.on() == before
    assert any("driver simulated" in alarm for alarm in play.service.alarms())
    told = play.service.metrics.registry.get_sample_value
    assert told("penstock_scaler_alarms") == len(play.service.alarms())
    play.cloud.down = False
    await play.live(20)
    assert not play.service.alarms()
    assert told("penstock_scaler_alarms") == 0


async def test_c3_a_lost_answer_makes_no_second_node() -> None:
    play = Play(FLEETS["made"])
    play.cloud.loses_answers = True
    play.cluster.submit(3)
    await play.live(60)
    assert len(play.on()) == 2
    play.cloud.loses_answers = False
    await play.live(60)
    assert len(play.on()) == 2
    assert all(pod.node for pod in play.cluster.pods.values())


async def test_nothing_is_sent_while_it_cannot_be_written_down() -> None:
    play = Play(FLEETS["made"])
    await play.live(4)
    play.store.down = True
    play.cluster.submit(3)
    await play.live(60)
    assert play.on() == set()
    play.store.down = False
    await play.live(60)
    assert len(play.on()) == 2


async def test_c20_hooks_may_veto_and_a_hook_that_hangs_stops_no_start() -> None:
    listener = Listener()
    play = Play(FLEETS["made"], listener)
    listener.veto[Happening.PRE_POWERON] = "maintenance"
    play.cluster.submit(1)
    await play.live(10)
    assert play.on() == set()
    assert len([event for event in listener.events if event.kind is Happening.PRE_POWERON]) == 1, "asked once a minute"
    listener.veto.clear()
    await play.live(120)
    (name,) = play.on()
    listener.veto[Happening.PRE_POWEROFF] = "backup runs"
    play.cluster.pods.clear()
    await play.live(200)
    assert play.on() == {name}
    assert name not in play.cluster.cordoned
    listener.veto.clear()
    await play.live(200)
    assert play.on() == set()


async def test_c12_a_machine_that_never_comes_up_is_switched_off_for_certain_and_waits_ever_longer() -> None:
    play = Play(make_fleet(make_pool("cpu", max=1, boot_ms=20_000, boot_timeout_ms=40_000, idle_ms=MINUTE)))
    play.cloud.stuck.add("cpu-1")
    play.cluster.submit(1)
    await play.live(60)
    await play.live(60)
    assert play.cloud.removals >= 1, "it is deleted before it is made again"
    play.cloud.stuck.clear()
    await play.live(240)
    assert all(pod.node for pod in play.cluster.pods.values())


async def test_a_made_machine_that_vanishes_is_made_again_for_its_work() -> None:
    play = Play(FLEETS["made"])
    play.cluster.submit(3)
    await play.live(60)
    name = min(play.on())
    del play.cloud.machines._machines[name]
    play.cluster.schedule()
    play.cluster.submit(1)
    await play.live(120)
    assert all(pod.node for pod in play.cluster.pods.values())
    assert play.cluster.objects == play.on()
