"""Kafka: records outlive restarts and kills, and clients meet every fault through the address they were told."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # type: ignore[import-untyped,unused-ignore]
from aiokafka.errors import KafkaError  # type: ignore[import-untyped,unused-ignore]

from tests.components.helpers import until
from tests.testbed import Bed
from tests.testbed.kafka import Kafka
from tests.testbed.links import Cut

pytestmark = pytest.mark.components

REQUEST_MS = 2000


@asynccontextmanager
async def producer(kafka: Kafka, **options: object) -> AsyncIterator[AIOKafkaProducer]:
    one = AIOKafkaProducer(bootstrap_servers=str(kafka.address), acks="all", **options)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


async def produce(kafka: Kafka, topic: str, *values: bytes) -> None:
    async with producer(kafka, enable_idempotence=True) as one:
        for value in values:
            await asyncio.wait_for(one.send_and_wait(topic, value), 20)


async def consume(kafka: Kafka, topic: str) -> list[bytes]:
    """All values of the topic's only partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=str(kafka.address), auto_offset_reset="earliest")
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        await consumer.seek_to_beginning(partition)
        values: list[bytes] = []
        while await consumer.position(partition) < end:
            record = await asyncio.wait_for(consumer.getone(), 20)
            values.append(record.value)
        return values
    finally:
        await consumer.stop()


async def test_records_outlive_a_restart(fault_bed: Bed) -> None:
    kafka = fault_bed.kafka
    await kafka.start()
    await produce(kafka, "kept", b"one", b"two")
    before = kafka.address
    await kafka.restart()
    assert kafka.address == before
    assert await consume(kafka, "kept") == [b"one", b"two"]
    await kafka.kill()
    await kafka.start()
    await produce(kafka, "kept", b"three")
    assert await consume(kafka, "kept") == [b"one", b"two", b"three"]


async def test_a_stopped_broker_acknowledges_nothing_until_resumed(kafka: Kafka) -> None:
    async with producer(kafka) as one:
        await one.send_and_wait("paused", b"before")
        await kafka.stop()
        sending = await one.send("paused", b"during")
        done, _ = await asyncio.wait([sending], timeout=0.5)
        assert not done
        await kafka.resume()
        await asyncio.wait_for(sending, 30)
    assert await consume(kafka, "paused") == [b"before", b"during"]


async def test_slow_delays_an_acknowledgement(kafka: Kafka) -> None:
    async with producer(kafka) as one:
        await one.send_and_wait("slow", b"first")
        await kafka.slow(0.3)
        started = time.monotonic()
        await one.send_and_wait("slow", b"second")
        took = time.monotonic() - started
        await kafka.mend()
    assert took >= 0.6


@pytest.mark.parametrize("how", list(Cut))
async def test_cut_off_producers_go_on_when_it_is_mended(kafka: Kafka, how: Cut) -> None:
    topic = f"cut-{how.value}"
    async with producer(kafka, request_timeout_ms=30_000) as one:
        await one.send_and_wait(topic, b"before")
        await kafka.cut(how)
        sending = await one.send(topic, b"during")
        done, _ = await asyncio.wait([sending], timeout=0.5)
        assert not done
        await kafka.mend()
        await asyncio.wait_for(sending, 30)
    assert await consume(kafka, topic) == [b"before", b"during"]


async def test_a_full_disk_ends_the_broker_and_room_brings_it_back(fault_bed: Bed) -> None:
    kafka = fault_bed.kafka
    await kafka.start()
    await produce(kafka, "full", b"before")
    await kafka.fill()
    async with producer(kafka, request_timeout_ms=REQUEST_MS) as one:

        async def refused() -> bool:
            try:
                # A new topic each time: the segments of an old one have their place already.
                await one.send_and_wait(f"full-{next(numbers)}", bytes(1000))
            except (KafkaError, TimeoutError):
                return True
            return False

        numbers = itertools.count()
        await until("a record is refused", refused, 60)
    await kafka.drain()
    await kafka.restart()
    assert await consume(kafka, "full") == [b"before"]
