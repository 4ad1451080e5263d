"""The window: the part of one function's queue that is in memory, bounded however long the queue is. Pure.

The ledger holds the whole queue in the order (not before, arrival). The window holds its beginning up to a *horizon*;
behind the horizon only the ledger knows. While nothing is behind it (`complete`), newly queued records go straight in
and the ledger is never read.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable

from penstock.model import Record

#: (not_before_ms, arrival) as the ledger orders.
Cursor = tuple[int, int]
START: Cursor = (-1, -1)


class Window:
    def __init__(self, size: int, *, complete: bool = True) -> None:
        self._size = size
        self._heap: list[tuple[int, int, Record]] = []
        self._tie = itertools.count()
        self._ids: set[str] = set()
        #: Ids taken out and not yet settled: a refill that races with their `planned` record must not bring them back.
        self._out: set[str] = set()
        self.horizon: Cursor = START
        self.complete = complete
        #: Records left to the ledger so far. A refill whose query began before the last of them proves nothing about
        #: what is behind the horizon.
        self.skipped = 0

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def wants_refill(self) -> bool:
        return not self.complete and len(self._ids) <= self._size // 2

    def push(self, record: Record) -> None:
        """Take a record that was just queued (and is in the ledger): new, or due again for a retry."""
        self._out.discard(record.id)
        if record.id in self._ids:
            return
        if self.complete and len(self._ids) >= self._size:
            # From now on the ledger knows more than we do. Arrival of the records in memory is not known here, so the
            # horizon is drawn before the newest of them and a refill may meet some again: they are told by their ids.
            newest = max(entry[0] for entry in self._heap)
            self.horizon = (newest, -1)
            self.complete = False
        if self.complete or record.not_before_ms <= self.horizon[0]:
            self._add(record)
        else:
            self.skipped += 1

    def refill(self, rows: Iterable[tuple[Cursor, Record]], *, asked: int, skipped: int) -> None:
        """Take what the ledger answered for `after=horizon, limit=asked`; `skipped` = its value when it was asked."""
        count = 0
        for cursor, record in rows:
            count += 1
            self.horizon = max(self.horizon, cursor)
            if record.id not in self._ids and record.id not in self._out:
                self._add(record)
        if count < asked and skipped == self.skipped:
            self.complete = True

    def due(self, now: int) -> Record | None:
        """The first record whose time has come, or None."""
        self._drop_removed()
        if self._heap and self._heap[0][0] <= now:
            return self._heap[0][2]
        return None

    def next_due(self) -> int | None:
        """When the first record is due (ms), or None with an empty window."""
        self._drop_removed()
        return self._heap[0][0] if self._heap else None

    def count_due(self, now: int, limit: int) -> int:
        """How many records are due, counted up to `limit`."""
        if limit == 1:
            return 0 if self.due(now) is None else 1
        count = 0
        for not_before, _, record in self._heap:
            if not_before <= now and record.id in self._ids:
                count += 1
                if count >= limit:
                    break
        return count

    def take(self, now: int, max_items: int, max_bytes: int = 0) -> list[Record]:
        """Take out up to `max_items` due records, in order; at least one, then only while their bytes fit."""
        taken: list[Record] = []
        total = 0
        while len(taken) < max_items and (record := self.due(now)) is not None:
            size = record.trigger.size
            if taken and max_bytes and total + size > max_bytes:
                break
            heapq.heappop(self._heap)
            self._ids.discard(record.id)
            self._out.add(record.id)
            taken.append(record)
            total += size
        return taken

    def remove(self, invocation: str) -> bool:
        """Forget a queued record (cancelled). True = it was in the window."""
        if invocation not in self._ids:
            return False
        self._ids.discard(invocation)
        return True

    def settled(self, invocation: str) -> None:
        """The record reached an end."""
        self._out.discard(invocation)

    def oldest(self) -> Record | None:
        self._drop_removed()
        return self._heap[0][2] if self._heap else None

    def _add(self, record: Record) -> None:
        self._ids.add(record.id)
        heapq.heappush(self._heap, (record.not_before_ms, next(self._tie), record))

    def _drop_removed(self) -> None:
        while self._heap and self._heap[0][2].id not in self._ids:
            heapq.heappop(self._heap)
