"""Keeping a ledger current with the history that another process writes.

The active dispatcher applies its own records; everybody else (a standby, the gateway) reads `penstock.records` as it
grows, applies it to a ledger of their own and hears of each change. All of them see the same history in the same order
per invocation, so a standby that becomes active has nothing to catch up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from penstock.codec import decode_record
from penstock.errors import Unavailable
from penstock.model import TOPIC_RECORDS, Record
from penstock.ports import EventLog, Ledger, StoredEntry
from penstock.tombstones import take_in

log = structlog.get_logger("penstock.follow")

#: Entries applied in one transaction.
LIMIT = 2000
RETRY_S = 1.0


class RecordFollower:
    """Reads from where the ledger is. `on_change` hears every record that changed the ledger, after it is applied."""

    def __init__(
        self, event_log: EventLog, ledger: Ledger, *, on_change: Callable[[Record], None] | None = None
    ) -> None:
        self._log = event_log
        self._ledger = ledger
        self._on_change = on_change
        self._positions: dict[int, int] | None = None
        #: Why the history cannot be followed right now, "" = it can.
        self.trouble = ""

    async def turn(self, *, wait_s: float = 0.0) -> int:
        """Apply what is there, at most one batch; returns how many entries were read. Raises Unavailable."""
        if self._positions is None:
            self._positions = dict(await self._ledger.positions())
        entries = await self._log.read(TOPIC_RECORDS, self._positions, limit=LIMIT, wait_s=wait_s)
        if not entries:
            return 0
        positions = dict(self._positions)
        for entry in entries:
            positions[entry.partition] = entry.offset + 1
        changed = await take_in(self._ledger, entries, positions, _decoded)
        self._positions = positions
        if self._on_change is not None:
            for record in changed:
                self._on_change(record)
        return len(entries)

    async def catch_up(self) -> None:
        """Return when nothing more is there right now. Raises Unavailable."""
        while await self.turn():
            pass

    async def run(self, *, wait_s: float = 5.0) -> None:
        """Follow until cancelled; an absent log is waited for."""
        while True:
            try:
                await self.turn(wait_s=wait_s)
            except Unavailable as error:
                if not self.trouble:
                    log.warning("the history cannot be followed", action="follow_retry", error=error.message)
                self.trouble = error.message
                await asyncio.sleep(RETRY_S)
            else:
                self.trouble = ""


def _decoded(entry: StoredEntry) -> Record | None:
    """A record, or None for what is none: one bad entry must not stop every reader of the history."""
    try:
        return decode_record(entry.value)
    except msgspec.DecodeError as error:
        log.error(
            "an entry of the history is no record and is left out",
            action="bad_record",
            partition=entry.partition,
            offset=entry.offset,
            error=str(error),
        )
        return None
