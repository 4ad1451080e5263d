"""Brokers die, sleep, and are cut off while entries are appended and read: what was acknowledged is there, in order."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import pytest

from penstock.adapters.kafka import KafkaEventLog
from penstock.errors import Unavailable
from penstock.ports import LogEntry
from tests.adapters.kafka.conftest import Logs
from tests.contracts.test_event_log import by_key, entries, everything
from tests.testbed import Bed
from tests.testbed.kafka import Kafka
from tests.testbed.links import Cut

pytestmark = [pytest.mark.components, pytest.mark.slow]

EVENTS = "penstock.events"
#: Short, so that a fault of some seconds is longer.
QUICK = {"request_s": 1.0, "deadline_s": 3.0}
PATIENCE_S = 60.0


class Load:
    """Appends numbers under several keys, each again until it is acknowledged, and reads along."""

    def __init__(self, log: KafkaEventLog, keys: int = 4) -> None:
        self.log = log
        self.acknowledged: dict[str, list[tuple[str, tuple[int, int]]]] = defaultdict(list)
        self.refusals = 0
        self.read: dict[tuple[int, int], str] = {}
        self.running = True
        self._tasks = [asyncio.create_task(self._append(f"key-{n}")) for n in range(keys)]
        self._tasks.append(asyncio.create_task(self._follow()))

    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    async def more(self, count: int) -> None:
        """Until so many more are acknowledged."""
        target = self.count() + count
        deadline = time.monotonic() + PATIENCE_S
        while self.count() < target:
            assert time.monotonic() < deadline, f"stuck at {self.count()} of {target}"
            assert not any(task.done() for task in self._tasks), [task for task in self._tasks if task.done()]
            await asyncio.sleep(0.02)

    async def finish(self) -> None:
        self.running = False
        await asyncio.wait_for(asyncio.gather(*self._tasks), PATIENCE_S)

    async def _append(self, key: str) -> None:
        number = 0
        while self.running:
            try:
                (place,) = await self.log.append(EVENTS, entries((key, str(number))))
            except Unavailable:
                self.refusals += 1
                continue
            self.acknowledged[key].append((str(number), place))
            number += 1

    async def _follow(self) -> None:
        positions: dict[int, int] = {}
        while self.running:
            try:
                batch = await self.log.read(EVENTS, positions, wait_s=0.2)
            except Unavailable:
                self.refusals += 1
                continue
            for entry in batch:
                assert entry.offset >= positions.get(entry.partition, 0)
                positions[entry.partition] = entry.offset + 1
                self.read[entry.partition, entry.offset] = entry.value.decode()

    async def check(self, log: KafkaEventLog) -> None:
        found = await everything(log, EVENTS)
        stored = {(entry.partition, entry.offset): entry for entry in found}
        for key, acknowledged in self.acknowledged.items():
            for value, place in acknowledged:
                assert (stored[place].key, stored[place].value.decode()) == (key, value)
            # Repeats of what was not acknowledged are allowed, another order is not.
            firsts = list(dict.fromkeys(by_key(found)[key]))
            assert firsts[: len(acknowledged)] == [value for value, _ in acknowledged]
            assert len(firsts) <= len(acknowledged) + 1
        assert all(stored[place].value.decode() == value for place, value in self.read.items())


@pytest.fixture
async def own_kafka(fault_bed: Bed) -> Kafka:
    await fault_bed.kafka.start()
    return fault_bed.kafka


@pytest.mark.parametrize("fenced", [False, True])
async def test_a_broker_killed_in_the_middle_of_appends(own_kafka: Kafka, logs: Logs, fenced: bool) -> None:
    log = logs.open(own_kafka, request_s=1.0, deadline_s=15.0, transactional_id="writer" if fenced else None)
    if fenced:
        await log.take_over()
    load = Load(log)
    for _ in range(2):
        await load.more(100)
        await own_kafka.kill()
        await own_kafka.start()
    await load.more(100)
    await load.finish()
    await load.check(logs.open(own_kafka))
    assert log.health.ok


async def test_a_broker_that_is_away_longer_than_the_deadline(own_kafka: Kafka, logs: Logs) -> None:
    log = logs.open(own_kafka, **QUICK, stalled_s=2.0)
    load = Load(log)
    await load.more(50)
    await own_kafka.kill()
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await log.append(EVENTS, entries(("other", "x")))
    with pytest.raises(Unavailable):  # could not be read is not the same as nothing there
        await log.read(EVENTS, {}, wait_s=0.1)
    assert time.monotonic() - started < 4 * QUICK["deadline_s"]
    assert load.refusals > 0
    assert not log.health.ok
    assert log.health.reason
    await own_kafka.start()
    await load.more(50)
    await load.finish()
    await load.check(logs.open(own_kafka))
    assert log.health.ok, log.health.reason


@pytest.mark.parametrize("fenced", [False, True])
async def test_a_broker_asleep_for_longer_than_a_request(own_kafka: Kafka, logs: Logs, fenced: bool) -> None:
    log = logs.open(own_kafka, **QUICK, transactional_id="writer" if fenced else None)
    if fenced:
        await log.take_over()
    load = Load(log)
    await load.more(50)
    before = load.refusals
    await own_kafka.stop()
    deadline = time.monotonic() + PATIENCE_S
    while load.refusals < before + 4:  # so the deadline has passed, and with it several requests
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await own_kafka.resume()
    await load.more(50)
    await load.finish()
    await load.check(logs.open(own_kafka))


@pytest.mark.parametrize("how", list(Cut))
async def test_a_wire_that_is_cut_and_mended(own_kafka: Kafka, logs: Logs, how: Cut) -> None:
    log = logs.open(own_kafka, **QUICK)
    load = Load(log)
    await load.more(50)
    before = load.refusals
    await own_kafka.cut(how)
    deadline = time.monotonic() + PATIENCE_S
    while load.refusals == before:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await own_kafka.mend()
    await load.more(50)
    await load.finish()
    await load.check(logs.open(own_kafka))


async def test_closing_while_the_broker_is_away_ends_in_time(own_kafka: Kafka, logs: Logs) -> None:
    log = logs.open(own_kafka, **QUICK)
    await log.append(EVENTS, entries(("k", "1")))
    await log.read(EVENTS, {})
    await own_kafka.stop()
    appending = asyncio.create_task(log.append(EVENTS, entries(("k", "2"))))
    reading = asyncio.create_task(log.read(EVENTS, {}, wait_s=PATIENCE_S))
    await asyncio.sleep(0.3)
    started = time.monotonic()
    await log.close()
    assert time.monotonic() - started < 12 * QUICK["request_s"]
    for task in (appending, reading):
        with pytest.raises(Exception, match=r"closed|acknowledgement") as ended:
            await task
        assert type(ended.value).__module__ == "penstock.errors"
    await own_kafka.resume()


async def append_for_ever(log: KafkaEventLog) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await log.append(EVENTS, [LogEntry("k", bytes(100_000))])


async def test_a_full_disk_is_told_and_room_brings_it_back(own_kafka: Kafka, logs: Logs) -> None:
    log = logs.open(own_kafka, **QUICK, topic_config={"segment.bytes": "200000"})
    places = await log.append(EVENTS, entries(("k", "before")))
    await own_kafka.fill()
    with pytest.raises(Unavailable):  # which OutOfSpace is, too
        await append_for_ever(log)
    await own_kafka.drain()
    await own_kafka.restart()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            await log.append(EVENTS, entries(("k", "after")))
            break
        except Unavailable:
            assert time.monotonic() < deadline
    found = await everything(log, EVENTS)
    assert (found[0].partition, found[0].offset, found[0].value) == (*places[0], b"before")
    assert found[-1].value == b"after"
