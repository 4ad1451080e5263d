"""Puts aside what cannot become an event, with the original bytes: dropped it would be lost, refused it would block.

An object store's sender is serial and repeats a refused event for ever, so garbage is taken, kept and answered like
anything else. The same bytes get the same id, so repeats of one piece of garbage stay one dead letter.
"""

from __future__ import annotations

import hashlib

import structlog

from penstock.clock import now_ms
from penstock.codec import encode
from penstock.errors import InvalidInput
from penstock.model import TOPIC_DEAD, DeadLetter
from penstock.ports import EventLog, LogEntry
from watcher.metrics import WatcherMetrics

log = structlog.get_logger("watcher.quarantine")

#: Bytes kept of one original. As text in JSON it grows by a third, and an entry of the log has a megabyte at most.
KEPT_BYTES = 512 * 1024


class Quarantine:
    """Over the log's topic of dead letters."""

    def __init__(self, log: EventLog, metrics: WatcherMetrics) -> None:
        self._log = log
        self._metrics = metrics

    async def put(
        self,
        original: bytes,
        why: str,
        *,
        topic: str,
        partition: int = 0,
        offset: int = 0,
        size: int | None = None,
    ) -> None:
        """Returns when it is durable. `size` = what the original had where only its beginning was read. Raises what
        `EventLog.append` raises.
        """
        size = len(original) if size is None else size
        if size > KEPT_BYTES or len(original) < size:
            why = f"{why} (of its {size} bytes the first {min(KEPT_BYTES, len(original))} are kept)"
        letter = DeadLetter(
            id=hashlib.sha256(b"undecodable\0" + original).hexdigest(),
            original=original[:KEPT_BYTES],
            error=InvalidInput.code,
            message=why,
            time_ms=now_ms(),
            topic=topic,
            partition=partition,
            offset=offset,
        )
        await self._log.append(TOPIC_DEAD, [LogEntry(letter.id, encode(letter))])
        self._metrics.quarantined.inc()
        log.warning("a notification that cannot be understood was put aside", action="quarantined", why=why)
