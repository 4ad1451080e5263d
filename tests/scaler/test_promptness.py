"""A pod that waits is not made to wait longer by what the service does besides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.ports import ProviderNode
from scaler.aside import Aside
from scaler.records import State
from tests.scaler.building import make_fleet, make_pool
from tests.scaler.play import MemoryStore, Play, Trap


class BusyStore(MemoryStore):
    """Something happens in the cluster during each write."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__(Trap())
        self._meanwhile = meanwhile

    async def save(self, state: State) -> None:
        await super().save(state)
        self._meanwhile()


def _made() -> Play:
    return Play(make_fleet(make_pool(max=4)))


async def _decided_while(demand: bool) -> Play:
    """One turn that orders a node, and a change in the cluster while that is written. What is under way then is left
    for later: each answer to an order asks for a turn too.
    """
    play = _made()
    store = play.store = BusyStore(lambda: play.cluster.changed(demand))
    play.service = play._born()
    await play.service.open()
    await play.wait(2)
    play.cluster.submit(1)
    play.cluster.schedule()
    await play.service.turn()
    assert store.writes == 1
    return play


async def test_c4_a_pod_that_comes_while_a_decision_is_written_has_a_window_of_its_own() -> None:
    play = await _decided_while(demand=True)
    window = play.service._window
    assert window.due_ms == play.clock.now + window.idle_ms, "not only when the next turn is due anyhow"
    await play.service.settled()


async def test_a_change_that_comes_while_a_decision_is_written_is_looked_at_soon() -> None:
    play = await _decided_while(demand=False)
    window = play.service._window
    assert window.due_ms == play.clock.now + window.settle_ms
    await play.service.settled()


async def test_a_slow_driver_s_list_holds_up_no_pod_while_the_last_one_is_young() -> None:
    play = _made()
    await play.wait(2)
    await play.turn()
    provider = play.service.drivers["simulated"].provider
    inner, answers = provider.list, asyncio.Event()

    async def slow() -> list[ProviderNode]:
        await answers.wait()
        return await inner()

    provider.list = slow  # type: ignore[method-assign]
    await play.wait(11)
    play.cluster.submit(1)
    play.cluster.schedule()
    play.cluster.changed(True)
    async with asyncio.timeout(60):
        await play.service.turn()
        await play.service._sender.aside.settled()
    assert play.on(), "ordered although the list is not there yet"
    answers.set()
    await play.service.settled()


async def test_a_slow_list_is_waited_for_when_no_pod_waits_or_the_last_one_is_old() -> None:
    play = _made()
    await play.wait(2)
    await play.turn()
    for demand, seconds in ((False, 11), (True, 20)):
        await play.wait(seconds)
        play.cluster.changed(demand)
        await play.service.turn()
        assert play.service.drivers["simulated"].view.as_of_ms == play.clock.now


async def test_what_goes_on_beside_fails_for_the_service_to_see_and_ends_with_it() -> None:
    aside = Aside()

    async def broken() -> None:
        raise ZeroDivisionError

    aside.start(["a"], broken())
    await aside.settled()
    assert isinstance(aside.failure, ZeroDivisionError)
    aside.start(["b"], _for_ever())
    assert aside.busy("b")
    await aside.close()
    assert not aside.busy("b")


async def _for_ever() -> None:
    await asyncio.Event().wait()
