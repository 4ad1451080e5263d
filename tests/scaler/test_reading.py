"""Nodes read past every cache: no answer is older than its question, and many questions share one list."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import Unavailable
from scaler.model import Pod
from scaler.reading import ALONE, Fresh, NodeReads
from tests.scaler.building import make_pod

NODES = [f"n{number}" for number in range(12)]


class PlayedLists:
    """Lists of a server that shows what was there when a list was begun, and answers when it is told to."""

    def __init__(self) -> None:
        self.bound: dict[str, list[Pod]] = {name: [] for name in NODES}
        self.time = 0
        self.begun: list[asyncio.Future[None]] = []
        self.singles = self.shared = 0
        self.sharing = self.most_singles = 0
        self.fails = False

    def bind(self, name: str) -> str:
        self.time += 1
        pod = make_pod(f"p{self.time}", node=name)
        self.bound[name].append(pod)
        return pod.uid

    async def _told(self) -> None:
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun.append(told)
        try:
            await told
        finally:
            if told in self.begun:
                self.begun.remove(told)

    async def one(self, name: str) -> list[Pod]:
        pods = list(self.bound[name])
        self.singles += 1
        self.most_singles = max(self.most_singles, self.singles)
        try:
            await self._told()
        finally:
            self.singles -= 1
        return pods

    async def many(self, names: Collection[str]) -> Mapping[str, list[Pod]]:
        assert len(names) > ALONE, "a few are asked about one by one"
        pods = {name: list(self.bound[name]) for name in names}
        self.shared += 1
        self.sharing += 1
        assert self.sharing == 1, "one list of everything at a time"
        try:
            await self._told()
        finally:
            self.sharing -= 1
        return pods

    def end(self, position: int, *, fails: bool) -> None:
        told = self.begun[position % len(self.begun)]
        if fails:
            told.set_exception(Unavailable("the API server does not answer"))
        else:
            told.set_result(None)


async def idle() -> None:
    for _ in range(100):  # those that waited for one list go on one after the other
        await asyncio.sleep(0)


ASK = st.tuples(st.just("ask"), st.sampled_from(range(len(NODES))))
STEPS = st.lists(
    ASK | ASK | ASK | st.tuples(st.sampled_from(["end", "fail", "cancel"]), st.integers(0, 50)), min_size=1, max_size=60
)


@given(STEPS)
def test_c2_c13_no_answer_is_older_than_its_question(steps: list[tuple[str, int]]) -> None:
    async def play() -> None:
        lists = PlayedLists()
        reads = NodeReads(lists, clock=lambda: lists.time)
        asked: list[tuple[str, int, asyncio.Task[Fresh]]] = []
        failed = False
        for what, number in steps:
            if what == "ask":
                # Acknowledged before the question, as a cordon is: the answer must not be of before it.
                uid = lists.bind(NODES[number])
                asked.append((uid, lists.time, asyncio.create_task(reads.read(NODES[number]))))
            elif what == "cancel" and asked:
                asked[number % len(asked)][2].cancel()
            elif what in {"end", "fail"} and lists.begun:
                failed |= what == "fail"
                lists.end(number, fails=what == "fail")
            await idle()
        while lists.begun:
            lists.end(0, fails=False)
            await idle()
        for uid, time, task in asked:
            assert task.done(), "somebody waits for ever"
            if task.cancelled():
                continue
            if isinstance(task.exception(), Unavailable):
                assert failed
                continue
            seen = task.result()
            assert uid in [pod.uid for pod in seen.pods]
            assert seen.asked_ms >= time
        assert lists.most_singles <= ALONE

    asyncio.run(play())


async def test_fifty_at_once_are_told_by_one_list() -> None:
    lists = PlayedLists()
    reads = NodeReads(lists, clock=lambda: 1)
    tasks = [asyncio.create_task(reads.read(NODES[number % len(NODES)])) for number in range(50)]
    await idle()
    while lists.begun:
        lists.end(0, fails=False)
        await idle()
    assert [task.result().pods for task in tasks] == [()] * 50
    assert lists.shared == 1
    assert lists.most_singles == 0


async def test_whoever_comes_while_a_list_is_under_way_waits_for_the_next() -> None:
    lists = PlayedLists()
    reads = NodeReads(lists, clock=lambda: lists.time)
    first = [asyncio.create_task(reads.read(name)) for name in NODES]
    await idle()
    assert lists.sharing == 1
    late = lists.bind(NODES[0])
    second = asyncio.create_task(reads.read(NODES[0]))
    await idle()
    lists.end(0, fails=False)
    await idle()
    assert all(task.done() for task in first)
    assert not second.done()
    lists.end(0, fails=False)
    assert [pod.uid for pod in (await second).pods] == [late]


async def test_a_list_that_fails_or_takes_too_long_allows_nobody_anything() -> None:
    lists = PlayedLists()
    reads = NodeReads(lists, clock=lambda: 1, limit_s=0.2)
    tasks = [asyncio.create_task(reads.read(name)) for name in NODES]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(one) for one in results} == {Unavailable}
    assert "within 0.2 s" in str(results[0])
    assert not lists.begun
    tasks = [asyncio.create_task(reads.read(name)) for name in NODES]
    await idle()
    while lists.begun:
        lists.end(0, fails=True)
        await idle()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {str(one) for one in results} == {"the API server does not answer"}


async def test_a_caller_that_gives_up_takes_nobody_with_it() -> None:
    lists = PlayedLists()
    reads = NodeReads(lists, clock=lambda: 1)
    tasks = [asyncio.create_task(reads.read(name)) for name in NODES]
    await idle()
    assert lists.sharing == 1
    tasks[0].cancel()  # it is the one that carries the list
    await idle()
    while lists.begun:
        lists.end(0, fails=False)
        await idle()
    assert [task.cancelled() for task in tasks] == [True, *[False] * (len(tasks) - 1)]
    assert lists.shared == 2


async def test_a_defect_while_all_are_listed_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = PlayedLists()

    async def broken(_: object) -> list[Pod]:
        raise RuntimeError

    monkeypatch.setattr(lists, "one", broken)
    monkeypatch.setattr(lists, "many", broken)
    reads = NodeReads(lists, clock=lambda: 1)
    results = await asyncio.gather(*(reads.read(name) for name in NODES), return_exceptions=True)
    assert {type(one) for one in results} == {RuntimeError}
