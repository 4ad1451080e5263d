"""Invocations: list, show, log, cancel."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from aiohttp import web

from gateway.api import views, wire
from gateway.api.context import CALLER, SERVICES, Caller, Services
from gateway.api.logs import output
from gateway.api.owned import page_of, sees_record
from penstock import answers
from penstock.clock import now_ms
from penstock.codec import encode
from penstock.errors import Conflict, InvalidInput, NotFound
from penstock.model import (
    TOPIC_COMMANDS,
    BucketEvent,
    Command,
    CommandKind,
    Phase,
    Record,
)
from penstock.ports import LogEntry, RecordQuery

routes = web.RouteTableDef()

MOST_LISTED = 1000
SHORTEST_ID = 6
_ID = re.compile(r"[0-9a-f]{1,64}")


@routes.get("/v1/invocations")
async def list_invocations(request: web.Request) -> web.Response:
    services, caller = request.app[SERVICES], request[CALLER]
    query = parse_query(request.query)

    def keep(record: Record) -> bool:
        return sees_record(services, caller, record)

    # Read before the ledger: what moves from here to there in between is then seen twice, never not at all.
    waiting = (
        [] if query.page or query.oldest_first else matching(query, list(filter(keep, services.changes.pending.all())))
    )
    page = await page_of(services.ledger, query, keep)
    listed = {record.id for record in page.records}
    fresh = [record for record in waiting if record.id not in listed]
    if fresh:
        known = await services.ledger.known([record.id for record in fresh])
        for invocation in known:
            services.changes.pending.known(invocation)
        fresh = [record for record in fresh if record.id not in known]
        if known:
            # Recorded since the page was read: on it, if its filters and its length let them be.
            page = await page_of(services.ledger, query, keep)
    shown = tuple(views.invocation(record) for record in [*fresh, *page.records])
    return wire.json_answer(answers.InvocationPage(invocations=shown, next=page.next))


def parse_query(query: Mapping[str, str]) -> RecordQuery:
    """The filters of a listing. Raises InvalidInput naming the parameter."""
    wire.known_only(query, "function", "phase", "since_ms", "until_ms", "prefix", "limit", "page", "oldest")
    named = [name for name in query.get("phase", "").split(",") if name]
    try:
        phases = frozenset(Phase(name) for name in named)
    except ValueError as error:
        known = ", ".join(Phase)
        raise InvalidInput(f"give phases of {known}, separated by commas", where="?phase") from error
    return RecordQuery(
        function=query.get("function", ""),
        phases=phases,
        since_ms=wire.number(query, "since_ms", 0),
        until_ms=wire.number(query, "until_ms", 0),
        path_prefix=query.get("prefix", ""),
        limit=wire.number(query, "limit", 100, low=1, high=MOST_LISTED),
        page=query.get("page", ""),
        oldest_first=wire.flag(query, "oldest"),
    )


def matching(query: RecordQuery, records: list[Record]) -> list[Record]:
    """Those of the not yet recorded submissions that the filters let through."""
    if query.path_prefix or (query.phases and Phase.QUEUED not in query.phases):
        return []
    return [
        record
        for record in records
        if (not query.function or record.function == query.function)
        and record.queued_ms >= query.since_ms
        and (not query.until_ms or record.queued_ms < query.until_ms)
    ][: query.limit]


@routes.get("/v1/invocations/{id}")
async def show(request: web.Request) -> web.Response:
    record = await found(request.app[SERVICES], request[CALLER], request.match_info["id"])
    return wire.json_answer(views.invocation(record, timeline=True))


@routes.get("/v1/invocations/{id}/log")
async def log(request: web.Request) -> web.StreamResponse:
    """The output of one attempt, from a byte offset; `follow=1` goes on until the attempt ends."""
    services = request.app[SERVICES]
    wire.known_only(request.query, "attempt", "offset", "follow")
    record = await found(services, request[CALLER], request.match_info["id"])
    attempt = wire.number(request.query, "attempt", record.attempt, low=1, high=10_000)
    offset = wire.number(request.query, "offset", 0)
    follow = wire.flag(request.query, "follow")
    chunks = output(services, record, attempt, offset, follow=follow)
    return await wire.stream(request, chunks, headers={"Content-Type": "text/plain; charset=utf-8"})


@routes.post("/v1/invocations/{id}/cancel")
async def cancel(request: web.Request) -> web.Response:
    """202: the order is durable; the invocation ends as `cancelled` unless it ended by itself before."""
    services = request.app[SERVICES]
    record = await found(services, request[CALLER], request.match_info["id"])
    if record.phase.final:
        raise Conflict(f"invocation {record.id} has ended already: {record.phase.value}")
    command = await order_cancel(services, record, request[CALLER].user)
    return wire.json_answer({"command": command.id}, status=202)


async def order_cancel(services: Services, record: Record, user: str) -> Command:
    command = Command(
        id=secrets.token_hex(16),
        kind=CommandKind.CANCEL,
        time_ms=now_ms(),
        function=record.function,
        function_uid=record.function_uid,
        invocation=record.id,
        user=user,
    )
    await order(services, command)
    return command


async def order(services: Services, command: Command) -> None:
    """Append a command durably; the dispatcher carries it out."""
    await services.log.append(TOPIC_COMMANDS, [LogEntry(command.function_uid, encode(command))])


async def found(services: Services, caller: Caller, name: str) -> Record:
    """The record of an id or of a unique beginning of one, if the caller may see it. Raises InvalidInput, NotFound."""
    if not _ID.fullmatch(name):
        raise InvalidInput(f"{name[:60]!r} is not the id of an invocation: it has only hexadecimal digits")
    waiting = services.changes.pending.find(name)
    exact = await services.ledger.get(name)
    if exact is not None and sees_record(services, caller, exact):
        return exact
    if len(name) < SHORTEST_ID:
        raise InvalidInput(f"{name!r} is too short: give at least {SHORTEST_ID} digits of the invocation's id")
    listed = [*waiting, *await services.ledger.find(name)]
    records = {record.id: record for record in listed if sees_record(services, caller, record)}
    if not records:
        raise NotFound(f"there is no invocation whose id begins with {name}")
    if len(records) > 1:
        raise InvalidInput(f"several invocations begin with {name}: {', '.join(sorted(records)[:5])}; give more digits")
    return next(iter(records.values()))


def describe(record: Record) -> str:
    """One line for people: which input."""
    trigger = record.trigger
    if isinstance(trigger, BucketEvent):
        return f"{trigger.bucket}/{trigger.key}"
    return f"submission {trigger.id}"
