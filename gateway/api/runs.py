"""Bodies posted to a function: `submit` (asynchronous) and `run` (synchronous).

Both append one submission to the event log and answer for what is durable. The body is taken as raw bytes whatever its
label says, because clients label the same base64 text in three ways.
"""

from __future__ import annotations

import asyncio
import secrets

import msgspec
from aiohttp import web

from dispatcher.process_runner import read_answer
from gateway.api import owned, wire
from gateway.api.context import CALLER, SERVICES, Services
from gateway.resident import http as resident
from penstock.client_errors import RunFailed, RunTimedOut
from penstock.clock import now_ms
from penstock.codec import encode
from penstock.errors import InvalidInput, NotFound, PenstockError, Unavailable
from penstock.identity import invocation_id
from penstock.model import SYSTEM_BUCKET, TOPIC_EVENTS, ErrorClass, Function, Phase, Record, Submission
from penstock.model.objects import answer_key, log_key, payload_key
from penstock.ports import LogEntry
from penstock.tracing import TRACEPARENT, parsed

routes = web.RouteTableDef()

#: Larger bodies are stored as an object first: they would bloat the log, the ledger and every record.
INLINE_BYTES = 64 * 1024
#: End of the log that a failed run's answer quotes.
QUOTED_BYTES = 2048
LONGEST_RUN_S = 24 * 3600.0
#: A lost message must not leave a caller waiting: the ledger is asked this often as well.
RECHECK_S = 5.0


class BodyRefused(RunFailed):
    """The body was no input for a function: the caller's mistake, not the script's."""

    code = "invalid"


@routes.post("/v1/functions/{name}/submit")
async def submit(request: web.Request) -> web.Response:
    """201 with the id of the invocation, which is durable and listed by then."""
    services = request.app[SERVICES]
    function = await invoked(request)
    submission = await received(request, function, answer=False)
    invocation = await append(services, function, submission)
    location = {"Location": f"/v1/invocations/{invocation}"}
    return wire.json_answer({"invocation": invocation}, status=201, headers=location)


@routes.post("/v1/functions/{name}/run")
async def run(request: web.Request) -> web.StreamResponse:
    """Wait for the end and answer with the function's own answer."""
    wire.known_only(request.query, "timeout_s")
    timeout_s = _timeout(request.query.get("timeout_s"), request.app[SERVICES].settings.http.run_timeout_s)
    return await answered(request, await invoked(request), timeout_s)


async def answered(request: web.Request, function: Function, timeout_s: float) -> web.StreamResponse:
    """Post the request's body, wait, and pass the answer on. Raises RunFailed, RunTimedOut and as `received`."""
    services = request.app[SERVICES]
    if services.synchronous is not None:
        return await resident.answered(services.synchronous, request, function, timeout_s)
    submission = await received(request, function, answer=True)
    invocation = invocation_id(function.uid, submission.identity)
    with services.changes.expect(invocation) as ended:
        await append(services, function, submission)
        record = await _ending(services, invocation, ended, timeout_s)
    if record is None:
        raise RunTimedOut(
            f"no answer within {timeout_s:g} s; the work goes on as invocation {invocation}", invocation=invocation
        )
    if record.phase is not Phase.SUCCEEDED:
        refused = BodyRefused if record.error is ErrorClass.INVALID else RunFailed
        raise refused(await _failure(services, record), invocation=invocation)
    headers = {"Content-Type": "text/plain", "X-Penstock-Invocation": invocation, "X-Penstock-Job": invocation}
    chunks = read_answer(services.store, record.function_uid, record.id, record.attempt)
    response = await wire.stream(request, chunks, headers=headers)
    await services.store.delete(SYSTEM_BUCKET, answer_key(record.function_uid, record.id, record.attempt))
    return response


def _timeout(given: str | None, default: float) -> float:
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= LONGEST_RUN_S:
        raise InvalidInput(f"give seconds above 0 and up to {LONGEST_RUN_S:g}, not {given[:40]!r}", where="?timeout_s")
    return seconds


async def invoked(request: web.Request) -> Function:
    """The function in the path, while new work is taken. Raises NotFound, Forbidden, Unavailable."""
    if request.app[SERVICES].stopping():
        raise Unavailable("the server is stopping and takes no new work; try again when it is back")
    return await owned.visible(request)


async def received(request: web.Request, function: Function, *, answer: bool) -> Submission:
    """Read the body; a large one is stored before it is referred to. Raises TooLarge, Unavailable, OutOfSpace."""
    services = request.app[SERVICES]
    body = await wire.read_body(request, services.settings.http.max_payload_bytes, what="the body")
    submission = Submission(
        function=function.name,
        function_uid=function.uid,
        id=secrets.token_hex(16),
        time_ms=now_ms(),
        body=body,
        content_type=request.headers.get("Content-Type", "")[:200],
        size=len(body),
        user=request[CALLER].uid,
        answer=answer,
        trace=parsed(request.headers.get(TRACEPARENT, "")),
    )
    if len(body) <= INLINE_BYTES:
        return submission
    key = payload_key(function.uid, submission.id)
    await services.store.write(SYSTEM_BUCKET, key, body)
    return msgspec.structs.replace(submission, body=b"", body_key=key)


async def append(services: Services, function: Function, submission: Submission) -> str:
    """Make a submission durable; returns its invocation, listed from now on. Raises Unavailable, OutOfSpace."""
    invocation = invocation_id(function.uid, submission.identity)
    pending = services.changes.pending
    pending.add(invocation, function, submission)
    try:
        await services.log.append(TOPIC_EVENTS, [LogEntry(function.name, encode(submission))])
    except PenstockError:
        # Nothing was appended, so nobody will ever read the stored body.
        pending.known(invocation)
        if submission.body_key is not None:
            await services.store.delete(SYSTEM_BUCKET, submission.body_key)
        raise
    return invocation


async def _ending(
    services: Services, invocation: str, ended: asyncio.Future[Record], timeout_s: float
) -> Record | None:
    """The final record; None = not in time."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while (left := deadline - asyncio.get_running_loop().time()) > 0:
        done, _ = await asyncio.wait({ended}, timeout=min(left, RECHECK_S))
        if done:
            return ended.result()
        known = await services.ledger.get(invocation)
        if known is not None and known.phase.final:
            return known
    return None


async def _failure(services: Services, record: Record) -> str:
    said = record.reason or record.phase.value
    if record.error is ErrorClass.SCRIPT and record.exit_code is not None:
        said = f"the script ended with code {record.exit_code}"
    await services.store.delete(SYSTEM_BUCKET, answer_key(record.function_uid, record.id, record.attempt))
    quoted = await _log_end(services, record)
    return f"{said} (invocation {record.id})" + (f"\n{quoted}" if quoted else "")


async def _log_end(services: Services, record: Record) -> str:
    key = log_key(record.function_uid, record.id, record.attempt)
    try:
        size = (await services.store.head(SYSTEM_BUCKET, key)).size
        start = max(0, size - QUOTED_BYTES)
        parts = [chunk async for chunk in services.store.read(SYSTEM_BUCKET, key, start=start)]
    except NotFound:
        return ""
    text = b"".join(parts).decode("utf-8", "replace")
    # A line cut in the middle says less than none.
    return (text.partition("\n")[2] or text if start else text).rstrip()
