"""The contract of `penstock.ports.NodeProvider`, over every driver and the real thing that each drives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from penstock.errors import Closed, Unavailable
from penstock.ports import NodeAdd, NodeProvider, NodeTarget, OrderAnswer, Outcome, ProviderNode, ProviderState, StopHow
from tests.contracts.node_benches import ADAPTERS, MANAGERS, NodeBench
from tests.kubernetes import support
from tests.testbed.im import InfrastructureManager
from tests.testbed.kubernetes import Kubernetes

__all__ = ["ADAPTERS"]

PATIENCE_S = 90.0
_SERVERS = {"kwok": "kubernetes", "infrastructure_manager": "im"}
#: Cases that a driver cannot have, each with its reason: no machine of its own that was always there; nothing to reach.
_NO_HOSTS, _NOTHING_TO_CUT = "infrastructure_manager", "simulated"

Factory = Callable[[Path], AbstractAsyncContextManager[NodeBench]]


@pytest.fixture(
    params=[
        pytest.param(adapter, id=adapter[0], marks=[pytest.mark.components] if adapter[0] in _SERVERS else [])
        for adapter in ADAPTERS
    ]
)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[NodeBench]:
    name, factory = request.param
    if name in _SERVERS:
        server = request.getfixturevalue(_SERVERS[name])
        if isinstance(server, Kubernetes):
            await support.use(server)
        elif isinstance(server, InfrastructureManager):
            MANAGERS[:] = [server]
    async with factory(tmp_path) as made:
        yield made


@pytest.fixture
def hosts(bench: NodeBench, request: pytest.FixtureRequest) -> tuple[str, ...]:
    if _NO_HOSTS in request.node.name:
        pytest.skip("an Infrastructure Manager has no machines that always exist")
    return bench.hosts


async def listed(provider: NodeProvider, bench: NodeBench) -> dict[str, ProviderNode]:
    return {node.name: node for node in await provider.list() if node.name.startswith(bench.prefix)}


async def until(provider: NodeProvider, bench: NodeBench, wanted: Callable[[dict[str, ProviderNode]], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not wanted(found := await listed(provider, bench)):
        assert time.monotonic() < deadline, f"still {found}"
        await asyncio.sleep(0.05)


def order(bench: NodeBench, number: int, key: str = "") -> NodeAdd:
    name = bench.name(number)
    return NodeAdd(key=key or f"{name}/1", name=name, pool="made")


def accepted(answers: list[OrderAnswer]) -> list[str]:
    assert [answer.outcome for answer in answers] == [Outcome.ACCEPTED] * len(answers), answers
    return [answer.id for answer in answers]


async def test_c17_what_was_added_is_listed_with_its_key_pool_and_mark(bench: NodeBench) -> None:
    (made,) = accepted(await bench.provider.add([order(bench, 1)]))
    node = (await listed(bench.provider, bench))[bench.name(1)]
    assert (node.id, node.key, node.pool, node.ours) == (made, f"{bench.name(1)}/1", "made", True)
    assert node.state in {ProviderState.STARTING, ProviderState.ON}


async def test_c17_one_call_answers_for_each_of_its_machines(bench: NodeBench) -> None:
    answers = await bench.provider.add([order(bench, number) for number in (1, 2, 3)])
    accepted(answers)
    assert [answer.key for answer in answers] == [f"{bench.name(number)}/1" for number in (1, 2, 3)]
    assert len({answer.id for answer in answers}) == 3
    found = await listed(bench.provider, bench)
    assert {found[bench.name(number)].key for number in (1, 2, 3)} == {answer.key for answer in answers}


async def test_c17_the_same_key_again_makes_no_twin_also_after_a_restart(bench: NodeBench) -> None:
    first = accepted(await bench.provider.add([order(bench, 1)]))
    assert accepted(await bench.provider.add([order(bench, 1)])) == first
    again = await bench.reopen()
    assert accepted(await again.add([order(bench, 1), order(bench, 2)]))[0] == first[0]
    nodes = [node.name for node in await again.list() if node.key.startswith(bench.prefix)]
    assert sorted(nodes) == [bench.name(1), bench.name(2)]


async def test_a_name_that_another_order_made_is_a_conflict(bench: NodeBench) -> None:
    accepted(await bench.provider.add([order(bench, 1)]))
    (answer,) = await bench.provider.add([order(bench, 1, key=f"{bench.name(1)}/7")])
    assert answer.outcome is Outcome.CONFLICT
    assert (await listed(bench.provider, bench))[bench.name(1)].key == f"{bench.name(1)}/1"


async def test_c17_the_same_order_twice_at_once_is_one_machine(bench: NodeBench) -> None:
    answers = await asyncio.gather(*(bench.provider.add([order(bench, 1)]) for _ in range(3)))
    assert any(answer.outcome is Outcome.ACCEPTED for some in answers for answer in some)
    assert len([node for node in await bench.provider.list() if node.name == bench.name(1)]) == 1


async def test_c17_a_call_may_be_cancelled_and_said_again(bench: NodeBench) -> None:
    for pause in (0, 0.01, 0.05):
        task = asyncio.create_task(bench.provider.add([order(bench, 1)]))
        await asyncio.sleep(pause)
        task.cancel()
        await asyncio.wait({task})
    accepted(await bench.provider.add([order(bench, 1)]))
    assert len([node for node in await bench.provider.list() if node.name == bench.name(1)]) == 1


async def test_c17_what_was_removed_is_gone_and_removing_it_again_is_accepted(bench: NodeBench) -> None:
    ids = accepted(await bench.provider.add([order(bench, number) for number in (1, 2, 3)]))
    targets = [
        NodeTarget(key=f"{bench.name(number)}/2", id=id_, name=bench.name(number))
        for number, id_ in zip((1, 2, 3), ids, strict=True)
    ]
    accepted(await bench.provider.remove(targets[:2]))
    await until(bench.provider, bench, lambda found: found.keys() - set(bench.hosts) == {bench.name(3)})
    # One that is gone already must not keep the others of the same call.
    accepted(await bench.provider.remove(targets))
    again = await bench.reopen()
    await until(again, bench, lambda found: not found.keys() - set(bench.hosts))
    accepted(await again.remove(targets))


async def test_a_pool_that_the_driver_does_not_know_is_refused(
    bench: NodeBench, request: pytest.FixtureRequest
) -> None:
    if "command" in request.node.name:
        pytest.skip("a program knows its pools itself")
    (answer,) = await bench.provider.add([NodeAdd(key="x/1", name=bench.name(9), pool="nobody")])
    assert answer.outcome is Outcome.CONFIGURATION
    assert "nobody" in answer.message
    assert bench.name(9) not in await listed(bench.provider, bench)


async def test_a_host_is_started_and_stopped_and_each_may_be_said_twice(
    bench: NodeBench, hosts: tuple[str, ...]
) -> None:
    provider = bench.provider
    first, second = hosts
    found = await listed(provider, bench)
    assert {found[host].state for host in hosts} == {ProviderState.OFF}
    assert found[first].ours
    target = NodeTarget(key=f"{first}/1", id=found[first].id, name=first)
    for _ in range(2):
        accepted(await provider.start([target]))
    await until(provider, bench, lambda seen: seen[first].state is ProviderState.ON)
    assert (await listed(provider, bench))[second].state is ProviderState.OFF
    again = await bench.reopen()
    assert (await listed(again, bench))[first].state is ProviderState.ON
    target = NodeTarget(key=f"{first}/2", id=found[first].id, name=first)
    for how in (StopHow.SOFT, StopHow.HARD):
        accepted(await again.stop([target], how=how))
    await until(again, bench, lambda seen: seen[first].state is ProviderState.OFF)


async def test_c17_w1_what_cannot_be_reached_is_never_an_empty_list(
    bench: NodeBench, request: pytest.FixtureRequest
) -> None:
    if bench.cut is None:
        assert _NOTHING_TO_CUT in request.node.name
        pytest.skip("simulated machines are in this process")
    accepted(await bench.provider.add([order(bench, 1)]))
    async with bench.cut():
        with pytest.raises(Unavailable):
            await bench.provider.list()
        again = await bench.reopen()
        with pytest.raises(Unavailable):
            await again.list()
    assert bench.name(1) in await listed(again, bench)


async def test_a_closed_driver_says_so(bench: NodeBench) -> None:
    await bench.provider.close()
    with pytest.raises(Closed):
        await bench.provider.list()
    with pytest.raises(Closed):
        await bench.provider.add([order(bench, 1)])
