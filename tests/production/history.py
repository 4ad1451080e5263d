"""The history of an installation as somebody sees it who takes part in nothing: a reader of `penstock.records`."""

from __future__ import annotations

from collections import Counter

from penstock.codec import decode_record
from penstock.errors import Unavailable
from penstock.model import TOPIC_RECORDS, BucketEvent, Phase, Record
from penstock.ports import EventLog


class History:
    """What `penstock.records` says, read from its beginning by somebody who takes part in nothing."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._positions: dict[int, int] = {}
        self.all: list[Record] = []
        self.latest: dict[str, Record] = {}

    async def read(self) -> None:
        while True:
            try:
                entries = await self._log.read(TOPIC_RECORDS, self._positions, limit=5000)
            except Unavailable:
                return
            if not entries:
                return
            for entry in entries:
                self._positions[entry.partition] = entry.offset + 1
                if not entry.value:
                    self.latest.pop(entry.key, None)  # its time was over: it was forgotten
                    continue
                record = decode_record(entry.value)
                self.all.append(record)
                known = self.latest.get(record.id)
                if known is None or known.order < record.order:
                    self.latest[record.id] = record

    def of(self, bucket: str) -> dict[str, Record]:
        """The newest record of each key."""
        found = {}
        for record in self.latest.values():
            trigger = record.trigger
            if getattr(trigger, "bucket", "") == bucket:
                found[trigger.key] = record  # type: ignore[union-attr]
        return found

    def versions(self, bucket: str, key: str) -> list[Record]:
        """The newest record of each version of one key."""
        triggers = ((record, record.trigger) for record in self.latest.values())
        return [
            record
            for record, trigger in triggers
            if isinstance(trigger, BucketEvent) and (trigger.bucket, trigger.key) == (bucket, key)
        ]

    def phases(self, bucket: str) -> Counter[Phase]:
        return Counter(record.phase for record in self.of(bucket).values())

    def successes(self) -> Counter[str]:
        """How many attempts of each invocation ended in success, over the whole history."""
        ended = {(record.id, record.attempt) for record in self.all if record.phase is Phase.SUCCEEDED}
        return Counter(invocation for invocation, _ in ended)
