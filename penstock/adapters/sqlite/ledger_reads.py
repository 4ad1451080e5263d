"""What can be asked of the ledger's file. Functions of a connection: they run in a reader's thread.

Every list is a range scan of an index with a limit; a listing over several functions and phases merges one scan each,
and the counts tell which of these are empty, so that asking for the three dead among a million costs three rows.
"""

from __future__ import annotations

import heapq
import itertools
import sqlite3
from collections.abc import Collection

import msgspec

from penstock.adapters.sqlite.ledger_schema import PHASE_NUMBER, PHASES, QUEUED, after_prefix
from penstock.adapters.sqlite.statements import in_slices, marks
from penstock.codec import decode_record
from penstock.errors import Corrupt, InvalidInput
from penstock.model import Phase, Record
from penstock.ports import QueueStats, RecordPage, RecordQuery

_SLICE = 500
_FOUND_LIMIT = 10
_NO_LIMIT_MS = 1 << 62

#: (queued_ms, seq): the place of a record in listings.
_Place = tuple[int, int]


def functions(db: sqlite3.Connection) -> dict[str, int]:
    return dict(db.execute("SELECT uid, fid FROM functions").fetchall())


def positions(db: sqlite3.Connection) -> dict[int, int]:
    return dict(db.execute('SELECT "partition", position FROM positions').fetchall())


def known(db: sqlite3.Connection, ids: Collection[str]) -> set[str]:
    found: set[str] = set()
    for part in in_slices(list(ids), _SLICE):
        rows = db.execute(f"SELECT id FROM records WHERE id IN ({marks(len(part))})", part).fetchall()  # noqa: S608 - marks only
        found.update(key for (key,) in rows)
    return found


