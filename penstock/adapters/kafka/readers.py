"""The readers of one log: callers share none, but one goes on where another stopped.

Most callers read one topic from end to end and come back with the positions they were left at; a reader that stands
there has the next entries in memory already. Another caller of the same topic, or the same one going back, gets a
reader of its own, so that nobody waits for another's patience.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from penstock.adapters.kafka.cluster import Cluster
from penstock.adapters.kafka.reading import Reader
from penstock.adapters.kafka.settings import KafkaSettings
from penstock.errors import Closed, PenstockError

#: Readers kept per topic while nobody uses them.
_SPARE = 2


class Readers:
    def __init__(self, settings: KafkaSettings, options: Mapping[str, Any], cluster: Cluster) -> None:
        self._settings = settings
        self._options = options
        self._cluster = cluster
        self._idle: dict[str, list[Reader]] = {}
        self._busy: set[Reader] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._past_gaps = 0
        #: Since when reads of a topic have failed, without one that succeeded; monotonic.
        self.failing_since: dict[str, float] = {}

    async def read(
        self, topic: str, partitions: int, positions: Mapping[int, int], limit: int, wait_s: float
    ) -> list[Any]:
        """See `Reader.read`."""
        reader = self._take(topic, partitions, positions)
        self._busy.add(reader)
        try:
            found = await reader.read(positions, limit, wait_s)
        except PenstockError as error:
            if self._closed:
                raise Closed("the log is closed") from error
            self.failing_since.setdefault(topic, asyncio.get_running_loop().time())
            raise
        else:
            self.failing_since.pop(topic, None)
            return found
        finally:
            self._busy.discard(reader)
            self._give_back(topic, reader)

    @property
    def gap_entries(self) -> int:
        """Entries that were gone before they were read."""
        return self._past_gaps + sum(reader.gap_entries for reader in self._all())

    def lag(self) -> int:
        return sum(reader.lag() for reader in self._all())

    def oldest_confirmation_s(self) -> float:
        """For how long the reads under way have not been confirmed by a broker."""
        now = asyncio.get_running_loop().time()
        return max((now - reader.confirmed_at for reader in self._busy), default=0.0)

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(reader.close() for reader in self._all()))
        self._idle.clear()
        if self._closing:
            await asyncio.wait(self._closing)

    def _all(self) -> list[Reader]:
        return [*self._busy, *(reader for readers in self._idle.values() for reader in readers)]

    def _take(self, topic: str, partitions: int, positions: Mapping[int, int]) -> Reader:
        if self._closed:
            raise Closed("the log is closed")
        self._retire_unused()
        idle = self._idle.get(topic, [])
        chosen = next((reader for reader in idle if reader.serves(positions)), idle[0] if len(idle) >= _SPARE else None)
        if chosen is None:
            return Reader(self._settings, self._options, self._cluster, topic, partitions)
        idle.remove(chosen)
        now = asyncio.get_running_loop().time()
        chosen.confirmed_at = now
        return chosen

    def _give_back(self, topic: str, reader: Reader) -> None:
        if reader.usable and not self._closed:
            self._idle.setdefault(topic, []).append(reader)
            surplus = self._idle[topic][:-_SPARE]
            del self._idle[topic][:-_SPARE]
            for spare in surplus:
                self._retire(spare)
        else:
            self._retire(reader)

    def _retire_unused(self) -> None:
        before = asyncio.get_running_loop().time() - self._settings.idle_s
        for readers in self._idle.values():
            for reader in [reader for reader in readers if reader.used_at < before]:
                readers.remove(reader)
                self._retire(reader)

    def _retire(self, reader: Reader) -> None:
        self._past_gaps += reader.gap_entries
        reader.gap_entries = 0
        task = asyncio.create_task(reader.close(), name="kafka-reader-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
