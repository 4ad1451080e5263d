"""The aiohttp application: routes, middlewares in their order, and the services every handler gets."""

from __future__ import annotations

from aiohttp import web

from gateway.api import (
    auth,
    changes,
    cors,
    dead,
    errors,
    functions,
    health,
    history,
    invocations,
    nodes,
    objects,
    runs,
    status,
)
from gateway.api.context import GATE, SERVICES, Services
from gateway.api.gate import Gate, let_in
from gateway.openapi import routes as openapi
from gateway.oscar import buckets, invoke, jobs, system
from gateway.oscar import services as system_services
from gateway.oscar.shown import Rendered


def make_app(services: Services, gate: Gate) -> web.Application:
    app = web.Application(
        # From the outside in: a request has an id before anything is said about it, and every refusal is worded alike.
        middlewares=[let_in, errors.request_scope, cors.answer_preflight, errors.map_errors, auth.authenticate],
        # Bodies are read by `wire`, which has its own limits.
        client_max_size=services.settings.http.max_document_bytes,
    )
    app[SERVICES] = services
    app[GATE] = gate
    app[system_services.RENDERED] = Rendered()
    app.on_response_prepare.append(errors.stamp)
    app.on_response_prepare.append(cors.permit)
    app.router.add_get("/health", health.health)
    app.router.add_get("/ready", health.ready)
    app.router.add_get("/metrics", health.metrics)
    ours = (status, functions, runs, history, invocations, dead, objects, changes)
    for subject in (*ours, system, system_services, buckets, jobs, invoke, openapi):
        app.router.add_routes(subject.routes)
    nodes.add(app, services.nodes)
    return app
