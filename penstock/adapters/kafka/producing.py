"""One aiokafka producer, with what it lacks: a start and an end that are bounded, and batches that are filled at once.

An idempotent producer tries for ever, so its `stop` waits for ever while brokers are away; and once the broker has
refused one batch for good, the sequence numbers of all later ones are wrong. So a producer that failed is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped,unused-ignore]
from aiokafka import errors as kafka

from penstock.adapters.kafka.cluster import within
from penstock.adapters.kafka.packing import Part, Row
from penstock.adapters.kafka.settings import KafkaSettings
from penstock.adapters.kafka.trouble import translated
from penstock.clock import now_ms
from penstock.errors import Unavailable

log = structlog.get_logger(__name__)


@contextlib.contextmanager
def _state_checked() -> Iterator[None]:
    """Where a transaction has already failed aiokafka asserts; here it is an error of Kafka's like others."""
    try:
        yield
    except AssertionError as error:
        raise kafka.InvalidTxnState("the transaction has failed") from error


class Producer:
    """Sends batches. Not for use after `stop`."""

    def __init__(self, settings: KafkaSettings, options: Mapping[str, Any]) -> None:
        self._settings = settings
        transactional = {}
        if settings.transactional_id is not None:
            transactional = {
                "transactional_id": settings.name(settings.transactional_id),
                "transaction_timeout_ms": settings.transaction_ms,
            }
        self._producer = AIOKafkaProducer(
            **options,
            **transactional,
            enable_idempotence=True,
            acks="all",
            max_batch_size=settings.batch_bytes,
            max_request_size=settings.batch_bytes,
        )

    async def start(self) -> None:
        """Connect, and fence whoever used the transactional id before. Raises Unavailable, Forbidden, ..."""
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                await self._bootstrapped()
        except BaseException as error:
            await self.stop()
            if isinstance(error, TimeoutError):
                text = f"opening a producer: no broker answered within {self._settings.deadline_s:g} s"
                raise Unavailable(text) from error
            if isinstance(error, kafka.KafkaError):
                raise translated(error, "opening a producer") from error
            raise

    async def _bootstrapped(self) -> None:
        while True:
            try:
                await self._producer.start()
            except kafka.KafkaConnectionError:
                await asyncio.sleep(self._settings.backoff_ms / 1000)
            else:
                return

    async def send(self, topic: str, batch: Sequence[tuple[Part, Sequence[Row]]]) -> asyncio.Future[Any]:
        """Hand over one batch for one partition; the future has the `base_offset`, or fails with a KafkaError."""
        builder = self._producer.create_batch()
        append = builder.append
        now = now_ms()  # replaced by the broker's own, except in topics that others made
        for _, rows in batch:
            for _, key, value in rows:
                if append(timestamp=now, key=key, value=value or None) is None:
                    raise AssertionError("a batch was filled with more than it holds")
        partition = batch[0][0].partition
        if partition not in await self._producer.partitions_for(topic):
            raise kafka.LeaderNotAvailableError(topic)  # aiokafka would assert
        sent: asyncio.Future[Any] = await self._producer.send_batch(builder, topic, partition=partition)
        return sent

    async def begin(self) -> None:
        """Begin a transaction. Raises KafkaError."""
        with _state_checked():
            await self._producer.begin_transaction()

    async def commit(self) -> None:
        """Make everything since `begin` visible. Raises KafkaError."""
        with _state_checked():
            await self._producer.commit_transaction()

    async def stop(self) -> None:
        """Send what waits, within one request's time; give up the rest."""
        if await within(self._settings.request_s, self._producer.stop()):
            return
        log.warning("giving up what the broker did not take", action="producer_abandoned")
        # Not in aiokafka's interface, but its `stop` waits for these batches without a limit.
        sender, waiting = self._producer._sender, self._producer._message_accumulator  # noqa: SLF001
        # A request under way ends by its own timeout; then come a pause and a try for new metadata.
        if not await within(4 * self._settings.request_s, sender.close()):
            log.error("a producer does not stop", action="producer_stuck")
        waiting.fail_all(kafka.KafkaConnectionError("the producer was closed"))
        await within(self._settings.request_s, self._producer.client.close())
