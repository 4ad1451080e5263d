"""`/system/logs`: a service's jobs, their logs, and taking them off the list.

A job is an invocation. Whoever may not change the service sees and removes only what he sent himself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from gateway.access import Caller, may_change, owns_work
from gateway.api import wire
from gateway.api.context import CALLER, SERVICES, Services
from gateway.api.invocations import order_cancel
from gateway.api.logs import output
from gateway.api.owned import page_of, sender
from gateway.oscar import bodies
from gateway.oscar.removed import EVERYBODY, Removed, RemovedJobs, Sweep, whose
from gateway.oscar.services import visible
from penstock.clock import now_ms
from penstock.errors import InvalidInput, NotFound
from penstock.model import SYSTEM_BUCKET, Function, Phase, Record
from penstock.model.objects import log_key
from penstock.ports import RecordQuery

routes = web.RouteTableDef()

WORDS = ("Pending", "Running", "Succeeded", "Failed", "Suspended")
_STATUS = {Phase.RUNNING: "Running", Phase.SUCCEEDED: "Succeeded"}
_PHASES = {
    "pending": frozenset({Phase.QUEUED, Phase.PLANNED, Phase.SUBMITTED}),
    "suspended": frozenset({Phase.QUEUED}),
    "running": frozenset({Phase.RUNNING}),
    "succeeded": frozenset({Phase.SUCCEEDED}),
    "failed": frozenset({Phase.FAILED, Phase.DEAD, Phase.CANCELLED, Phase.SUPERSEDED, Phase.SKIPPED}),
}


@routes.get("/system/logs/{name}")
async def list_jobs(request: web.Request) -> web.Response:
    """Newest first, a page at a time."""
    function = await visible(request)
    records, token = await _page(request, function)
    jobs = {record.id: shown(record, function) for record in records}
    return wire.json_answer(bodies.JobList(jobs=jobs, next_page=token))


def shown(record: Record, function: Function) -> bodies.Job:
    """One of OSCAR's five words, the finer truth beside it."""
    status = _STATUS.get(record.phase, "Failed" if record.phase.final else "Pending")
    if record.phase is Phase.QUEUED and function.paused:
        status = "Suspended"
    return bodies.Job(
        status=status,
        creation_time=bodies.moment(record.queued_ms),
        start_time=bodies.moment(record.started_ms) if record.started_ms else "",
        finish_time=bodies.moment(record.finished_ms) if record.finished_ms else "",
        phase=record.phase.value,
        reason=record.reason,
        exit_code=record.exit_code,
        attempt=record.attempt,
    )


async def _page(request: web.Request, function: Function) -> tuple[list[Record], str]:
    """Records and the token of the next page. What is accepted and not yet recorded stands on the first page."""
    services, caller = request.app[SERVICES], request[CALLER]
    query = _query(request, function)
    removed = await RemovedJobs(services.store).of(function)
    waiting = [] if query.page else [one for one in services.changes.pending.all() if one.function_uid == function.uid]

    def keep(record: Record) -> bool:
        return _listed(record, function, caller, removed)

    page = await page_of(services.ledger, query, keep)
    found = page.records
    known = {record.id for record in found} | await services.ledger.known([one.id for one in waiting])
    fresh = [
        one
        for one in waiting
        if one.id not in known and (not query.phases or Phase.QUEUED in query.phases) and keep(one)
    ]
    if fresh or not waiting:
        return [*fresh, *found], page.next
    # Recorded since the page was read.
    late = await services.ledger.get_many([one.id for one in waiting])
    listed = {record.id for record in found}
    mine = [one for one in late.values() if one.id not in listed and _wanted(one, query) and keep(one)]
    return [*mine, *found], page.next


def _wanted(record: Record, query: RecordQuery) -> bool:
    return not query.phases or record.phase in query.phases


def _listed(record: Record, function: Function, caller: Caller, removed: Removed) -> bool:
    return owns_work(caller, function, sender(record)) and not removed.hides(record)


def _query(request: web.Request, function: Function) -> RecordQuery:
    """The filters of a listing; empty ones count as absent. Raises InvalidInput."""
    query = {name: value for name, value in request.query.items() if value}
    status = query.get("status", "").lower()
    if status and status not in _PHASES:
        raise InvalidInput(f"give one of {', '.join(WORDS)}, not {status[:40]!r}", where="?status")
    limit = request.app[SERVICES].settings.gateway.job_listing_limit
    return RecordQuery(
        function_uid=function.uid,
        phases=_PHASES.get(status, frozenset()),
        since_ms=wire.number(query, "since_ms", 0),
        until_ms=wire.number(query, "until_ms", 0),
        limit=wire.number(query, "limit", limit, low=1, high=1000),
        page=query.get("page", ""),
    )


