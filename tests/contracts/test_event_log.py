"""The contract of `penstock.ports.EventLog`, run against every adapter in ADAPTERS.

Nothing here assumes how many partitions there are, nor that offsets follow each other without gaps.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from penstock.adapters.kafka import KafkaEventLog, KafkaSettings
from penstock.adapters.sqlite import SqliteEventLog
from penstock.clock import now_ms
from penstock.ports import EventLog, LogEntry, StoredEntry

Factory = Callable[[Path], AbstractAsyncContextManager[EventLog]]
TOPIC = "penstock.test"
#: Long enough for a slow machine; reached only when something hangs.
PATIENCE_S = 30.0
FUTURE_MS = 1 << 50
KAFKA_SERVERS = "PENSTOCK_TEST_KAFKA_SERVERS"


@contextlib.asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[EventLog]:
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    log = await SqliteEventLog.open(folder / "log.db")
    try:
        yield log
    finally:
        await log.close()


def kafka_settings(folder: Path, transactional_id: str | None = None) -> KafkaSettings:
    # Without a broker the adapter can still be made: it connects when it is used.
    servers = os.environ.get(KAFKA_SERVERS, "127.0.0.1:9092")
    prefix = f"contract-{hashlib.sha256(bytes(folder)).hexdigest()[:12]}-"
    return KafkaSettings(servers=servers, prefix=prefix, partitions=3, transactional_id=transactional_id)


@contextlib.asynccontextmanager
async def kafka(folder: Path) -> AsyncIterator[EventLog]:
    log = KafkaEventLog(kafka_settings(folder))
    try:
        yield log
    finally:
        await log.close()


@contextlib.asynccontextmanager
async def kafka_fenced(folder: Path) -> AsyncIterator[EventLog]:
    log = KafkaEventLog(kafka_settings(folder, "writer"))
    try:
        if KAFKA_SERVERS in os.environ:
            await log.take_over()
        yield log
    finally:
        await log.close()


ADAPTERS: list[tuple[str, Factory]] = [("sqlite", sqlite), ("kafka", kafka), ("kafka-fenced", kafka_fenced)]


def needs_kafka(name: str) -> bool:
    return name.startswith("kafka")


@pytest.fixture(
    params=[
        pytest.param(name, id=name, marks=[pytest.mark.components] if needs_kafka(name) else []) for name, _ in ADAPTERS
    ]
)
def adapter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its name; what it needs is running, and child processes find it."""
    name: str = request.param
    if needs_kafka(name):
        monkeypatch.setenv(KAFKA_SERVERS, str(request.getfixturevalue("kafka").address))
    return name


@pytest.fixture
def factory(adapter: str) -> Factory:
    return dict(ADAPTERS)[adapter]


@pytest.fixture
async def log(factory: Factory, tmp_path: Path) -> AsyncIterator[EventLog]:
    async with factory(tmp_path / "log") as opened:
        yield opened


def entries(*pairs: tuple[str, str]) -> list[LogEntry]:
    return [LogEntry(key, value.encode()) for key, value in pairs]


async def everything(log: EventLog, topic: str = TOPIC, limit: int = 1000) -> list[StoredEntry]:
    """Read the topic from its beginning to its end, in reads of at most `limit`."""
    positions: dict[int, int] = {}
    found: list[StoredEntry] = []
    while batch := await log.read(topic, positions, limit=limit):
        assert len(batch) <= limit
        for entry in batch:
            assert entry.topic == topic
            assert entry.offset >= positions.get(entry.partition, 0), "offsets grow within a partition"
            positions[entry.partition] = entry.offset + 1
        found += batch
    for partition, position in positions.items():
        assert position <= (await log.end(topic))[partition]
    return found


