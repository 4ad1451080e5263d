"""Logs on the bed's broker, each test's topics under a prefix of its own, all of them closed at the end."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from penstock.adapters.kafka import KafkaEventLog, KafkaSettings
from tests.testbed.kafka import Kafka

#: Settings by name, in place of the defaults.
Open = Callable[..., KafkaEventLog]


class Logs:
    def __init__(self) -> None:
        self.prefix = f"test-{uuid.uuid4().hex[:8]}-"
        self.opened: list[KafkaEventLog] = []

    def settings(self, broker: Kafka, **given: Any) -> KafkaSettings:
        return KafkaSettings(**{"servers": str(broker.address), "prefix": self.prefix, "partitions": 3, **given})

    def open(self, broker: Kafka, **given: Any) -> KafkaEventLog:
        log = KafkaEventLog(self.settings(broker, **given))
        self.opened.append(log)
        return log


@pytest.fixture
async def logs() -> AsyncIterator[Logs]:
    logs = Logs()
    yield logs
    for log in reversed(logs.opened):
        await log.close()


@pytest.fixture
def open_log(logs: Logs, kafka: Kafka) -> Open:
    """Another log on the shared broker: same prefix, settings as given."""
    return lambda **given: logs.open(kafka, **given)
