"""What the contract leaves open and Kafka has to answer: topics, fencing, compaction, trimmed positions, health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from penstock.adapters.kafka import KafkaEventLog, KafkaSettings
from penstock.adapters.kafka.producing import Producer
from penstock.errors import Closed, Fenced, InvalidInput, Unavailable, Unsupported
from penstock.ports import LogEntry, StoredEntry
from tests.adapters.kafka.conftest import Open
from tests.contracts.test_event_log import by_key, entries, everything

EVENTS, RECORDS = "penstock.events", "penstock.records"
FUTURE_MS = 1 << 50
PATIENCE_S = 60.0


async def until(what: str, check: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not await check():
        assert time.monotonic() < deadline, f"in vain for {PATIENCE_S:g} s: {what}"
        await asyncio.sleep(0.2)


def values(found: list[StoredEntry]) -> list[bytes]:
    return [entry.value for entry in found]


# Without a broker


async def test_without_a_broker_every_call_ends_in_time_with_unavailable() -> None:
    log = KafkaEventLog(KafkaSettings(servers="127.0.0.1:1", deadline_s=0.3, request_s=0.2, transactional_id="w"))
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: log.append(EVENTS, entries(("k", "v"))),
        lambda: log.read(EVENTS, {}),
        lambda: log.end(EVENTS),
        lambda: log.committed("group", EVENTS),
        lambda: log.commit("group", EVENTS, {0: 1}),
        lambda: log.trim(EVENTS, before_ms=1, below={0: 1}),
        lambda: log.ensure_topics([EVENTS]),
        log.take_over,
    ]
    for call in calls:
        started = time.monotonic()
        with pytest.raises(Unavailable, match=r"within 0\.3 s"):
            await call()
        assert time.monotonic() - started < 3
    await log.close()
    with pytest.raises(Closed):
        await log.end(EVENTS)
    assert not log.health.ok


async def test_only_a_log_with_a_transactional_id_takes_over() -> None:
    log = KafkaEventLog(KafkaSettings(servers="127.0.0.1:1"))
    with pytest.raises(Unsupported):
        await log.take_over()
    await log.close()


# Topics


@pytest.mark.components
async def test_topics_are_made_once_and_another_number_of_partitions_is_refused(open_log: Open) -> None:
    await open_log(partitions=3).ensure_topics([EVENTS, RECORDS])
    await open_log(partitions=3).ensure_topics([RECORDS, EVENTS])
    wrong = open_log(partitions=4)
    asked: list[Callable[[], Awaitable[object]]] = [
        lambda: wrong.ensure_topics([EVENTS]),
        lambda: wrong.append(EVENTS, entries(("k", "v"))),
        lambda: wrong.read(EVENTS, {}),
        lambda: wrong.end(EVENTS),
    ]
    for ask in asked:
        with pytest.raises(InvalidInput, match="has 3 partitions, not 4: the number is fixed") as refused:
            await ask()
        assert refused.value.where == "kafka.partitions"
    assert await everything(open_log(), EVENTS) == [], "nothing was half done"


@pytest.mark.components
async def test_a_topic_that_would_age_out_states_is_refused(open_log: Open) -> None:
    await open_log(compacted=frozenset()).ensure_topics([RECORDS])
    with pytest.raises(InvalidInput, match=r"has cleanup\.policy=delete, but must have compact,delete"):
        await open_log().ensure_topics([RECORDS])


@pytest.mark.components
async def test_asking_for_a_topic_does_not_make_it(open_log: Open) -> None:
    log = open_log()
    assert await log.read("penstock.nowhere", {}, wait_s=0.3) == []
    await log.end("penstock.nowhere")
    assert await log._cluster.partitions(log._settings.name("penstock.nowhere")) == 0


@pytest.mark.components
async def test_compaction_keeps_the_newest_entry_of_each_key(open_log: Open) -> None:
    quick = {"segment.ms": "100", "segment.bytes": "20000", "min.cleanable.dirty.ratio": "0.01"}
    log = open_log(partitions=1, topic_config=quick | {"max.compaction.lag.ms": "100"})
    for round_ in range(20):
        await log.append(RECORDS, entries(*((f"k{n}", f"{round_}.{n}") for n in range(50))))
    assert await log.compact(RECORDS) == 0

    async def compacted() -> bool:
        # Only closed segments are compacted: this closes one.
        await log.append(RECORDS, entries(("last", "x")))
        return len(await everything(log, RECORDS)) < 300

    await until("the broker compacts", compacted)
    found = by_key(await everything(log, RECORDS))
    assert {key: values[-1] for key, values in found.items()} == {f"k{n}": f"19.{n}" for n in range(50)} | {"last": "x"}


@pytest.mark.components
async def test_a_compacted_topic_can_be_trimmed_too(open_log: Open) -> None:
    log = open_log(partitions=1)
    places = await log.append(RECORDS, entries(*((f"k{n}", str(n)) for n in range(10))))
    assert await log.trim(RECORDS, before_ms=FUTURE_MS, below={0: places[6][1]}) == 6
    assert values(await everything(log, RECORDS)) == [b"6", b"7", b"8", b"9"]


# Sizes


@pytest.mark.components
async def test_an_entry_that_is_too_large_is_refused_before_anything_is_sent(open_log: Open) -> None:
    log = open_log()
    with pytest.raises(InvalidInput, match="2000000 bytes with a key of 5 is too large for the log: together at most"):
        await log.append(EVENTS, [LogEntry("small", b"1"), LogEntry("large", bytes(2_000_000))])
    assert await everything(log, EVENTS) == []


@pytest.mark.components
@pytest.mark.parametrize("fenced", [False, True])
async def test_a_batch_that_the_broker_refuses_harms_no_later_one(open_log: Open, fenced: bool) -> None:
    given = {"transactional_id": "w"} if fenced else {}
    log = open_log(topic_config={"max.message.bytes": "10000"}, **given)
    if fenced:
        await log.take_over()
    await log.append(EVENTS, entries(("k", "1")))
    with pytest.raises(InvalidInput):
        await log.append(EVENTS, [LogEntry("k", bytes(20_000))])
    if fenced:
        with pytest.raises(Fenced, match="not the writer of w"):
            await log.append(EVENTS, entries(("k", "2")))
        await log.take_over()
    for value in ("2", "3"):
        await log.append(EVENTS, entries(("k", value)))
    assert values(await everything(log, EVENTS)) == [b"1", b"2", b"3"]


@pytest.mark.components
async def test_more_than_a_batch_arrives_whole_and_in_order(open_log: Open) -> None:
    log = open_log(batch_bytes=20_000)
    given = [LogEntry(f"k{n % 7}", b"%d" % n + bytes(500)) for n in range(500)]
    places = await log.append(EVENTS, given)
    found = {(entry.partition, entry.offset): entry for entry in await everything(log, EVENTS)}
    assert [(found[place].key, found[place].value) for place in places] == [(one.key, one.value) for one in given]


@pytest.mark.components
async def test_twenty_thousand_entries_come_back_in_order(open_log: Open) -> None:
    writer, reader = open_log(), open_log()

    async def write(worker: int) -> None:
        for start in range(0, 5000, 250):
            await writer.append(EVENTS, entries(*((f"{worker}/{n % 40}", f"{n}") for n in range(start, start + 250))))

    _, found = await asyncio.gather(asyncio.gather(*(write(worker) for worker in range(4))), follow(reader, 20_000))
    assert by_key(found) == {
        f"{worker}/{key}": [str(n) for n in range(key, 5000, 40)] for worker in range(4) for key in range(40)
    }
    assert reader.health.ok
    assert (reader.health.lag, reader.health.gap_entries) == (0, 0)


async def follow(log: KafkaEventLog, count: int) -> list[StoredEntry]:
    """Read while it is being written, until there are so many."""
    found: list[StoredEntry] = []
    positions: dict[int, int] = {}
    while len(found) < count:
        batch = await log.read(EVENTS, positions, limit=700, wait_s=PATIENCE_S)
        assert batch, f"only {len(found)} came"
        positions |= {entry.partition: entry.offset + 1 for entry in batch}
        found += batch
    return found


# Fencing


@pytest.mark.components
async def test_a_successor_fences_the_writer_before_it(open_log: Open) -> None:
    old, new = open_log(transactional_id="writer"), open_log(transactional_id="writer")
    with pytest.raises(Fenced, match="has not taken over"):
        await old.append(RECORDS, entries(("k", "never")))
    await old.take_over()
    await old.append(RECORDS, entries(("k", "old")))
    await new.take_over()
    for _ in range(2):  # what it did not know at first, it knows from then on
        with pytest.raises(Fenced, match="taken over"):
            await old.append(RECORDS, entries(("k", "zombie")))
    await new.append(RECORDS, entries(("k", "new")))
    assert values(await everything(open_log(), RECORDS)) == [b"old", b"new"]
    assert values(await everything(open_log(read_committed=False), RECORDS)) == [b"old", b"new"]


@pytest.mark.components
async def test_what_a_dead_writer_left_open_is_never_seen_and_holds_nobody_up(open_log: Open) -> None:
    old, new = open_log(transactional_id="writer"), open_log(transactional_id="writer")
    await old.take_over()
    await old.append(RECORDS, entries(("k", "1")))
    # Dies between sending and committing: the producer goes on by itself, its commit never comes.
    assert old._fenced is not None
    assert old._fenced._producer is not None
    inner = old._fenced._producer._producer
    await inner.begin_transaction()
    await inner.send_and_wait(old._settings.name(RECORDS), key=b"k", value=b"half", partition=0)
    reader = open_log()
    assert values(await everything(reader, RECORDS)) == [b"1"]
    await new.take_over()
    await new.append(RECORDS, entries(("k", "2")))
    assert values(await everything(reader, RECORDS)) == [b"1", b"2"]


@pytest.mark.components
@pytest.mark.slow
async def test_a_transaction_that_the_broker_gave_up_ends_the_writer_and_is_never_seen(
    open_log: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(transactional_id="writer", transaction_ms=1000, deadline_s=PATIENCE_S / 2, partitions=1)
    await log.take_over()
    await log.append(RECORDS, entries(("k", "1")))
    name, end = log._settings.name(RECORDS), await log.end(RECORDS)
    commit = Producer.commit

    async def much_later(producer: Producer) -> None:
        async def given_up() -> bool:
            return (await log.end(RECORDS))[0] > end[0]

        await until("the broker gives up", given_up)
        await commit(producer)

    monkeypatch.setattr(Producer, "commit", much_later)
    with pytest.raises((Fenced, Unavailable)):
        await log.append(RECORDS, entries(("k", "too late")))
    monkeypatch.undo()
    with pytest.raises(Fenced, match="not the writer"):
        await log.append(RECORDS, entries(("k", "nor this")))
    await log.take_over()
    await log.append(RECORDS, entries(("k", "2")))
    assert values(await everything(log, RECORDS)) == [b"1", b"2"]
    assert (await log._cluster.offsets(name, {0: -1}))[0] > end[0] + 1, "it was there, and is hidden"


# Reading


@pytest.mark.components
async def test_a_reader_that_is_stuck_is_found_out_and_replaced(open_log: Open) -> None:
    log = open_log(partitions=1, deadline_s=1.0)
    await log.append(EVENTS, entries(("k", "1")))
    assert len(await everything(log, EVENTS)) == 1
    for reader in log._readers._idle[log._settings.name(EVENTS)]:
        reader._consumer.pause(*reader._consumer.assignment())  # no error, no data, as after some broker restarts
    await log.append(EVENTS, entries(("k", "2")))
    with pytest.raises(Unavailable, match="1 partitions have more, but nothing came in 1 s"):
        await log.read(EVENTS, {0: 1}, wait_s=0.1)
    assert values(await log.read(EVENTS, {0: 1})) == [b"2"]


@pytest.mark.components
async def test_readers_of_one_topic_do_not_wait_for_each_other(open_log: Open) -> None:
    log = open_log()
    await log.append(EVENTS, entries(*((f"k{n}", str(n)) for n in range(30))))
    tail = asyncio.create_task(log.read(EVENTS, await log.end(EVENTS), wait_s=PATIENCE_S))
    for _ in range(5):
        assert len(await everything(log, EVENTS)) == 30
    assert not tail.done()
    await log.append(EVENTS, entries(("k1", "woken")))
    assert values(await asyncio.wait_for(tail, 10)) == [b"woken"]


@pytest.mark.components
async def test_a_read_that_is_cancelled_loses_nothing_for_the_next(open_log: Open) -> None:
    log = open_log()
    await log.append(EVENTS, entries(("k", "1")))
    start = await log.end(EVENTS)
    for value in ("2", "3", "4"):
        reading = asyncio.create_task(log.read(EVENTS, await log.end(EVENTS), wait_s=PATIENCE_S))
        await asyncio.sleep(0.05)
        sent = asyncio.create_task(log.append(EVENTS, entries(("k", value))))
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await sent
    assert values(await log.read(EVENTS, start)) == [b"2", b"3", b"4"]


@pytest.mark.components
async def test_positions_that_were_trimmed_away_go_on_at_the_first_entry_and_the_gap_is_told(open_log: Open) -> None:
    writer, reader = open_log(partitions=1), open_log(partitions=1, fetch_bytes=1000)
    # One batch each, so that the reader cannot fetch all of it ahead.
    places = [(await writer.append(EVENTS, [LogEntry("k", bytes(900))]))[0] for _ in range(40)]
    assert len(await reader.read(EVENTS, {0: places[0][1]}, limit=1)) == 1
    await writer.trim(EVENTS, before_ms=FUTURE_MS, below={0: places[30][1]})
    with capture_logs() as told:
        # The same reader goes on (what it has in memory already, it may still give), then a new one begins.
        position, found = places[1][1], []
        while batch := await reader.read(EVENTS, {0: position}):
            found += batch
            position = batch[-1].offset + 1
        again = await writer.read(EVENTS, {0: places[5][1]})
    assert [entry.offset for entry in found][-10:] == [entry.offset for entry in again] == list(range(30, 40))
    assert writer.health.gap_entries == 25
    assert 0 < reader.health.gap_entries <= 29
    assert {entry["action"] for entry in told} == {"log_gap"}
    assert any(entry["position"] == 5 and entry["first"] == 30 for entry in told)


@pytest.mark.components
async def test_a_position_beyond_the_end_is_told_and_read_from_the_beginning(open_log: Open) -> None:
    log = open_log(partitions=1)
    await log.append(EVENTS, entries(("k", "1")))
    with capture_logs() as told:
        assert values(await log.read(EVENTS, {0: 999})) == [b"1"]
    assert [entry["event"] for entry in told] == ["the topic ends before the position"]


@pytest.mark.components
async def test_closing_ends_a_read_that_waits(open_log: Open) -> None:
    log = open_log()
    await log.append(EVENTS, entries(("k", "1")))
    reading = asyncio.create_task(log.read(EVENTS, await log.end(EVENTS), wait_s=PATIENCE_S))
    await asyncio.sleep(0.2)
    await log.close()
    with pytest.raises(Closed):
        await asyncio.wait_for(reading, 10)
