"""What needs a person: events that could not be turned into work, and invocations whose retries are used up."""

from __future__ import annotations

import base64
import secrets
from typing import Any

import msgspec
from aiohttp import web

from dispatcher.dead import letters
from gateway.api import views, wire
from gateway.api.context import CALLER, SERVICES, Services
from gateway.api.invocations import order
from penstock.clock import now_ms
from penstock.errors import NotFound, Unsupported
from penstock.model import Command, CommandKind, DeadLetter, Phase, Record
from penstock.ports import RecordQuery

routes = web.RouteTableDef()

MOST_LISTED = 1000
#: Bytes of an original that the list shows; the single view shows all.
SHOWN_BYTES = 1024


@routes.get("/v1/dead")
async def list_dead(request: web.Request) -> web.Response:
    """Newest first, at most `limit` of each kind."""
    services = request.app[SERVICES]
    wire.known_only(request.query, "limit")
    limit = wire.number(request.query, "limit", 100, low=1, high=MOST_LISTED)
    buried = list((await letters(services.log)).values())[::-1][:limit]
    page = await services.ledger.query(RecordQuery(phases=frozenset({Phase.DEAD}), limit=limit))
    shown = [letter_view(letter, SHOWN_BYTES) for letter in buried] + [record_view(one) for one in page.records]
    shown.sort(key=lambda one: one["time_ms"], reverse=True)
    return wire.json_answer({"dead": shown})


@routes.get("/v1/dead/{id}")
async def show(request: web.Request) -> web.Response:
    letter, record = await _found(request.app[SERVICES], request.match_info["id"])
    if letter is not None:
        return wire.json_answer(letter_view(letter, len(letter.original)))
    assert record is not None
    return wire.json_answer(record_view(record, timeline=True))


@routes.post("/v1/dead/{id}/retry")
async def retry(request: web.Request) -> web.Response:
    """A dead letter goes back into its topic, a dead invocation gets a further attempt."""
    services = request.app[SERVICES]
    letter, record = await _found(services, request.match_info["id"])
    kind = CommandKind.RETRY_DEAD if letter is not None else CommandKind.REPLAY
    return await _ordered(request, kind, letter, record)


@routes.delete("/v1/dead/{id}")
async def drop(request: web.Request) -> web.Response:
    letter, record = await _found(request.app[SERVICES], request.match_info["id"])
    if letter is None:
        raise Unsupported(
            "a dead invocation is part of the history and expires with it; retry it, or leave it where it is"
        )
    return await _ordered(request, CommandKind.DROP_DEAD, letter, record)


async def _ordered(
    request: web.Request, kind: CommandKind, letter: DeadLetter | None, record: Record | None
) -> web.Response:
    command = Command(
        id=secrets.token_hex(16),
        kind=kind,
        time_ms=now_ms(),
        function=record.function if record is not None else "",
        function_uid=record.function_uid if record is not None else "",
        invocation=letter.id if letter is not None else record.id if record is not None else "",
        user=request[CALLER].user,
    )
    await order(request.app[SERVICES], command)
    return wire.json_answer({"command": command.id}, status=202)


async def _found(services: Services, name: str) -> tuple[DeadLetter | None, Record | None]:
    """Exactly one of the two. Raises NotFound."""
    letter = (await letters(services.log)).get(name)
    if letter is not None:
        return letter, None
    record = await services.ledger.get(name)
    if record is None or record.phase is not Phase.DEAD:
        raise NotFound(f"there is no dead letter and no dead invocation {name[:64]}; GET /v1/dead lists them")
    return None, record


def letter_view(letter: DeadLetter, most: int) -> dict[str, Any]:
    return {
        "kind": "event",
        "id": letter.id,
        "function": letter.function,
        "error": letter.error,
        "message": letter.message,
        "time_ms": letter.time_ms,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "attempts": letter.attempts,
        "size": len(letter.original),
        "original": base64.b64encode(letter.original[:most]).decode("ascii"),
        "truncated": len(letter.original) > most,
    }


def record_view(record: Record, *, timeline: bool = False) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(views.invocation(record, timeline=timeline))
    return {"kind": "invocation", **shown, "message": record.reason, "time_ms": record.finished_ms or record.queued_ms}
