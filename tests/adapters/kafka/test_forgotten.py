"""An empty value is a tombstone to Kafka too: only what has no value at all is ever compacted away."""

from __future__ import annotations

import secrets

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition  # type: ignore[import-untyped,unused-ignore]

from penstock.adapters.kafka import KafkaEventLog, KafkaSettings
from penstock.model import TOPIC_RECORDS
from penstock.ports import LogEntry
from tests.testbed.kafka import Kafka

pytestmark = pytest.mark.components


async def test_an_empty_value_is_none_to_the_broker_and_empty_to_us(kafka: Kafka) -> None:
    settings = KafkaSettings(servers=str(kafka.address), prefix=f"{secrets.token_hex(4)}-", partitions=1)
    log = KafkaEventLog(settings)
    try:
        await log.ensure_topics([TOPIC_RECORDS])
        await log.append(TOPIC_RECORDS, [LogEntry("a", b"one"), LogEntry("a", b"")])
        assert [entry.value for entry in await log.read(TOPIC_RECORDS, {}, wait_s=30)] == [b"one", b""]
    finally:
        await log.close()
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partition = TopicPartition(settings.name(TOPIC_RECORDS), 0)
        consumer.assign([partition])
        found = [await consumer.getone(partition) for _ in range(2)]
    finally:
        await consumer.stop()
    assert [one.value for one in found] == [b"one", None]
