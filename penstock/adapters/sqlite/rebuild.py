"""The ledger is a view: this brings it up to date from the log, and starts it anew when its file cannot be trusted.

The composition root calls `open_view` before anything else reads the ledger.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

from penstock.adapters.sqlite.ledger import SqliteLedger, damage_mark
from penstock.clock import now_ms
from penstock.codec import decode_record
from penstock.errors import Corrupt
from penstock.model import TOPIC_RECORDS, Record
from penstock.ports import EventLog, Ledger, StoredEntry
from penstock.tombstones import take_in

log = structlog.get_logger("penstock.ledger")

_BATCH = 500
#: What SQLite keeps beside a database file.
_SUFFIXES = ("", "-wal", "-shm")


class OtherLog(Corrupt):
    """The ledger knows more than the log: it is a view of another one."""


async def rebuild(events: EventLog, ledger: Ledger) -> int:
    """Apply what `penstock.records` holds after the ledger's positions, up to the end it has now. Returns how many
    entries were read.

    Raises OtherLog, Corrupt when an entry is no record, and what the ports raise.
    """
    end = await events.end(TOPIC_RECORDS)
    positions = await ledger.positions()
    for partition, position in positions.items():
        if position > end.get(partition, 0):
            raise OtherLog(
                f"the ledger has read {TOPIC_RECORDS} up to {position} in partition {partition}, but the log ends at "
                f"{end.get(partition, 0)}: the ledger belongs to another log; move it aside, it is rebuilt"
            )
    read = 0
    while any(positions.get(partition, 0) < last for partition, last in end.items()):
        entries = await events.read(TOPIC_RECORDS, positions, limit=_BATCH)
        if not entries:
            break  # what is left of the range was compacted away
        for entry in entries:
            positions[entry.partition] = entry.offset + 1
        await take_in(ledger, entries, positions, _decode)
        read += len(entries)
    return read


async def open_view(path: str | Path, events: EventLog) -> SqliteLedger:
    """Open the ledger at `path` and bring it up to date. One that is damaged (found now, or in a life before) or
    belongs to another log is moved aside, which is said in our own log, and made anew from `events`. Raises what the
    ports raise; Corrupt only when it is `events` that cannot be read.
    """
    path = Path(path)
    if _is_marked(path):
        _move_aside(path, "it was found damaged while it was in use")
    try:
        return await _open(path, events)
    except Corrupt as error:
        if not (isinstance(error, OtherLog) or _is_marked(path)):
            raise
        _move_aside(path, error.message)
    return await _open(path, events)


async def _open(path: Path, events: EventLog) -> SqliteLedger:
    ledger = await SqliteLedger.open(path)
    try:
        await rebuild(events, ledger)
    except BaseException:
        await ledger.close()
        raise
    return ledger


def _is_marked(path: Path) -> bool:
    return damage_mark(path).exists()


def _move_aside(path: Path, why: str) -> None:
    aside = path.with_name(f"{path.name}.damaged-{now_ms()}")
    for suffix in _SUFFIXES:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    # Last: whoever is killed before this line moves nothing aside but the rest.
    damage_mark(path).unlink(missing_ok=True)
    log.warning(
        "the ledger cannot be used and is rebuilt from the log",
        action="ledger_rebuilt",
        ledger=str(path),
        moved_to=str(aside),
        why=why,
    )


def _decode(entry: StoredEntry) -> Record:
    try:
        return decode_record(entry.value)
    except msgspec.DecodeError as error:
        raise Corrupt(
            f"entry {entry.offset} in partition {entry.partition} of {entry.topic} is no record ({error})"
        ) from error
