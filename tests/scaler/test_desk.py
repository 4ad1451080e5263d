"""What a person asks and orders: `Control` over the running service."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from penstock.errors import Conflict, InvalidInput, NotFound
from scaler.control import Control, Happening, HookEvent, NoHooks, RequestSpec, RequestState
from scaler.desk import Desk
from scaler.model import NodeState
from tests.scaler.building import GIB, MINUTE, make_fleet, make_pod, make_pool
from tests.scaler.play import Play

HOSTS = tuple(f"host-{number}" for number in range(3))
SPEC = RequestSpec(requests=(("cpu", 4000), ("memory", GIB)), tasks=2, per_node=1, hold_ms=10 * MINUTE)


class Heard(NoHooks):
    def __init__(self) -> None:
        self.events: list[HookEvent] = []

    def told(self, events: Sequence[HookEvent]) -> None:
        self.events += events


async def start(**changes: object) -> tuple[Play, Desk, Heard]:
    fields: dict[str, object] = {"hosts": HOSTS, "max": 3, "boot_ms": 20_000, "idle_ms": 60 * MINUTE}
    heard = Heard()
    play = Play(make_fleet(make_pool("host", **(fields | changes))), heard)
    await play.live(4)
    return play, desk_of(play), heard


def desk_of(play: Play) -> Desk:
    return Desk(play.service, clock=play.clock)


def test_the_desk_is_the_control() -> None:
    control: type[Control] = Desk
    assert control


async def test_c20_on_off_and_what_is_told_of_each_step() -> None:
    play, desk, _ = await start()
    assert [(info.name, info.state) for info in await desk.nodes()] == [(host, NodeState.OFF) for host in HOSTS]
    info = await desk.on("host-1")
    assert (info.state, info.reason) == (NodeState.STARTING, "ordered by a person")
    assert (await desk.on("host-1")).state is NodeState.STARTING, "said twice is no error"
    await play.live(40)
    assert play.on() == {"host-1"}
    info = await desk.node("host-1")
    assert (info.state, info.pods, info.offers[0]) == (NodeState.IDLE, 0, ("cpu", 8000))
    assert info.reason == "idle for less than 3600 s"
    assert (await desk.off("host-1")).state is NodeState.DRAINING
    assert (await desk.off("host-1")).state is NodeState.DRAINING
    await play.live(40)
    assert play.on() == set()


async def test_c2_c20_off_with_work_is_a_conflict_and_by_force_waits_for_its_end() -> None:
    play, desk, _ = await start()
    await desk.on("host-0")
    await play.live(40)
    play.cluster.pods["p"] = make_pod("p", node="host-0")
    await play.live(4)
    with pytest.raises(Conflict, match="has work; with force it is cordoned now"):
        await desk.off("host-0")
    info = await desk.off("host-0", force=True)
    assert (info.state, info.reason) == (NodeState.USED, "ordered off by a person: it goes when its work ends")
    await play.live(60)
    assert "host-0" in play.cluster.cordoned
    assert play.on() == {"host-0"}
    await play.die()
    await play.live(20)
    assert play.on() == {"host-0"}, "also after a restart its work is waited for"
    play.cluster.pods.clear()
    await play.live(40)
    assert play.on() == set()


async def test_c20_enable_and_disable_survive_a_restart_w11() -> None:
    play, desk, _ = await start()
    await desk.disable("host-2")
    await play.live(4)
    await play.die()
    play.cluster.submit(9)
    await play.live(60)
    assert play.on() == {"host-0", "host-1"}
    desk = desk_of(play)
    assert not (await desk.node("host-2")).enabled
    with pytest.raises(Conflict, match="was disabled"):
        await desk.on("host-2")
    await desk.enable("host-2")
    await play.live(60)
    assert play.on() == set(HOSTS)


async def test_disabling_takes_a_removal_back() -> None:
    play, desk, _ = await start()
    await desk.on("host-0")
    await play.live(40)
    await desk.off("host-0")
    await desk.disable("host-0")
    await play.live(40)
    assert play.on() == {"host-0"}
    assert not play.cluster.cordoned


async def test_c6_bounds_hold_for_people_too() -> None:
    play, desk, _ = await start(max=1, min=1)
    await play.live(60)
    (name,) = play.on()
    other = next(host for host in HOSTS if host != name)
    with pytest.raises(Conflict, match="at its maximum of 1 nodes"):
        await desk.on(other)
    with pytest.raises(Conflict, match="below its minimum of 1 nodes"):
        await desk.off(name)


async def test_reset_forgets_failures() -> None:
    play, desk, _ = await start(boot_timeout_ms=30_000)
    play.cloud.stuck.add("host-0")
    await desk.on("host-0")
    await play.live(60)
    info = await desk.node("host-0")
    assert info.failures_on
    info = await desk.reset("host-0")
    assert (info.failures_on, info.backoff_until_ms) == (0, 0)


async def test_a_name_that_nobody_has_is_told() -> None:
    _, desk, _ = await start()
    for call in (desk.node, desk.on, desk.off, desk.enable, desk.reset):
        with pytest.raises(NotFound, match="there is no node nobody"):
            await call("nobody")
    made = Play(make_fleet(make_pool("cpu", max=2, boot_ms=20_000)))
    await made.live(4)
    desk = desk_of(made)
    assert (await desk.on("cpu-2")).state is NodeState.STARTING
    with pytest.raises(NotFound):
        await desk.on("cpu-x")


async def test_c20_a_request_brings_nodes_is_served_protects_them_and_ends() -> None:
    play, desk, heard = await start(idle_ms=MINUTE)
    info = await desk.submit(SPEC)
    assert info.state is RequestState.WAITING
    assert [event.kind for event in heard.events if event.request is not None] == [Happening.REQUEST]
    await play.live(4)
    waiting = await desk.request(info.request.id)
    assert (waiting.state, len(waiting.nodes)) == (RequestState.WAITING, 2)
    assert "is coming" in waiting.reason
    await play.live(40)
    served = await desk.request(info.request.id)
    assert (served.state, set(served.nodes)) == (RequestState.SERVED, play.on())
    await play.live(200)
    assert len(play.on()) == 2, "longer than their idle time"
    assert (await desk.withdraw(info.request.id)).state is RequestState.OVER
    assert (await desk.request(info.request.id)).state is RequestState.OVER
    await play.live(120)
    assert play.on() == set()
    with pytest.raises(NotFound, match="there is no request x"):
        await desk.request("x")


async def test_c8_a_request_that_nothing_can_serve_is_refused_with_its_reason() -> None:
    play, desk, _ = await start()
    info = await desk.submit(RequestSpec(requests=(("cpu", 64_000),)))
    await play.live(4)
    refused = await desk.request(info.request.id)
    assert refused.state is RequestState.REFUSED
    assert "64 cpu is needed" in refused.reason


@pytest.mark.parametrize(
    ("changes", "where"),
    [({"requests": ()}, "requests"), ({"tasks": 0}, "tasks"), ({"per_node": -1}, "per_node"), ({"hold_ms": 0}, "hold")],
)
async def test_a_request_that_cannot_be_is_refused_with_its_field(changes: dict[str, object], where: str) -> None:
    _, desk, _ = await start()
    fields: dict[str, object] = {"requests": (("cpu", 1),)} | changes
    with pytest.raises(InvalidInput) as caught:
        await desk.submit(RequestSpec(**fields))  # type: ignore[arg-type]
    assert caught.value.where == where


async def test_the_last_decision_is_explained_with_the_age_of_what_it_was_made_on() -> None:
    play, desk, _ = await start()
    told = await desk.explain()
    assert told.plan is not None
    assert told.blocked == ""
    assert told.views.keys() == {"nodes", "pods", "driver simulated"}
    assert told.decisions > 0
    play.cluster.down = "stale"
    await play.live(60)
    told = await desk.explain()
    assert told.blocked == "the node list and the pod list is incomplete or older than 30 s"
    play.cloud.down = True
    await play.live(30)
    assert any("does not answer" in alarm for alarm in (await desk.explain()).alarms)
