"""The ledger port: the current record of every invocation, a view over `penstock.records`.

Contract, checked by `tests/contracts/ledger.py`:

* `apply` is idempotent and keeps, per invocation, the record with the highest (epoch, attempt, phase rank): a late
  or repeated record changes nothing. It stores the positions in the same transaction, so a restart reads the tail only.
* The view may be deleted at any time: applying the whole topic again gives the same view.
* Nothing here holds more in memory than what a call returns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from penstock.model import Phase, Record


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """What one function has waiting: counts of `queued` alone, bytes where the trigger tells the size."""

    function_uid: str
    queued: int
    oldest_ms: int


class RecordQuery(msgspec.Struct, frozen=True, kw_only=True):
    function: str = ""
    function_uid: str = ""
    phases: frozenset[Phase] = frozenset()
    #: Only records queued at or after / before.
    since_ms: int = 0
    until_ms: int = 0
    #: Only object triggers whose "bucket/key" starts with this.
    path_prefix: str = ""
    limit: int = 100
    #: Opaque; from `RecordPage.next`.
    page: str = ""
    oldest_first: bool = False


class RecordPage(msgspec.Struct, frozen=True, kw_only=True):
    records: list[Record]
    next: str = ""


class Ledger(Protocol):
    async def apply(self, records: Sequence[Record], positions: Mapping[int, int] | None = None) -> list[Record]:
        """Apply in order; returns those that changed the view. `positions` = next offsets of `penstock.records`."""
        ...

    async def positions(self) -> dict[int, int]: ...

    async def known(self, ids: Collection[str]) -> set[str]:
        """Which of these invocations have a record."""
        ...

    async def get(self, invocation: str) -> Record | None: ...

    async def find(self, id_prefix: str) -> list[Record]:
        """At most ten records whose invocation id starts with the prefix."""
        ...

    async def get_many(self, ids: Collection[str]) -> dict[str, Record]: ...

    async def query(self, query: RecordQuery) -> RecordPage:
        """Newest queued first (stable), or oldest first."""
        ...

    async def queue(
        self, function_uid: str, *, after: tuple[int, int] = (-1, -1), limit: int = 500
    ) -> list[tuple[tuple[int, int], Record]]:
        """`queued` records of one function in order of (not_before_ms, arrival), strictly after a cursor, each with
        its cursor: the bounded window that admission works on.
        """
        ...

    async def queue_stats(self) -> list[QueueStats]:
        """One entry per function uid that has queued records."""
        ...

    async def unfinished(self) -> list[Record]:
        """Every record in `planned`, `submitted` or `running`: what recovery must look at."""
        ...

    async def counts(self, function_uid: str = "") -> dict[str, dict[Phase, int]]:
        """Records per function uid and phase, kept incrementally (cheap with millions of records)."""
        ...

    async def outlived(self, before_ms: int, *, limit: int = 1000) -> list[str]:
        """Final records that ended before a moment: history that may expire."""
        ...

    async def forget(self, ids: Collection[str]) -> None: ...

    async def close(self) -> None: ...
