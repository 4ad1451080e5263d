"""The aiohttp application: routes, middlewares in their order, and the services every handler gets."""

from __future__ import annotations

from aiohttp import web

from gateway.api import auth, changes, dead, errors, functions, health, history, invocations, objects, runs, status
from gateway.api.context import GATE, SERVICES, Services
from gateway.api.gate import Gate, let_in


def make_app(services: Services, gate: Gate) -> web.Application:
    app = web.Application(
        # From the outside in: a request has an id before anything is said about it, and every refusal is worded alike.
        middlewares=[let_in, errors.request_scope, errors.map_errors, auth.authenticate],
        # Bodies are read by `wire`, which has its own limits.
        client_max_size=services.settings.http.max_document_bytes,
    )
    app[SERVICES] = services
    app[GATE] = gate
    app.on_response_prepare.append(errors.stamp)
    app.router.add_get("/health", health.health)
    app.router.add_get("/ready", health.ready)
    app.router.add_get("/metrics", health.metrics)
    for subject in (status, functions, runs, history, invocations, dead, objects, changes):
        app.router.add_routes(subject.routes)
    return app
