"""The event log port: durable, ordered, replayable; holds events and the history of every invocation.

Contract, checked by `tests/contracts/event_log.py` against every adapter:

* `append` returns when the records are durable, power loss included, in the order given; all or none of one call.
* Records with one key are in one partition, in the order appended. Offsets in a partition grow, gaps are allowed.
* Reading never blocks appending. `commit` stores positions durably (it may lag by one flush; a lost commit only means
  reading again) and never moves a position back, except by `seek=True`.
* `compact` topics keep at least the newest record of each key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class LogEntry(msgspec.Struct, frozen=True):
    """What is appended. `key` decides the partition and, in compacted topics, what is superseded."""

    key: str
    value: bytes


class StoredEntry(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    time_ms: int


#: Next offset to read, per partition. A partition not named is read from its beginning.
Positions = Mapping[int, int]


class EventLog(Protocol):
    async def append(self, topic: str, entries: Sequence[LogEntry]) -> list[tuple[int, int]]:
        """Durably append; returns (partition, offset) per entry. Raises OutOfSpace, Unavailable: nothing was appended
        or, after Unavailable from a remote log, possibly all (append again: readers drop repeats by identity).
        """
        ...

    async def read(
        self, topic: str, positions: Positions, *, limit: int = 1000, wait_s: float = 0.0
    ) -> list[StoredEntry]:
        """Entries at or after the positions, at most `limit`, in offset order per partition; waits up to `wait_s` for
        the first one and may return [] then.
        """
        ...

    async def end(self, topic: str) -> dict[int, int]:
        """The offset after the last durable entry, for every partition."""
        ...

    async def committed(self, group: str, topic: str) -> dict[int, int]: ...

    async def commit(self, group: str, topic: str, positions: Positions, *, seek: bool = False) -> None: ...

    async def trim(self, topic: str, *, before_ms: int, below: Positions) -> int:
        """Delete entries that are both older than `before_ms` and below the positions. Returns how many."""
        ...

    async def compact(self, topic: str) -> int:
        """Delete entries that a later one with the same key supersedes. Returns how many. A no-op where the log does
        that by itself.
        """
        ...

    async def close(self) -> None: ...
