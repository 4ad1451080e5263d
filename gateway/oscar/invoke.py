"""`/job` and `/run`: bodies posted to a function, asynchronously and synchronously.

The work is done by the same two functions as `/v1` uses; here are OSCAR's codes. Bodies are raw bytes whatever their
label, and the caller's credential goes no further than the gateway.
"""

from __future__ import annotations

from aiohttp import web

from gateway.api import runs, wire
from gateway.api.context import SERVICES
from gateway.oscar.bodies import Accepted
from penstock.errors import PenstockError
from penstock.model import Function, Phase

routes = web.RouteTableDef()


class TooMany(PenstockError):
    """The function has as much waiting as it may."""

    code = "too_many"


@routes.post("/job/{name}")
async def job(request: web.Request) -> web.Response:
    """201 once the submission is durable; it is listed from then on."""
    function = await runs.invoked(request)
    await _check_backlog(request, function)
    submission = await runs.received(request, function, answer=False)
    invocation = await runs.append(request.app[SERVICES], function, submission)
    location = {"Location": f"/system/logs/{function.name}/{invocation}", "X-Penstock-Job": invocation}
    return wire.json_answer(Accepted(job_id=invocation), status=201, headers=location)


@routes.post("/run/{name}")
async def run(request: web.Request) -> web.StreamResponse:
    """The function's own answer, once it is there."""
    function = await runs.invoked(request)
    await _check_backlog(request, function)
    return await runs.answered(request, function, request.app[SERVICES].settings.http.run_timeout_s)


async def _check_backlog(request: web.Request, function: Function) -> None:
    """Raises TooMany."""
    services = request.app[SERVICES]
    limit = services.settings.gateway.function_queued
    if not limit:
        return
    counts = await services.ledger.counts(function.uid)
    waiting = counts.get(function.uid, {}).get(Phase.QUEUED, 0) + services.changes.pending.count(function.uid)
    if waiting >= limit:
        raise TooMany(f"{waiting} invocations of {function.name} wait already, and {limit} may; try again later")
