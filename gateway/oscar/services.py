"""`/system/services`: create, list, read, update and delete functions, as OSCAR's clients do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from gateway.access import may_change, may_see
from gateway.api import wire
from gateway.api.context import CALLER, SERVICES, Services
from gateway.api.functions import deployer
from gateway.oscar import shown
from penstock.codec import decode_body
from penstock.errors import AlreadyExists, Forbidden, InvalidInput, NotFound
from penstock.model import Function, Phase

routes = web.RouteTableDef()

RENDERED: web.AppKey[shown.Rendered] = web.AppKey("rendered", shown.Rendered)

_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)")
_UNFIT = re.compile(r"[^ -~]+")
LONGEST_HEADER = 1000
_RUNNING = (Phase.PLANNED, Phase.SUBMITTED, Phase.RUNNING)


@routes.post("/system/services")
async def create(request: web.Request) -> web.Response:
    """201 once the definition is durable; nothing is left behind by one that fails."""
    services, caller = request.app[SERVICES], request[CALLER]
    body = await read_object(request)
    name = str(body.get("name") or "")
    if services.registry.find(name) is not None:
        raise AlreadyExists(f"a service named {name} exists already; update it with PUT, or choose another name")
    deploying = deployer(request)
    plan = await deploying.plan_service(body)
    if any(step.base is not None for step in plan.steps):
        raise AlreadyExists(f"a service named {name} exists already; update it with PUT, or choose another name")
    await deploying.apply(await deploying.permit(plan, caller))
    return web.Response(status=201, headers=_warned(plan.warnings))


@routes.put("/system/services")
async def update(request: web.Request) -> web.Response:
    """The body's `name` selects. The same body again changes nothing."""
    caller = request[CALLER]
    body = await read_object(request)
    deploying = deployer(request)
    plan = await deploying.plan_service(body)
    for step in plan.steps:
        if step.base is None:
            raise NotFound(f"there is no service named {step.function.name}; create it with POST")
    await deploying.apply(await deploying.permit(plan, caller))
    return web.Response(status=204, headers=_warned(plan.warnings))


@routes.get("/system/services")
async def list_services(request: web.Request) -> web.Response:
    services, caller = request.app[SERVICES], request[CALLER]
    functions = [one for one in await services.registry.list() if may_see(caller, one)]
    if request.query.get("include") == "deployment":
        counts = await services.ledger.counts()
        listed: list[Any] = [_shown(request, one, counts=counts) for one in functions]
    else:
        kept, place, ports = request.app[RENDERED], services.storage.place, not _is_go(request)
        listed = [kept.of(one, caller, place, ports=ports) for one in functions]
        kept.keep_only(services.registry.known())
    return wire.json_answer(listed)


@routes.get("/system/services/{name}")
async def show(request: web.Request) -> web.Response:
    function = await visible(request)
    if request.query.get("include") == "deployment":
        return wire.json_answer(_shown(request, function, counts=await _counts(request, function)))
    return wire.json_answer(_shown(request, function))


@routes.delete("/system/services/{name}")
async def delete(request: web.Request) -> web.Response:
    """Running work is cancelled and recorded; buckets and objects stay."""
    function = await changeable(request)
    await deployer(request).remove(function.name)
    return web.Response(status=204)


@routes.get("/system/services/{name}/deployment")
async def deployment(request: web.Request) -> web.Response:
    function = await visible(request)
    counts = await _counts(request, function)
    return wire.json_answer(_deployment(request.app[SERVICES], function, counts))


# ---- for the other modules


async def visible(request: web.Request) -> Function:
    """The function in the path. Raises InvalidInput (no possible name), NotFound, Forbidden."""
    function = await _named(request)
    if not may_see(request[CALLER], function):
        raise Forbidden(f"the service {function.name} is not shared with you")
    return function


async def changeable(request: web.Request) -> Function:
    """As `visible`, for its owner and the administrator alone."""
    function = await _named(request)
    if not may_change(request[CALLER], function):
        raise Forbidden(f"the service {function.name} belongs to somebody else: only its owner may change it")
    return function


async def _named(request: web.Request) -> Function:
    name = request.match_info["name"]
    if not _LABEL.fullmatch(name):
        raise InvalidInput(f"{name[:80]!r} cannot be a service's name: use lower-case letters, digits and hyphens")
    return await request.app[SERVICES].registry.get(name)


async def read_object(request: web.Request) -> dict[str, Any]:
    """A JSON object, whatever the body's label. Raises InvalidInput, TooLarge."""
    limit = request.app[SERVICES].settings.http.max_document_bytes
    data = await wire.read_body(request, limit, what="the document")
    body = decode_body(data, object)
    if not isinstance(body, dict):
        raise InvalidInput(f"a JSON object is needed, not {type(body).__name__}", where="request body")
    return body


async def _counts(request: web.Request, function: Function) -> Mapping[str, Mapping[Phase, int]]:
    return await request.app[SERVICES].ledger.counts(function.uid)


def _shown(
    request: web.Request, function: Function, *, counts: Mapping[str, Mapping[Phase, int]] | None = None
) -> dict[str, Any]:
    services, caller = request.app[SERVICES], request[CALLER]
    state = None if counts is None else _deployment(services, function, counts)
    return shown.service(function, caller, services.storage.place, ports=not _is_go(request), deployment=state)


def _deployment(services: Services, function: Function, counts: Mapping[str, Mapping[Phase, int]]) -> Any:
    phases = counts.get(function.uid, {})
    running = sum(phases.get(phase, 0) for phase in _RUNNING)
    waiting = phases.get(Phase.QUEUED, 0)
    why = f"{waiting} invocations wait" if waiting else ""
    return shown.deployment(function, running=running, why=why, namespace=services.settings.kubernetes.namespace)


def _is_go(request: web.Request) -> bool:
    return request.headers.get("User-Agent", "").startswith(shown.GO_CLIENT)


def _warned(warnings: tuple[str, ...]) -> dict[str, str]:
    """What the parser found odd, as a header: bodies of these answers must stay empty."""
    if not warnings:
        return {}
    return {"X-Penstock-Warnings": _UNFIT.sub(" ", " | ".join(warnings))[:LONGEST_HEADER].strip()}
