"""Functions: validate, apply, list, show, delete, pause, resume."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from gateway.access import may_see
from gateway.api import owned, views, wire
from gateway.api.context import CALLER, SERVICES
from gateway.deploy import Deployer, Scripts
from penstock.errors import InvalidInput
from penstock.model import Phase

routes = web.RouteTableDef()


class ApplyOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An FDL text and the scripts that it names, by the paths that stand in it."""

    fdl: str
    scripts: dict[str, str] = {}


@routes.post("/v1/validate")
async def validate(request: web.Request) -> web.Response:
    """The body is an FDL text whose scripts are inline, or as for apply when it is labelled JSON. Changes nothing."""
    if request.content_type == "application/json":
        order = await wire.read_document(request, ApplyOrder)
        plan = await deployer(request).plan(order.fdl, Scripts(order.scripts))
    else:
        limit = request.app[SERVICES].settings.http.max_document_bytes
        body = await wire.read_body(request, limit, what="the document")
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput("this is not UTF-8 text", where="request body") from error
        plan = await deployer(request).plan(text, None)
    names = [step.function.name for step in plan.steps]
    return wire.json_answer({"functions": names, "warnings": list(plan.warnings)})


@routes.post("/v1/apply")
async def apply(request: web.Request) -> web.Response:
    """All functions of the document, or none. Answers once the definitions are durable."""
    wire.known_only(request.query, "dry_run")
    order = await wire.read_document(request, ApplyOrder)
    deploying = deployer(request)
    plan = await deploying.plan(order.fdl, Scripts(order.scripts))
    plan = await deploying.permit(plan, request[CALLER])
    done = plan.outcome if wire.flag(request.query, "dry_run") else await deploying.apply(plan)
    return wire.json_answer(done)


@routes.get("/v1/functions")
async def list_functions(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    caller = request[CALLER]
    functions = [one for one in await services.registry.list() if may_see(caller, one)]
    counts = await services.ledger.counts()
    shown = [views.function(function, caller, counts.get(function.uid, {})) for function in functions]
    return wire.json_answer({"functions": shown})


@routes.get("/v1/functions/{name}")
async def show(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    function = await owned.visible(request)
    counts: Mapping[Phase, int] = (await services.ledger.counts(function.uid)).get(function.uid, {})
    return wire.json_answer(views.function(function, request[CALLER], counts))


@routes.delete("/v1/functions/{name}")
async def delete(request: web.Request) -> web.Response:
    """Durable when answered; queued and running work is cancelled and recorded by the dispatcher. Buckets stay."""
    await deployer(request).remove((await owned.changeable(request)).name)
    return web.Response(status=204)


@routes.post("/v1/functions/{name}/pause")
async def pause(request: web.Request) -> web.Response:
    return await _pause(request, paused=True)


@routes.post("/v1/functions/{name}/resume")
async def resume(request: web.Request) -> web.Response:
    return await _pause(request, paused=False)


async def _pause(request: web.Request, *, paused: bool) -> web.Response:
    await deployer(request).pause((await owned.changeable(request)).name, paused=paused)
    return web.Response(status=204)


def deployer(request: web.Request) -> Deployer:
    services = request.app[SERVICES]
    return Deployer(
        registry=services.registry,
        store=services.store,
        make_folder=services.make_folder,
        book=services.book,
        settings=services.settings.gateway,
        require_image=services.require_image,
    )
