"""Tables of the ledger, and how a record becomes a row.

What decides between two records (epoch, attempt, phase) and what is searched by stands in columns, so that neither a
late record nor a listing needs the stored JSON. Functions are small numbers in the indexes: a uid of 32 digits there
would double their size.

The list index begins with function and phase: in it, work moves along a few hot pages (out of the front of `queued`,
to the end of `succeeded`), and every listing, whatever its filter, is a handful of range scans.
"""

from __future__ import annotations

from penstock.codec import encode
from penstock.model import BucketEvent, Phase, Record

MIGRATIONS = (
    """
    CREATE TABLE functions (fid INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, name TEXT NOT NULL);
    CREATE TABLE records (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        fid INTEGER NOT NULL,
        phase INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        not_before_ms INTEGER NOT NULL,
        queued_ms INTEGER NOT NULL,
        ended_ms INTEGER NOT NULL,
        path BLOB,
        value BLOB NOT NULL
    );
    CREATE INDEX listed ON records (fid, phase, queued_ms, seq);
    CREATE INDEX waiting ON records (fid, not_before_ms, seq) WHERE phase = 0;
    CREATE INDEX ended ON records (ended_ms) WHERE phase > 3;
    CREATE TABLE counts (
        fid INTEGER NOT NULL, phase INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (fid, phase)
    ) WITHOUT ROWID;
    CREATE TABLE positions ("partition" INTEGER PRIMARY KEY, position INTEGER NOT NULL)
    """,
)

#: Numbers of the phases in the file; never reorder. 0 is queued, 1 to 3 are at work, above 3 is final.
PHASES = (
    Phase.QUEUED,
    Phase.PLANNED,
    Phase.SUBMITTED,
    Phase.RUNNING,
    Phase.SUCCEEDED,
    Phase.FAILED,
    Phase.DEAD,
    Phase.CANCELLED,
    Phase.SUPERSEDED,
    Phase.SKIPPED,
)
PHASE_NUMBER = {phase: number for number, phase in enumerate(PHASES)}
RANK = tuple(phase.rank for phase in PHASES)
QUEUED = PHASE_NUMBER[Phase.QUEUED]

COLUMNS = 11
UPSERT_HEAD = (
    "INSERT INTO records (seq, id, fid, phase, epoch, attempt, not_before_ms, queued_ms, ended_ms, path, value)"
)
#: A row that is there already is named by its seq, which it keeps: its place in the queue and in listings is stable.
UPSERT_TAIL = (
    "ON CONFLICT (seq) DO UPDATE SET fid = excluded.fid, phase = excluded.phase, epoch = excluded.epoch, "
    "attempt = excluded.attempt, not_before_ms = excluded.not_before_ms, queued_ms = excluded.queued_ms, "
    "ended_ms = excluded.ended_ms, path = excluded.path, value = excluded.value"
)

Row = tuple[int | None, str, int, int, int, int, int, int, int, bytes | None, bytes]


def row_of(record: Record, seq: int | None, fid: int) -> Row:
    """The row of a record; `seq` None = it has none yet."""
    return (
        seq,
        record.id,
        fid,
        PHASE_NUMBER[record.phase],
        record.epoch,
        record.attempt,
        record.not_before_ms,
        record.queued_ms,
        _ended_ms(record),
        path_of(record),
        encode(record),
    )


def path_of(record: Record) -> bytes | None:
    """Bucket, slash and key as bytes, which compare as prefixes do; None for what is no object."""
    trigger = record.trigger
    if not isinstance(trigger, BucketEvent):
        return None
    return f"{trigger.bucket}/{trigger.key}".encode("utf-8", "surrogatepass")


def after_prefix(prefix: bytes) -> bytes | None:
    """The smallest bytes greater than everything that starts with the prefix; None = nothing is."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def _ended_ms(record: Record) -> int:
    """When a final record ended, for its expiry. A writer that set no time must not make it expire at once."""
    if not record.phase.final:
        return 0
    if record.finished_ms:
        return record.finished_ms
    return record.timeline[-1].time_ms if record.timeline else record.queued_ms
