"""What a backfill or a replay would take: the same answer for the dispatcher that carries it out and for dry runs.

It reads the store and the ledger and changes nothing, so a process that only shows what would happen may ask too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from dispatcher.routing import takes, verdict
from penstock.errors import NotFound
from penstock.model import BucketEvent, Command, Function, Origin, Phase, Record
from penstock.ports import Ledger, ObjectStore, RecordQuery

PAGE = 500
#: What replay takes unless it is forced.
REPLAYABLE = frozenset({Phase.FAILED, Phase.DEAD})
ENDED = frozenset(phase for phase in Phase if phase.final)


async def existing(store: ObjectStore, function: Function, path_prefix: str = "") -> AsyncIterator[list[BucketEvent]]:
    """Pages of the objects under a function's inputs, as events. Folder markers are none: they would be skipped."""
    seen: set[tuple[str, str]] = set()
    for entry in function.inputs:
        place = (entry.bucket, entry.key_prefix)
        if not entry.own_store or place in seen:
            continue
        seen.add(place)
        try:
            async for page in store.list(entry.bucket, entry.key_prefix):
                yield [
                    BucketEvent.of(info, Origin.REPLAY)
                    for info in page
                    if not info.key.endswith("/")
                    and takes(function, info.bucket, info.key)
                    and f"{info.bucket}/{info.key}".startswith(path_prefix)
                ]
        except NotFound:
            continue  # the bucket is made with the function; without it there is nothing to fill back


async def never_run(ledger: Ledger, function: Function, events: list[BucketEvent]) -> list[tuple[BucketEvent, str]]:
    """Those events whose invocation has no record, with its id."""
    ids = {verdict(function, event).invocation: event for event in events}
    known = await ledger.known(list(ids))
    return [(event, identity) for identity, event in ids.items() if identity not in known]


async def replayable(ledger: Ledger, command: Command) -> AsyncIterator[list[Record]]:
    """Pages of the records that a replay would run again."""
    if command.invocation:
        record = await ledger.get(command.invocation)
        phases = ENDED if command.force else REPLAYABLE
        yield [record] if record is not None and record.phase in phases else []
        return
    query = replay_query(command)
    while True:
        page = await ledger.query(query)
        # What replay queued leaves the phases asked for, so the pages are read by position, oldest first, and a
        # record queued again by this command does not come back: its queued time moved behind `until`.
        yield page.records
        if not page.next:
            return
        query = msgspec.structs.replace(query, page=page.next)


def replay_query(command: Command) -> RecordQuery:
    """The query behind a replay: `failed` and `dead`, or everything that ended when it is forced."""
    return RecordQuery(
        function_uid=command.function_uid,
        phases=ENDED if command.force else REPLAYABLE,
        since_ms=command.since_ms,
        path_prefix=command.key_prefix,
        oldest_first=True,
        limit=PAGE,
    )
