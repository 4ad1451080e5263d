"""What an entry costs through the adapter, beside plain aiokafka in the same run on the same topics.

`python -m tests.adapters.kafka.bench HOST:PORT [ENTRIES]`, with a broker of `python -m tests.testbed up kafka`.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import (  # type: ignore[import-untyped,unused-ignore]
    AIOKafkaConsumer,
    AIOKafkaProducer,
    TopicPartition,
)

from penstock.adapters.kafka import KafkaEventLog, KafkaSettings
from penstock.ports import LogEntry

TOPIC = "penstock.events"
PARTITIONS = 8
CALLERS = 100
GROUP = 100
VALUE = bytes(600)


@dataclass(frozen=True)
class Cost:
    per_s: float
    cpu_us: float

    def beside(self, other: Cost) -> str:
        return (
            f"{self.per_s:9,.0f}/s {self.cpu_us:6.1f} us CPU | plain {other.per_s:9,.0f}/s {other.cpu_us:6.1f} us CPU"
            f" | ratio {self.per_s / other.per_s:.2f}, CPU {self.cpu_us / other.cpu_us:.2f}"
        )


async def cost(entries: int, work: Callable[[], Awaitable[object]]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return Cost(entries / (time.perf_counter() - wall), 1e6 * (time.process_time() - cpu) / entries)


@asynccontextmanager
async def plain(settings: KafkaSettings) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=settings.servers, enable_idempotence=True, acks="all")
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def appended(log: KafkaEventLog, count: int, group: int) -> Cost:
    """`CALLERS` callers at once, each with `group` entries a call."""
    calls = iter(range(count // group))

    async def caller() -> None:
        for call in calls:
            await log.append(TOPIC, [LogEntry(f"bucket/key-{call}-{n}", VALUE) for n in range(group)])

    return await cost(count, lambda: asyncio.gather(*(caller() for _ in range(CALLERS))))


async def sent(settings: KafkaSettings, count: int, group: int) -> Cost:
    topic = settings.name(TOPIC)
    calls = iter(range(count // group))
    async with plain(settings) as producer:
        await producer.send_and_wait(topic, b"warm")

        async def caller() -> None:
            for call in calls:
                waiting = [
                    await producer.send(topic, VALUE, key=f"bucket/key-{call}-{n}".encode()) for n in range(group)
                ]
                await asyncio.gather(*waiting)

        return await cost(count, lambda: asyncio.gather(*(caller() for _ in range(CALLERS))))


async def read(log: KafkaEventLog, count: int) -> Cost:
    async def work() -> None:
        positions: dict[int, int] = {}
        left = count
        while left > 0:
            batch = await log.read(TOPIC, positions, limit=1000, wait_s=10)
            assert batch
            for entry in batch:
                positions[entry.partition] = entry.offset + 1
            left -= len(batch)

    return await cost(count, work)


async def consumed(settings: KafkaSettings, count: int) -> Cost:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.servers, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(settings.name(TOPIC), partition) for partition in range(PARTITIONS)])

        async def work() -> None:
            left = count
            while left > 0:
                batches = await consumer.getmany(timeout_ms=10_000, max_records=1000)
                left -= sum(map(len, batches.values()))

        return await cost(count, work)
    finally:
        await consumer.stop()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


async def main(servers: str, count: int) -> None:
    for sync in (True, False):
        for fenced in (False, True):
            settings = KafkaSettings(
                servers=servers,
                prefix=f"bench-{uuid.uuid4().hex[:8]}-",
                partitions=PARTITIONS,
                sync=sync,
                transactional_id="writer" if fenced else None,
            )
            log = KafkaEventLog(settings)
            await log.ensure_topics([TOPIC])
            if fenced:
                await log.take_over()
            await log.append(TOPIC, [LogEntry("warm", b"")])
            say(f"-- {'synced' if sync else 'not synced'}, {'in transactions' if fenced else 'idempotent'}")
            for group in (1, GROUP):
                ours, theirs = await appended(log, count, group), await sent(settings, count, group)
                say(f"{CALLERS} callers, {group:3} a call: {ours.beside(theirs)}")
            ours, theirs = await read(log, 4 * count), await consumed(settings, 4 * count)
            say(f"read, 1000 a call      : {ours.beside(theirs)}")
            await log.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20_000))
