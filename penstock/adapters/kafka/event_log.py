"""The production event log: Kafka behind the same port as the file on a laptop.

Differences that callers may notice, each within the port's contract: `end` may lie beyond the last entry, because marks
of transactions take offsets too; a call of `append` that ends in Unavailable may have stored all, none or (without
a transactional id, when it fills several partitions or more than a batch) a part of its entries; and `trim` counts
offsets, so in a compacted topic it tells more than it deletes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

import msgspec

from penstock.adapters.kafka.cluster import EARLIEST, LATEST, Cluster
from penstock.adapters.kafka.lanes import Lanes
from penstock.adapters.kafka.packing import Call
from penstock.adapters.kafka.readers import Readers
from penstock.adapters.kafka.settings import KafkaSettings
from penstock.adapters.kafka.transactions import Transactions
from penstock.errors import Closed, InvalidInput, Unavailable, Unsupported
from penstock.ports import LogEntry, Positions, StoredEntry

#: Seconds between looks for a topic that a read waits for.
_LOOK_S = 0.1


def _quieten() -> None:
    """While a broker is away aiokafka says so dozens of times a second; our errors and `health` say it once."""
    logger = logging.getLogger("aiokafka")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


class Health(msgspec.Struct, frozen=True):
    """What a readiness check wants to know. `reason` is one sentence, empty when `ok`."""

    ok: bool
    reason: str
    #: Entries behind the newest that the brokers have told of, over all readers.
    lag: int
    #: Entries that were gone before they were read, since the start.
    gap_entries: int
    #: Seconds since a broker last confirmed the reads under way; 0 = none is under way.
    unconfirmed_s: float
    #: Seconds for which the oldest append has been waiting for its acknowledgement.
    unacknowledged_s: float


class KafkaEventLog:
    """Implements `EventLog`. Nothing is connected before it is needed."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Raises InvalidInput for settings that cannot work."""
        self._settings = settings
        _quieten()
        options = settings.client_options()
        self._cluster = Cluster(settings, options)
        self._readers = Readers(settings, options, self._cluster)
        self._fenced: Transactions | None = None
        if settings.transactional_id is not None:
            self._fenced = Transactions(settings, options, self._cluster)
        self._writer: Lanes | Transactions = self._fenced or Lanes(settings, options)
        self._known: set[str] = set()
        self._commits: dict[str, asyncio.Lock] = {}
        self._closed = False

    async def ensure_topics(self, topics: Iterable[str]) -> None:
        """Create the topics that are missing, and check the others. Raises InvalidInput when one has another number
        of partitions, or ages out what must be kept.
        """
        for topic in topics:
            if not await self._exists(topic):
                await self._create(topic)
                continue
            wanted = self._settings.config_of(topic)["cleanup.policy"]
            policy = (await self._cluster.config(self._settings.name(topic))).get("cleanup.policy", wanted)
            if set(policy.split(",")) != set(wanted.split(",")):
                raise InvalidInput(
                    f"the topic {self._settings.name(topic)} has cleanup.policy={policy}, but must have {wanted}",
                    where="kafka",
                )

    async def take_over(self) -> None:
        """Become the only writer with this transactional id, so that one before it is `Fenced` from here on.
        Only the holder of the lease may call this. Raises Unsupported without a transactional id, Unavailable.
        """
        if self._fenced is None:
            raise Unsupported("this log has no transactional id, so there is nothing to take over")
        await self._fenced.take_over()

    async def append(self, topic: str, entries: Sequence[LogEntry]) -> list[tuple[int, int]]:
        """As the port says. Raises Fenced where a transactional id is set and another process has taken over."""
        self._check_open()
        if not entries:
            return []
        call = Call(topic, entries, self._settings.partitions, self._settings.batch_bytes)
        if topic not in self._known and not await self._exists(topic):
            await self._create(topic)
        self._writer.put(self._settings.name(topic), call)
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                await call.done
        except TimeoutError as error:
            raise Unavailable(
                f"appending to {topic}: no acknowledgement within {self._settings.deadline_s:g} s; it may come later"
            ) from error
        finally:
            call.given_up = True
        return call.places

    async def read(
        self, topic: str, positions: Positions, *, limit: int = 1000, wait_s: float = 0.0
    ) -> list[StoredEntry]:
        """As the port says. Raises Unavailable (never [] when it could not be read), Corrupt, Forbidden."""
        self._check_open()
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while topic not in self._known and not await self._exists(topic):
            left = until - loop.time()
            if left <= 0:
                return []
            await asyncio.sleep(min(left, _LOOK_S))
        name = self._settings.name(topic)
        wait = max(0.0, until - loop.time())
        records = await self._readers.read(name, self._settings.partitions, positions, limit, wait)
        return [
            StoredEntry(
                topic,
                record.partition,
                record.offset,
                (record.key or b"").decode("utf-8", "surrogatepass"),
                record.value or b"",
                record.timestamp,
            )
            for record in records
        ]

    async def end(self, topic: str) -> dict[int, int]:
        self._check_open()
        if not await self._exists(topic):
            return dict.fromkeys(range(self._settings.partitions), 0)
        latest = dict.fromkeys(range(self._settings.partitions), LATEST)
        name = self._settings.name(topic)
        return await self._cluster.offsets(name, latest, committed=self._settings.read_committed)

    async def committed(self, group: str, topic: str) -> dict[int, int]:
        self._check_open()
        if not await self._exists(topic):
            return {}
        name = self._settings.name
        return await self._cluster.committed(name(group), name(topic), range(self._settings.partitions))

    async def commit(self, group: str, topic: str, positions: Positions, *, seek: bool = False) -> None:
        self._check_open()
        if not positions:
            return
        if not await self._exists(topic):
            await self._create(topic)  # the broker stores no positions in what is not there
        name = self._settings.name
        # Two commits of one process may not overtake each other; of two processes one may lose its commit, as allowed.
        async with self._commits.setdefault(group, asyncio.Lock()):
            forward = dict(positions)
            if not seek:
                stored = await self._cluster.committed(name(group), name(topic), positions)
                forward = {p: at for p, at in positions.items() if at > stored.get(p, -1)}
            if forward:
                await self._cluster.commit(name(group), name(topic), forward)

    async def trim(self, topic: str, *, before_ms: int, below: Positions) -> int:
        """As the port says; of each partition only what lies before its first entry that is young or not yet read."""
        self._check_open()
        if not below or not await self._exists(topic):
            return 0
        name = self._settings.name(topic)
        first, end, young = await asyncio.gather(
            self._cluster.offsets(name, dict.fromkeys(below, EARLIEST)),
            self._cluster.offsets(name, dict.fromkeys(below, LATEST)),
            self._cluster.offsets(name, dict.fromkeys(below, before_ms)),
        )
        doomed: dict[int, int] = {}
        for partition, position in below.items():
            old = end[partition] if young.get(partition, -1) < 0 else young[partition]
            until = min(position, old, end[partition])
            if until > first[partition]:
                doomed[partition] = until
        if not doomed:
            return 0
        left = await self._cluster.delete_below(name, doomed)
        return sum(low - first[partition] for partition, low in left.items())

    async def compact(self, topic: str) -> int:  # noqa: ARG002 - the port's
        """Nothing: brokers compact by themselves."""
        self._check_open()
        return 0

    @property
    def health(self) -> Health:
        """Whether this log does its work, from what is known; asks nobody."""
        unconfirmed = self._readers.oldest_confirmation_s()
        unacknowledged = self._writer.oldest_unacknowledged_s()
        limit = self._settings.stalled_s
        now = asyncio.get_running_loop().time()
        stuck = sorted(topic for topic, since in self._readers.failing_since.items() if now - since > limit)
        reason = ""
        if self._closed:
            reason = "the log is closed"
        elif unconfirmed > limit:
            reason = f"for {unconfirmed:.0f} s no broker has answered a read"
        elif stuck:
            reason = f"for more than {limit:g} s no read of {stuck[0]} has succeeded"
        elif unacknowledged > limit:
            reason = f"for {unacknowledged:.0f} s an append has not been acknowledged"
        return Health(
            ok=not reason,
            reason=reason,
            lag=self._readers.lag(),
            gap_entries=self._readers.gap_entries,
            unconfirmed_s=unconfirmed,
            unacknowledged_s=unacknowledged,
        )

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        await self._readers.close()
        await self._cluster.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the log is closed")

    async def _exists(self, topic: str) -> bool:
        """Whether the topic is there, with the right number of partitions. Raises InvalidInput."""
        if topic in self._known:
            return True
        name = self._settings.name(topic)
        count = await self._cluster.partitions(name)
        if count == 0:
            return False
        if count != self._settings.partitions:
            raise InvalidInput(
                f"the topic {name} has {count} partitions, not {self._settings.partitions}: the number is fixed at "
                f"installation, because another would give keys another home; set it to {count}",
                where="kafka.partitions",
            )
        self._known.add(topic)
        return True

    async def _create(self, topic: str) -> None:
        settings = self._settings
        config = settings.config_of(topic)
        await self._cluster.create(settings.name(topic), settings.partitions, settings.replication, config)
        deadline = asyncio.get_running_loop().time() + settings.deadline_s
        while not await self._exists(topic):
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"creating the topic {topic}: it was not there after {settings.deadline_s:g} s")
            await asyncio.sleep(settings.backoff_ms / 1000)