@routes.delete("/system/logs/{name}")
async def remove_all(request: web.Request) -> web.Response:
    """Take what succeeded off the list, with `all=true` everything that has ended; what runs or waits is cancelled."""
    services, caller = request.app[SERVICES], request[CALLER]
    function = await visible(request)
    everything = wire.flag({name: value for name, value in request.query.items() if value}, "all")
    own = may_change(caller, function)
    if everything:
        async for record in _open(services, function):
            if owns_work(caller, function, sender(record)):
                await order_cancel(services, record, caller.user)
                await RemovedJobs(services.store).hide(function, record.id)
    # The moment is taken last: what ended while the open ones were read has ended by now.
    sweep = Sweep(now_ms(), not everything, EVERYBODY if own else whose(caller.uid))
    await RemovedJobs(services.store).sweep(function, sweep)
    return web.Response(status=204)


async def _open(services: Services, function: Function) -> AsyncIterator[Record]:
    """What has not ended, what is accepted and not yet recorded included."""
    for record in services.changes.pending.all():
        if record.function_uid == function.uid:
            yield record
    unended = frozenset(phase for phase in Phase if not phase.final)
    query = RecordQuery(function_uid=function.uid, phases=unended, limit=500, oldest_first=True)
    while True:
        page = await services.ledger.query(query)
        for record in page.records:
            yield record
        if not page.next:
            return
        query = msgspec.structs.replace(query, page=page.next)


@routes.get("/system/logs/{name}/{job}")
async def log(request: web.Request) -> web.StreamResponse:
    """The output of the last attempt: finite text, with `follow=true` on to its end."""
    services = request.app[SERVICES]
    function = await visible(request)
    record = await _job(request, function)
    query = {name: value for name, value in request.query.items() if value}
    follow, stamped = wire.flag(query, "follow"), wire.flag(query, "timestamps")
    tail = wire.number(query, "tail", 0, high=1_000_000)
    chunks = output(services, record, record.attempt, 0, follow=follow)
    if tail and not follow:
        chunks = _tail(chunks, tail)
    if stamped:
        chunks = _stamped(chunks, record)
    return await wire.stream(request, chunks, headers={"Content-Type": "text/plain; charset=utf-8"})


async def _stamped(chunks: AsyncIterator[bytes], record: Record) -> AsyncIterator[bytes]:
    """Each line behind the time at which its attempt began: finer times are not kept with a log."""
    stamp = bodies.moment(record.started_ms or record.queued_ms).encode() + b" "
    fresh = True
    async for chunk in chunks:
        lines = chunk.splitlines(keepends=True)
        marked = [stamp + line if index or fresh else line for index, line in enumerate(lines)]
        fresh = chunk.endswith(b"\n")
        yield b"".join(marked)


#: Bytes that are kept to find the last lines.
TAIL_BYTES = 4 * 1024 * 1024


async def _tail(chunks: AsyncIterator[bytes], lines: int) -> AsyncIterator[bytes]:
    kept = b""
    async for chunk in chunks:
        kept = (kept + chunk)[-TAIL_BYTES:]
    yield b"".join(kept.splitlines(keepends=True)[-lines:])


@routes.delete("/system/logs/{name}/{job}")
async def remove(request: web.Request) -> web.Response:
    """Off the list, and its log deleted; what has not ended is cancelled."""
    services, caller = request.app[SERVICES], request[CALLER]
    function = await visible(request)
    record = await _job(request, function)
    if not record.phase.final:
        await order_cancel(services, record, caller.user)
    await RemovedJobs(services.store).hide(function, record.id)
    for attempt in range(1, record.attempt + 1):
        await services.store.delete(SYSTEM_BUCKET, log_key(record.function_uid, record.id, attempt))
    return web.Response(status=204)


async def _job(request: web.Request, function: Function) -> Record:
    """The job in the path, if it is of this service, the caller's, and still listed. Raises NotFound."""
    services, name = request.app[SERVICES], request.match_info["job"]
    record = await services.ledger.get(name)
    if record is None:
        record = next((one for one in services.changes.pending.find(name) if one.id == name), None)
    caller = request[CALLER]
    if (
        record is None
        or record.function_uid != function.uid
        or not _listed(record, function, caller, await RemovedJobs(services.store).of(function))
    ):
        raise NotFound(f"the service {function.name} has no job {name[:64]} that you may see")
    return record
