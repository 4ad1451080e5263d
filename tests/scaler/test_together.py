"""Removals that are ready at about the same time go in few calls, each looked at once more before its call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from penstock.errors import Conflict, PenstockError, Unavailable
from penstock.ports import NodeTarget, OrderAnswer, Outcome
from scaler.together import Together


class Driver:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.free = asyncio.Event()
        self.under_way = self.most = 0
        self.failure: BaseException | None = None
        self.forgets: set[str] = set()

    async def remove(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        self.calls.append([node.name for node in nodes])
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.free.wait()
        finally:
            self.under_way -= 1
        if self.failure is not None:
            raise self.failure
        return [OrderAnswer(key=one.key, outcome=Outcome.ACCEPTED) for one in nodes if one.key not in self.forgets]


async def yes() -> bool:
    return True


def target(number: int) -> NodeTarget:
    return NodeTarget(key=f"k{number}", id=f"i{number}", name=f"n{number}")


Asked = list[asyncio.Task[OrderAnswer | PenstockError | None]]


async def asked(together: Together, driver: Driver, count: int) -> Asked:
    tasks = [
        asyncio.create_task(together.ask(driver.remove, target(number), ready=yes), name=f"n{number}")
        for number in range(count)
    ]
    while len(driver.calls) < min(count, 2):
        await asyncio.sleep(0)
    return tasks


async def test_a_hundred_removals_are_few_calls_of_bounded_size_and_each_has_its_answer() -> None:
    driver, together = Driver(), Together(at_once=2, most=30)
    tasks = await asked(together, driver, 100)
    driver.free.set()
    answers = await asyncio.gather(*tasks)
    assert [one.key for one in answers if isinstance(one, OrderAnswer)] == [f"k{number}" for number in range(100)]
    assert sorted(name for call in driver.calls for name in call) == sorted(f"n{number}" for number in range(100))
    assert len(driver.calls) <= 6
    assert max(len(call) for call in driver.calls) <= 30
    assert driver.most == 2


async def test_c13_what_was_withdrawn_or_is_old_when_its_turn_comes_is_not_sent() -> None:
    driver, together = Driver(), Together(at_once=1)
    first = asyncio.create_task(together.ask(driver.remove, target(0), ready=yes))
    while not driver.calls:
        await asyncio.sleep(0)
    looked: list[int] = []

    async def no() -> bool:
        looked.append(1)
        return False

    async def overtaken() -> bool:
        raise Conflict("the order was overtaken")

    old = asyncio.create_task(together.ask(driver.remove, target(1), ready=no))
    withdrawn = asyncio.create_task(together.ask(driver.remove, target(2), ready=overtaken))
    good = asyncio.create_task(together.ask(driver.remove, target(3), ready=yes))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not looked, "it is asked in the last moment, not before it waits"
    driver.free.set()
    assert await old is None
    with pytest.raises(Conflict):
        await withdrawn
    assert isinstance(await good, OrderAnswer)
    assert isinstance(await first, OrderAnswer)
    assert driver.calls == [["n0"], ["n3"]]


async def test_a_call_without_an_answer_is_lost_for_all_in_it_and_only_for_them() -> None:
    driver, together = Driver(), Together(at_once=1)
    tasks = await asked(together, driver, 1)
    tasks += [asyncio.create_task(together.ask(driver.remove, target(number), ready=yes)) for number in (1, 2)]
    driver.forgets = {"k1"}
    driver.failure = Unavailable("no answer")
    driver.free.set()
    assert isinstance(await tasks[0], Unavailable)
    driver.failure = None
    later = await asyncio.gather(*tasks[1:])
    assert all(isinstance(one, OrderAnswer) for one in later) or all(isinstance(one, Unavailable) for one in later)
    again = await together.ask(driver.remove, target(1), ready=yes)
    assert isinstance(again, OrderAnswer)
    assert again.outcome is Outcome.TRANSIENT, "not named in the answer: asked again"


async def test_one_that_gives_up_takes_no_other_with_it_and_a_defect_is_no_silence() -> None:
    driver, together = Driver(), Together(at_once=1)
    tasks = await asked(together, driver, 1)
    others = [asyncio.create_task(together.ask(driver.remove, target(number), ready=yes)) for number in (1, 2)]
    for _ in range(5):
        await asyncio.sleep(0)
    others[0].cancel()
    tasks[0].cancel()
    driver.free.set()
    assert isinstance(await others[1], OrderAnswer)
    assert others[0].cancelled()
    assert driver.calls == [["n0"], ["n2"]]
    driver.free.clear()
    driver.failure = RuntimeError()
    broken = [asyncio.create_task(together.ask(driver.remove, target(number), ready=yes)) for number in (4, 5, 6)]
    for _ in range(10):
        await asyncio.sleep(0)
    driver.free.set()
    results = await asyncio.gather(*broken, return_exceptions=True)
    assert [type(one) for one in results] == [RuntimeError, RuntimeError, Unavailable]
    assert driver.calls[2:] == [["n4"], ["n5", "n6"]]
