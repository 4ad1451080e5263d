"""A cancel that comes before its invocation has a record: held, carried out when there is one, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.early import LONGEST_MS, MOST, EarlyCancels, Held
from penstock.adapters.sqlite import SqliteEventLog
from penstock.identity import invocation_id
from penstock.model import TOPIC_COMMANDS, TOPIC_EVENTS, Command, CommandKind, Phase
from penstock.ports import Positions, StoredEntry
from tests.dispatcher.bench import DispatcherBench
from tests.factories import NOW

GROUP = "penstock.dispatcher"


def held(number: int, *, partition: int = 0, until: dict[int, int] | None = None) -> Held:
    command = Command(id=f"c{number}", kind=CommandKind.CANCEL, time_ms=NOW, invocation=f"i{number}")
    return Held(command=command, partition=partition, offset=number, until=until or {0: 5}, since_ms=NOW)


def test_a_cancel_waits_until_intake_has_passed_what_was_there() -> None:
    early = EarlyCancels()
    early.hold(one := held(1, until={0: 5, 1: 2}))
    assert early.vain({0: 5}, NOW) == []
    assert early.vain({0: 4, 1: 9}, NOW) == []
    assert early.vain({0: 5, 1: 2}, NOW) == [one]
    assert early.vain({}, NOW + LONGEST_MS + 1) == [one], "nothing is waited for for ever"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), max_size=20))
def test_no_position_is_committed_beyond_a_held_cancel(places: list[tuple[int, int]]) -> None:
    early = EarlyCancels()
    for number, (partition, offset) in enumerate(places):
        command = Command(id=str(number), kind=CommandKind.CANCEL, time_ms=NOW)
        early.hold(Held(command=command, partition=partition, offset=offset, until={}, since_ms=NOW))
    done = early.committable(dict.fromkeys(range(4), 51))
    for partition in range(4):
        assert done[partition] == min([offset for at, offset in places if at == partition], default=51)
    early.release([str(number) for number in range(len(places))])
    assert early.committable({0: 51}) == {0: 51}


def test_the_oldest_is_given_up_before_memory_is() -> None:
    early = EarlyCancels()
    lost = [early.hold(held(number)) for number in range(MOST + 1)]
    assert [one.command.id for one in lost if one is not None] == ["c0"]
    assert len(early) == MOST


class LateEvents:
    """The real log, whose events are seen only when the test says so: an intake that lags behind."""

    def __init__(self, log: SqliteEventLog) -> None:
        self._log = log
        self.late = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def read(
        self, topic: str, positions: Positions, *, limit: int = 1000, wait_s: float = 0.0
    ) -> list[StoredEntry]:
        if topic == TOPIC_EVENTS and self.late:
            await asyncio.sleep(min(wait_s, 0.01))
            return []
        return await self._log.read(topic, positions, limit=limit, wait_s=wait_s)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[DispatcherBench]:
    bench = DispatcherBench(tmp_path)
    await bench.open()
    yield bench
    await bench.close()


async def test_it_is_carried_out_once_the_submission_is_recorded_also_by_the_next_life(bench: DispatcherBench) -> None:
    function = await bench.deploy(paused=True)
    log = bench.log
    late: Any = LateEvents(log)
    bench.log = late
    submission = await bench.submit(function, b"hello")
    invocation = invocation_id(function.uid, submission.identity)
    async with bench.life() as dispatcher:
        await bench.command(CommandKind.CANCEL, function, invocation=invocation, user="ann")
        await bench.until(lambda: _holding(dispatcher.commands, 1))
        assert await log.committed(GROUP, TOPIC_COMMANDS) != await log.end(TOPIC_COMMANDS), "it is not done"
    async with bench.life() as dispatcher:
        await bench.until(lambda: _holding(dispatcher.commands, 1))
        late.late = False
        [record] = await bench.until_phase(Phase.CANCELLED)
        assert (record.id, record.reason) == (invocation, "cancelled by ann")
        await bench.until(lambda: _all_done(bench))
        assert await _holding(dispatcher.commands, 0)
    assert bench.runner.submitted == []
    bench.log = log


async def test_a_cancel_of_what_there_is_not_is_given_up(bench: DispatcherBench) -> None:
    function = await bench.deploy()
    async with bench.life() as dispatcher:
        await bench.command(CommandKind.CANCEL, function, invocation="ab" * 32)
        await bench.event()
        await bench.until(lambda: _all_done(bench))
        assert await _holding(dispatcher.commands, 0)


async def _holding(commands: Any, count: int) -> bool:
    return len(commands._early) == count


async def _all_done(bench: DispatcherBench) -> bool:
    return await bench.log.committed(GROUP, TOPIC_COMMANDS) == await bench.log.end(TOPIC_COMMANDS)
