"""One reader of one topic: every partition assigned by hand, no consumer group, positions given by the caller.

There is one active dispatcher, which reads all partitions, so a group would only add rebalances. What aiokafka's
consumer lacks is told apart here: "nothing there" from "could not read" (an empty answer is believed only when the
broker confirms that nothing is behind the position), and a fetcher that is stuck from one that waits (a reader that
stays behind is given up, and the next read opens another).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition  # type: ignore[import-untyped,unused-ignore]
from aiokafka import errors as kafka

from penstock.adapters.kafka.cluster import EARLIEST, LATEST, Cluster, within
from penstock.adapters.kafka.settings import KafkaSettings
from penstock.adapters.kafka.trouble import translated
from penstock.errors import Closed, PenstockError, Unavailable

log = structlog.get_logger(__name__)

#: Seconds of one wait inside the consumer. A cancelled read has to let it end, so it is short.
_SLICE = 0.5
#: The same while the broker says that there is more: the rest may be marks of transactions, which wake nobody.
_SHORT_SLICE = 0.02
#: A topic's partition at a position: what its reader would give next, as its caller sees it.
Expected = dict[int, int | None]


class Reader:
    """`topic` is named as in the cluster. One read at a time; `usable` says whether another may follow."""

    def __init__(
        self, settings: KafkaSettings, options: Mapping[str, Any], cluster: Cluster, topic: str, partitions: int
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._topic = topic
        self._tps = [TopicPartition(topic, partition) for partition in range(partitions)]
        self._consumer = AIOKafkaConsumer(
            **options,
            group_id=None,
            enable_auto_commit=False,
            # Out of range is an event that is told, not something to be mended in silence.
            auto_offset_reset="none",
            isolation_level="read_committed" if settings.read_committed else "read_uncommitted",
            max_partition_fetch_bytes=settings.fetch_bytes,
            fetch_max_wait_ms=int(min(0.5, settings.request_s / 4) * 1000),
        )
        self._assigned = False
        self._fetching: asyncio.Task[Any] | None = None
        #: The positions with which a caller goes on here. None = it has not named the partition so far.
        self.expected: Expected = {}
        self.usable = True
        self.used_at = asyncio.get_running_loop().time()
        #: Entries that were trimmed before they could be read.
        self.gap_entries = 0
        #: When a read last brought something or was confirmed to be at the end; monotonic.
        self.confirmed_at = self.used_at

    def serves(self, positions: Mapping[int, int]) -> bool:
        """Whether a read from these positions goes on where this reader stands."""
        return bool(self.expected) and all(
            self.expected[tp.partition] == positions.get(tp.partition) for tp in self._tps
        )

    async def read(self, positions: Mapping[int, int], limit: int, wait_s: float) -> list[Any]:
        """Records of aiokafka, in offset order per partition. Raises Unavailable, Corrupt, Forbidden, Closed."""
        try:
            await self._begin(positions)
            found = await self._fetched(limit, wait_s)
        except kafka.KafkaError as error:
            self.usable = False
            raise translated(error, f"reading {self._topic}") from error
        except (PenstockError, asyncio.CancelledError):
            # Cancelled: the fetch under way ends by itself and nobody gets what it brings.
            self.usable = False
            raise
        self.confirmed_at = self.used_at = asyncio.get_running_loop().time()
        for record in found:
            self.expected[record.partition] = record.offset + 1
        return found

    def lag(self) -> int:
        """Entries between what was read and the newest that the broker has told of."""
        behind = 0
        # Asked of the consumer: between its start and its first seek it has no partitions yet.
        assigned = self._consumer.assignment()
        for tp in self._tps:
            if tp not in assigned:
                continue
            newest, at = self._consumer.highwater(tp), self.expected.get(tp.partition)
            behind += max(0, newest - at) if newest is not None and at is not None else 0
        return behind

    async def close(self) -> None:
        self.usable = False
        if not await within(2 * self._settings.request_s, self._consumer.stop()):
            # It came to no end, and so not to its last step, without which the connections stay.
            await within(self._settings.request_s, self._consumer._client.close())  # noqa: SLF001 - no other way to it
        if self._fetching is not None:
            await asyncio.wait({self._fetching}, timeout=2 * _SLICE)

    async def _begin(self, positions: Mapping[int, int]) -> None:
        """Stand where the caller says."""
        if not self._assigned:
            await self._start()
        moved = [tp.partition for tp in self._tps if self.expected.get(tp.partition, -1) != positions.get(tp.partition)]
        if moved:
            await self._seek({partition: positions.get(partition) for partition in moved})
            # The caller's own words, even where there was a gap: they are what it comes back with.
            self.expected |= {partition: positions.get(partition) for partition in moved}

    async def _start(self) -> None:
        last: kafka.KafkaError | None = None
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                while not self._assigned:
                    try:
                        await self._consumer.start()
                    except kafka.KafkaConnectionError as error:
                        last = error
                        await asyncio.sleep(self._settings.backoff_ms / 1000)
                    else:
                        self._assigned = True
        except TimeoutError:
            seconds = self._settings.deadline_s
            raise Unavailable(f"reading {self._topic}: no broker answered within {seconds:g} s") from last

    async def _seek(self, wanted: Mapping[int, int | None]) -> None:
        """Move to the positions, or to the nearest place that there is, which is told."""
        first, end = await asyncio.gather(
            self._cluster.offsets(self._topic, dict.fromkeys(wanted, EARLIEST)),
            self._cluster.offsets(self._topic, dict.fromkeys(wanted, LATEST)),
        )
        places: dict[int, int] = {}
        for partition, position in wanted.items():
            places[partition] = first[partition] if position is None else position
            if position is not None and not first[partition] <= position <= end[partition]:
                places[partition] = first[partition]
                self._tell_gap(partition, position, first[partition], end[partition])
        # From here to the last seek nothing may be awaited, or the fetcher would look for positions of its own.
        if not self.expected:
            self._consumer.assign(self._tps)
        for partition, place in places.items():
            self._consumer.seek(TopicPartition(self._topic, partition), place)

    def _tell_gap(self, partition: int, position: int, first: int, end: int) -> None:
        """What was at a position is gone: trimmed away, or beyond the end of a topic that was made anew."""
        lost = max(0, first - position)
        self.gap_entries += lost or 1
        log.warning(
            "entries were gone before they were read" if lost else "the topic ends before the position",
            action="log_gap", topic=self._topic, partition=partition, position=position, first=first, end=end,
        )  # fmt: skip

    async def _fetched(self, limit: int, wait_s: float) -> list[Any]:
        """What there is, or what comes within the time; [] only after the broker has confirmed it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        found = await self._poll(0, limit)
        while not found:
            # An outage is noticed within one deadline, however long the wait.
            check_at = min(until, loop.time() + self._settings.deadline_s)
            while not found and (left := check_at - loop.time()) > 0:
                found = await self._poll(min(left, _SLICE), limit)
            if not found:
                found = await self._caught_up(limit)
                self.confirmed_at = loop.time()
            if loop.time() >= until:
                break
        return found

    async def _caught_up(self, limit: int) -> list[Any]:
        """Read on to the end as it is now. Raises Unavailable when the consumer does not get there."""
        everything = {tp.partition: LATEST for tp in self._tps}
        end = await self._cluster.offsets(self._topic, everything, committed=self._settings.read_committed)
        loop = asyncio.get_running_loop()
        patience = loop.time() + self._settings.deadline_s
        while behind := [tp for tp in self._tps if await self._consumer.position(tp) < end[tp.partition]]:
            if found := await self._poll(_SHORT_SLICE, limit):
                return found
            if loop.time() > patience:
                seconds = self._settings.deadline_s
                raise Unavailable(
                    f"reading {self._topic}: {len(behind)} partitions have more, but nothing came in {seconds:g} s"
                )
        return []

    async def _poll(self, seconds: float, limit: int) -> list[Any]:
        """One `getmany`, which is never cancelled: its bookkeeping does not survive that."""
        # At 0 it waits for nothing.
        asking = self._consumer.getmany(timeout_ms=int(seconds * 1000), max_records=limit)
        try:
            if seconds <= 0:
                batches = await asking
            else:
                self._fetching = asyncio.create_task(asking, name=f"kafka-fetch-{self._topic}")
                batches = await asyncio.shield(self._fetching)
                self._fetching = None
        except kafka.OffsetOutOfRangeError as error:
            self._fetching = None
            await self._seek({tp.partition: offset for tp, offset in error.args[0].items()})
            return []
        except kafka.ConsumerStoppedError as error:
            raise Closed("the log is closed") from error
        return [record for records in batches.values() for record in records]