def by_key(found: Sequence[StoredEntry]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = defaultdict(list)
    homes: dict[str, int] = {}
    for entry in found:
        assert homes.setdefault(entry.key, entry.partition) == entry.partition, "one key, one partition"
        values[entry.key].append(entry.value.decode())
    return dict(values)


# Append and read


async def test_what_is_appended_is_read_in_order_with_its_place(log: EventLog) -> None:
    before = now_ms()
    given = entries(("a", "1"), ("b", "2"), ("a", "3"), ("", "4"))
    places = await log.append(TOPIC, given)
    found = {(entry.partition, entry.offset): entry for entry in await everything(log)}
    assert len(places) == len(set(places)) == len(given)
    for place, entry in zip(places, given, strict=True):
        assert (found[place].key, found[place].value) == (entry.key, entry.value)
        assert before <= found[place].time_ms <= now_ms()
    assert by_key(list(found.values()))["a"] == ["1", "3"]


async def test_an_empty_append_changes_nothing(log: EventLog) -> None:
    assert await log.append(TOPIC, []) == []
    assert await everything(log) == []


async def test_any_key_and_any_bytes_come_back(log: EventLog) -> None:
    keys = ["plain/key", "sp ace+%2F%", "ünï/çødé", "nul\0byte", "\udc80not-text", "x" * 1500]
    values = [b"", b"\0", bytes(range(256)), b"\xff\xfe" * 10, b"x" * 500_000, b"{}"]
    await log.append(TOPIC, [LogEntry(key, value) for key, value in zip(keys, values, strict=True)])
    assert {entry.key: entry.value for entry in await everything(log)} == dict(zip(keys, values, strict=True))


async def test_reading_goes_on_where_the_positions_say(log: EventLog) -> None:
    await log.append(TOPIC, entries(*((f"k{n % 5}", str(n)) for n in range(57))))
    all_at_once = await everything(log)
    in_steps = await everything(log, limit=7)
    assert by_key(in_steps) == by_key(all_at_once)
    assert sorted(int(entry.value) for entry in in_steps) == list(range(57))


async def test_topics_are_apart(log: EventLog) -> None:
    await log.append("penstock.one", entries(("k", "1")))
    await log.append("penstock.two", entries(("k", "2")))
    assert by_key(await everything(log, "penstock.one")) == {"k": ["1"]}
    assert by_key(await everything(log, "penstock.two")) == {"k": ["2"]}


async def test_an_unknown_topic_is_empty(log: EventLog) -> None:
    assert await log.read("penstock.nothing", {}) == []
    assert await log.committed("group", "penstock.nothing") == {}
    assert all(end == 0 for end in (await log.end("penstock.nothing")).values())
    assert await log.trim("penstock.nothing", before_ms=FUTURE_MS, below={0: 100}) == 0
    assert await log.compact("penstock.nothing") == 0


async def test_the_end_is_after_the_last_entry(log: EventLog) -> None:
    places = await log.append(TOPIC, entries(*((f"k{n}", "v") for n in range(20))))
    end = await log.end(TOPIC)
    for partition in {partition for partition, _ in places}:
        # Not `+ 1`: a log may keep marks of its own behind the last entry.
        assert end[partition] > max(offset for home, offset in places if home == partition)
    assert await log.read(TOPIC, end) == []
    assert await log.end(TOPIC) == end, "it stays where it is while nothing is appended"


async def test_concurrent_appends_keep_the_order_of_each_key_and_stay_whole(log: EventLog) -> None:
    async def writer(key: str) -> None:
        for n in range(20):
            await log.append(TOPIC, entries((key, f"{n}.0"), (key, f"{n}.1")))

    await asyncio.gather(*(writer(f"key-{n}") for n in range(10)))
    expected = [f"{n}.{part}" for n in range(20) for part in (0, 1)]
    assert by_key(await everything(log)) == {f"key-{n}": expected for n in range(10)}


# Waiting


async def test_a_waiting_read_is_woken_by_an_append(log: EventLog) -> None:
    await log.append(TOPIC, entries(("k", "old")))
    reading = asyncio.create_task(log.read(TOPIC, await log.end(TOPIC), wait_s=PATIENCE_S))
    await log.append("penstock.other", entries(("k", "not this topic")))
    assert not reading.done()
    await log.append(TOPIC, entries(("k", "new")))
    found = await asyncio.wait_for(reading, PATIENCE_S / 2)
    assert found[0].value == b"new"


async def test_a_read_may_wait_for_the_first_entry_of_a_new_topic(log: EventLog) -> None:
    reading = asyncio.create_task(log.read("penstock.later", {}, wait_s=PATIENCE_S))
    await asyncio.sleep(0)  # let the read begin
    await log.append("penstock.later", entries(("k", "first")))
    assert [entry.value for entry in await asyncio.wait_for(reading, PATIENCE_S / 2)] == [b"first"]


async def test_a_read_that_waits_in_vain_returns_nothing(log: EventLog) -> None:
    assert await log.read(TOPIC, {}, wait_s=0.01) == []


async def test_a_cancelled_wait_leaves_nothing_behind(log: EventLog) -> None:
    reading = asyncio.create_task(log.read(TOPIC, {}, wait_s=PATIENCE_S))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await log.append(TOPIC, entries(("k", "v")))
    assert by_key(await everything(log)) == {"k": ["v"]}


# Positions


async def test_positions_are_kept_per_group_and_topic(log: EventLog) -> None:
    await log.append(TOPIC, entries(*((f"k{n}", "v") for n in range(20))))
    end = await log.end(TOPIC)
    await log.commit("one", TOPIC, end)
    assert await log.committed("one", TOPIC) == end
    assert await log.committed("two", TOPIC) == {}
    assert await log.committed("one", "penstock.other") == {}


async def test_a_commit_never_goes_back_unless_it_seeks(log: EventLog) -> None:
    await log.append(TOPIC, entries(*(("k", str(n)) for n in range(10))))
    (partition,) = {entry.partition for entry in await everything(log)}
    await log.commit("group", TOPIC, {partition: 7})
    await log.commit("group", TOPIC, {partition: 3})
    assert (await log.committed("group", TOPIC))[partition] == 7
    await log.commit("group", TOPIC, {partition: 3}, seek=True)
    assert (await log.committed("group", TOPIC))[partition] == 3
    await log.commit("group", TOPIC, {})
    assert (await log.committed("group", TOPIC))[partition] == 3


# Trim and compact


async def test_trim_deletes_only_what_is_both_old_and_read(log: EventLog) -> None:
    await log.append(TOPIC, entries(*(("k", str(n)) for n in range(10))))
    places = [(entry.partition, entry.offset) for entry in await everything(log)]
    (partition,) = {home for home, _ in places}
    assert await log.trim(TOPIC, before_ms=FUTURE_MS, below={}) == 0
    assert await log.trim(TOPIC, before_ms=1, below=await log.end(TOPIC)) == 0
    assert await log.trim(TOPIC, before_ms=FUTURE_MS, below={partition: places[4][1]}) == 4
    assert by_key(await everything(log)) == {"k": ["4", "5", "6", "7", "8", "9"]}


async def test_offsets_are_not_used_again_after_everything_was_trimmed(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path / "log") as log:
        await log.append(TOPIC, entries(("k", "1"), ("k", "2")))
        end = await log.end(TOPIC)
        assert await log.trim(TOPIC, before_ms=FUTURE_MS, below=end) >= 2  # a log may count its own marks
        assert await everything(log) == []
        assert await log.end(TOPIC) == end
    async with factory(tmp_path / "log") as log:
        ((partition, offset),) = await log.append(TOPIC, entries(("k", "3")))
        assert offset >= end[partition]
        assert by_key(await everything(log)) == {"k": ["3"]}


async def test_compact_keeps_the_newest_of_each_key_in_its_place(log: EventLog) -> None:
    await log.append(TOPIC, entries(*((f"k{n % 4}", str(n)) for n in range(5000))))
    newest = {entry.key: entry for entry in await everything(log)}
    deleted = await log.compact(TOPIC)
    left = await everything(log)
    assert deleted == 5000 - len(left)
    assert {entry.key: entry for entry in left} == newest
    assert await log.compact(TOPIC) == 0 or deleted == 0


async def test_appends_go_on_while_the_log_is_compacted(log: EventLog) -> None:
    await log.append(TOPIC, entries(*((f"k{n % 10}", "old") for n in range(8000))))
    compacting = asyncio.create_task(log.compact(TOPIC))
    during = 0
    while not compacting.done():
        await log.append(TOPIC, entries((f"k{during % 10}", f"new-{during}")))
        during += 1
    await compacting
    await log.append(TOPIC, entries(("k0", "last")))
    found = by_key(await everything(log))
    assert found["k0"][-1] == "last"
    assert len(found) == 10


# Durability


async def test_contents_and_positions_survive_another_opening(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path / "log") as log:
        await log.append(TOPIC, entries(("a", "1"), ("b", "2")))
        await log.commit("group", TOPIC, await log.end(TOPIC))
        first, end = await everything(log), await log.end(TOPIC)
    async with factory(tmp_path / "log") as log:
        assert await everything(log) == first
        assert await log.committed("group", TOPIC) == await log.end(TOPIC) == end


async def appender(adapter: str, folder: Path) -> None:
    """The victim of the crash test: appends pairs under several keys for ever and says which were acknowledged."""
    async with dict(ADAPTERS)[adapter](folder) as log:

        async def writer(key: str) -> None:
            have = len(by_key(await everything(log)).get(key, [])) // 2
            while True:
                await log.append(TOPIC, entries((key, f"{have}.0"), (key, f"{have}.1")))
                sys.stdout.write(f"{key} {have}\n")
                sys.stdout.flush()
                have += 1

        await asyncio.gather(*(writer(f"key-{n}") for n in range(4)))


async def test_everything_acknowledged_is_there_after_a_kill(adapter: str, tmp_path: Path) -> None:
    """Five lives, each killed without warning at another moment while it goes on appending."""
    acknowledged: dict[str, int] = {}
    for patience in (1, 2, 13, 150, 400):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.contracts.test_event_log", adapter, tmp_path / "log",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        lines = [await asyncio.wait_for(child.stdout.readline(), PATIENCE_S) for _ in range(patience)]
        child.kill()
        lines += (await child.stdout.read()).splitlines(keepends=True)
        await child.wait()
        for line in lines:
            if line.endswith(b"\n"):  # else the kill cut it short
                key, number = line.decode().split()
                acknowledged[key] = int(number)
        async with dict(ADAPTERS)[adapter](tmp_path / "log") as log:
            found = by_key(await everything(log))
        for key, values in found.items():
            assert len(values) % 2 == 0, "all or none of one append"
            assert values == [f"{n}.{part}" for n in range(len(values) // 2) for part in (0, 1)]
            assert len(values) // 2 > acknowledged.get(key, -1)
        assert acknowledged.keys() <= found.keys()


if __name__ == "__main__":
    asyncio.run(appender(sys.argv[1], Path(sys.argv[2])))