def get_many(db: sqlite3.Connection, ids: Collection[str]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for part in in_slices(list(ids), _SLICE):
        rows = db.execute(f"SELECT id, value FROM records WHERE id IN ({marks(len(part))})", part).fetchall()  # noqa: S608 - marks only
        found.update((key, decode(value)) for key, value in rows)
    return found


def find(db: sqlite3.Connection, id_prefix: str) -> list[Record]:
    # Ids are text: U+10FFFF sorts after whatever may follow the prefix.
    rows = db.execute(
        "SELECT value FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        (id_prefix, id_prefix + "\U0010ffff", _FOUND_LIMIT),
    ).fetchall()
    return [decode(value) for (value,) in rows]


#: Two scans merged rather than (not_before_ms, seq) > (?, ?): SQLite would seek by the first of the two only and walk
#: over every record before the cursor.
_QUEUE = (
    "SELECT not_before_ms, seq, value FROM records INDEXED BY waiting"
    " WHERE fid = :fid AND phase = 0 AND not_before_ms = :not_before AND seq > :seq"
    " UNION ALL SELECT not_before_ms, seq, value FROM records INDEXED BY waiting"
    " WHERE fid = :fid AND phase = 0 AND not_before_ms > :not_before"
    " ORDER BY not_before_ms, seq LIMIT :limit"
)


def queue(db: sqlite3.Connection, fid: int, after: tuple[int, int], limit: int) -> list[tuple[tuple[int, int], Record]]:
    values = {"fid": fid, "not_before": after[0], "seq": after[1], "limit": limit}
    rows = db.execute(_QUEUE, values).fetchall()
    return [((not_before, seq), decode(value)) for not_before, seq, value in rows]


def queue_stats(db: sqlite3.Connection) -> list[QueueStats]:
    rows = db.execute(
        "SELECT f.uid, c.n,"
        " (SELECT queued_ms FROM records r WHERE r.fid = c.fid AND r.phase = c.phase ORDER BY queued_ms LIMIT 1)"
        " FROM counts c JOIN functions f USING (fid) WHERE c.phase = ? AND c.n > 0 ORDER BY f.uid",
        (QUEUED,),
    ).fetchall()
    return [QueueStats(function_uid=uid, queued=n, oldest_ms=oldest) for uid, n, oldest in rows]


def unfinished(db: sqlite3.Connection) -> list[Record]:
    rows = db.execute(
        "SELECT r.value FROM counts c CROSS JOIN records r ON r.fid = c.fid AND r.phase = c.phase"
        " WHERE c.phase BETWEEN 1 AND 3 AND c.n > 0 ORDER BY r.seq"
    ).fetchall()
    return [decode(value) for (value,) in rows]


def counts(db: sqlite3.Connection, function_uid: str) -> dict[str, dict[Phase, int]]:
    rows = db.execute(
        "SELECT f.uid, c.phase, c.n FROM counts c JOIN functions f USING (fid) WHERE c.n > 0 AND (? = '' OR f.uid = ?)",
        (function_uid, function_uid),
    ).fetchall()
    result: dict[str, dict[Phase, int]] = {}
    for uid, phase, n in rows:
        result.setdefault(uid, {})[PHASES[phase]] = n
    return result


def outlived(db: sqlite3.Connection, before_ms: int, limit: int) -> list[str]:
    rows = db.execute(
        "SELECT id FROM records INDEXED BY ended WHERE phase > 3 AND ended_ms < ? ORDER BY ended_ms LIMIT ?",
        (before_ms, limit),
    ).fetchall()
    return [key for (key,) in rows]


def page_position(query: RecordQuery) -> _Place | None:
    """Where the page before ended. Raises InvalidInput."""
    if not query.page:
        return None
    try:
        queued_ms, seq = query.page.split(".")
        return int(queued_ms), int(seq)
    except ValueError as error:
        raise InvalidInput(
            f"{query.page!r} is no page of this list: take `next` of the page before", where="page"
        ) from error


def query(db: sqlite3.Connection, query: RecordQuery, after: _Place | None) -> RecordPage:
    db.execute("BEGIN")  # one state of the file for all scans, else a record that changes its phase is seen twice
    scans: list[sqlite3.Cursor] = []
    try:
        scans.extend(_scan(db, query, after, fid, phase) for fid, phase in _places(db, query))
        merged = heapq.merge(*scans, reverse=not query.oldest_first)
        places = list(itertools.islice(merged, query.limit + 1))
        records = _at(db, places[: query.limit])
    finally:
        for scan in scans:
            scan.close()  # a scan left open would hold on to this state of the file
        db.execute("ROLLBACK")
    more = len(places) > query.limit > 0
    return RecordPage(records=records, next="{}.{}".format(*places[query.limit - 1]) if more else "")


def _places(db: sqlite3.Connection, query: RecordQuery) -> list[tuple[int, int]]:
    """(function, phase) pairs that hold records and that the query asks for."""
    rows = db.execute(
        "SELECT c.fid, c.phase FROM counts c JOIN functions f USING (fid)"
        " WHERE c.n > 0 AND (? = '' OR f.name = ?) AND (? = '' OR f.uid = ?)",
        (query.function, query.function, query.function_uid, query.function_uid),
    ).fetchall()
    wanted = {PHASE_NUMBER[phase] for phase in query.phases or PHASES}
    return [(fid, phase) for fid, phase in rows if phase in wanted]


_SCAN = "SELECT queued_ms, seq FROM records INDEXED BY listed WHERE fid = :fid AND phase = :phase"


def _scan(db: sqlite3.Connection, query: RecordQuery, after: _Place | None, fid: int, phase: int) -> sqlite3.Cursor:
    """Places of one function and phase in the order asked for, read as they are needed."""
    values: dict[str, object] = {"fid": fid, "phase": phase, "limit": query.limit + 1}
    path = _path_clause(query.path_prefix, values)
    since, until = query.since_ms, query.until_ms or _NO_LIMIT_MS
    tied = ""
    if after is not None:
        # Two scans merged, as for the queue; and one bound a side, since SQLite would seek by the first it finds.
        values["queued"], values["seq"] = after
        tied = f"{_SCAN} AND queued_ms = :queued AND seq {'>' if query.oldest_first else '<'} :seq{path} UNION ALL "
        since, until = (max(since, after[0] + 1), until) if query.oldest_first else (since, min(until, after[0]))
    values["since"], values["until"] = since, until
    direction = "ASC" if query.oldest_first else "DESC"
    return db.execute(
        f"{tied}{_SCAN} AND queued_ms >= :since AND queued_ms < :until{path}"
        f" ORDER BY queued_ms {direction}, seq {direction} LIMIT :limit",
        values,
    )


def _path_clause(path_prefix: str, values: dict[str, object]) -> str:
    if not path_prefix:
        return ""
    values["path"] = path_prefix.encode("utf-8", "surrogatepass")
    values["path_end"] = after_prefix(path_prefix.encode("utf-8", "surrogatepass"))
    # No end: the prefix is all 0xff, nothing sorts after what starts with it.
    return " AND path >= :path" + (" AND path < :path_end" if values["path_end"] is not None else "")


def _at(db: sqlite3.Connection, places: list[_Place]) -> list[Record]:
    values: dict[int, bytes] = {}
    for part in in_slices([seq for _, seq in places], _SLICE):
        values.update(db.execute(f"SELECT seq, value FROM records WHERE seq IN ({marks(len(part))})", part).fetchall())  # noqa: S608 - marks only
    return [decode(values[seq]) for _, seq in places]


def decode(value: bytes) -> Record:
    """Raises Corrupt."""
    try:
        return decode_record(value)
    except msgspec.DecodeError as error:
        raise Corrupt(
            f"a record in the ledger cannot be read ({error}): move the ledger aside, it is rebuilt"
        ) from error
