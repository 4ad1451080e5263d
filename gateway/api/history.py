"""Backfill (objects that never ran) and replay (what failed, again): counted first, then ordered as one command."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from dispatcher import matching
from gateway.api import owned, wire
from gateway.api.context import CALLER, SERVICES, Services
from gateway.api.invocations import describe, order
from penstock import answers
from penstock.clock import now_ms
from penstock.errors import InvalidInput, Unavailable
from penstock.model import Command, CommandKind, Function

routes = web.RouteTableDef()

EXAMPLES = 20


class RunAgainOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of a function's history: `prefix` of BUCKET/KEY. `dry_run` counts only."""

    prefix: str = ""
    since_ms: int = 0
    force: bool = False
    dry_run: bool = False


@routes.post("/v1/functions/{name}/backfill")
async def backfill(request: web.Request) -> web.Response:
    return await _run_again(request, CommandKind.BACKFILL)


@routes.post("/v1/functions/{name}/replay")
async def replay(request: web.Request) -> web.Response:
    return await _run_again(request, CommandKind.REPLAY)


async def _run_again(request: web.Request, kind: CommandKind) -> web.Response:
    services = request.app[SERVICES]
    function = await owned.changeable(request)
    asked = await wire.read_document(request, RunAgainOrder, optional=True)
    if asked.since_ms and kind is CommandKind.BACKFILL:
        raise InvalidInput("backfill takes objects of any age; narrow it with `prefix`", where="since_ms")
    command = Command(
        id=secrets.token_hex(16),
        kind=kind,
        time_ms=now_ms(),
        function=function.name,
        function_uid=function.uid,
        key_prefix=asked.prefix,
        since_ms=asked.since_ms,
        force=asked.force,
        user=request[CALLER].user,
    )
    if kind is CommandKind.BACKFILL:
        # Files copied in just before are meant too; after this time they can be told from half written ones.
        await asyncio.sleep(services.settle_s)
    matched, examples = 0, list[str]()
    async for names in _matches(services, function, command):
        matched += len(names)
        examples += names[: EXAMPLES - len(examples)]
    if asked.dry_run:
        return wire.json_answer(answers.Matched(matched=matched, examples=tuple(examples)))
    await order(services, command)
    return wire.json_answer(answers.Matched(matched=matched, command=command.id), status=202)


async def _matches(services: Services, function: Function, command: Command) -> AsyncIterator[list[str]]:
    """What the dispatcher would take, by the dispatcher's own rules. Raises Unavailable while it starts."""
    if services.waiting_for():
        raise Unavailable(f"the server is starting and waits for {', '.join(services.waiting_for())}; try again soon")
    if command.kind is CommandKind.BACKFILL:
        async for events in matching.existing(services.store, function, command.key_prefix):
            fresh = await matching.never_run(services.ledger, function, events)
            yield [f"{event.bucket}/{event.key}" for event, _ in fresh]
    if command.kind is CommandKind.REPLAY or command.force:
        async for records in matching.replayable(services.ledger, command):
            yield [describe(record) for record in records]
